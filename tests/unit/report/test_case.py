"""Which problem a person means, and what is read of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentctl.errors import Exit, UserError
from latentctl.report import case as cases
from latentctl.report.case_files import find
from tests.web.case_runs import fill, latent, make_run, sample, stage, step, trace, write_rows, wrong


def ids(n: int) -> list[str]:
    return [f"gsm8k-test-{i}" for i in range(n)]


def chosen(tmp_path: Path, text: str, names: list[str]) -> str:
    run = make_run(tmp_path / "r", {"score": "eval"})
    fill(run, [sample(i) for i in names])
    return cases.by_id(find(tmp_path, "r").rows, text).key[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gsm8k-test-3", "gsm8k-test-3"),
        ("3", "gsm8k-test-3"),  # the end of an id goes before the n-th problem
        ("test-11", "gsm8k-test-11"),
        ("12", "gsm8k-test-11"),  # no id ends in 12: the twelfth problem
    ],
)
def test_a_problem_is_meant_by_its_id_the_end_of_its_id_or_its_number(
    tmp_path: Path, text: str, found: str
) -> None:
    assert chosen(tmp_path, text, ids(12)) == found


def test_an_id_that_is_a_number_goes_before_the_nth_problem(tmp_path: Path) -> None:
    assert chosen(tmp_path, "3", ["7", "3", "5"]) == "3"


def test_a_prefix_means_the_only_id_that_begins_with_it(tmp_path: Path) -> None:
    assert chosen(tmp_path, "beta", ["alpha/x", "beta/y"]) == "beta/y"


def test_an_unknown_id_names_the_nearest_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        chosen(tmp_path, "gsm8k-tset-3", ids(12))
    assert error.value.code == Exit.NOT_FOUND
    assert "no problem 'gsm8k-tset-3' among 12" in str(error.value)
    assert "gsm8k-test-3" in str(error.value)


@pytest.mark.parametrize("text", ["0", "13", "-1", ""])
def test_a_number_outside_and_an_empty_id_are_not_found(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        chosen(tmp_path, text, [f"q{i}" for i in range(12)])
    assert error.value.code == Exit.NOT_FOUND


def test_an_ambiguous_id_lists_the_candidates(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        chosen(tmp_path, "x", ["a/x", "b/x", "c/y"])
    assert (error.value.kind, error.value.code) == ("ambiguous", Exit.NOT_FOUND)
    assert "a/x, b/x" in str(error.value)


def sharpness(*values: float) -> list[dict]:
    return [step(["a", "b", "c"], v) for v in values]


def test_the_worst_is_the_wrong_answer_with_the_largest_mean_entropy(tmp_path: Path) -> None:
    """Not the largest sum (more steps), not a correct one, though it is less sure than all."""
    run = make_run(tmp_path / "r", {"score": "eval"})
    rows = [wrong("long", **latent(4)), wrong("unsure", **latent(2)), sample("right", **latent(2))]
    rows += [wrong("untraced", **latent(2))]
    traces = [
        trace("long", sharpness(1.5, 1.5, 1.5, 1.5)),
        trace("unsure", sharpness(0.3, 1.0)),
        trace("right", sharpness(0.0, 0.0)),
    ]
    fill(run, rows, traces)
    at = find(tmp_path, "r")
    choice = cases.worst(at, at.rows)
    assert choice.key == ("unsure", 0)
    assert "largest mean entropy" in choice.words
    assert "1 without" in choice.words


def test_without_traces_the_worst_has_the_lowest_log_probability_per_token(tmp_path: Path) -> None:
    """Per token: a long sure answer has the lower sum."""
    run = make_run(tmp_path / "r", {"score": "eval"})
    fill(
        run,
        [
            wrong("long", logp_sum=-9.0, tokens=100),
            wrong("short", logp_sum=-3.0, tokens=3),
            sample("right", logp_sum=-50.0, tokens=2),
        ],
    )
    at = find(tmp_path, "r")
    choice = cases.worst(at, at.rows)
    assert choice.key == ("short", 0)
    assert "log-probability per token (-1;" in choice.words


def test_where_nothing_is_wrong_there_is_no_worst(tmp_path: Path) -> None:
    fill(make_run(tmp_path / "r", {"score": "eval"}), [sample("a"), sample("b")])
    at = find(tmp_path, "r")
    with pytest.raises(UserError, match="none of 2 answers of r/score is wrong"):
        cases.worst(at, at.rows)


def test_changed_lists_the_verdicts_that_differ_sample_by_sample(tmp_path: Path) -> None:
    fill(
        make_run(tmp_path / "a", {"score": "eval"}),
        [sample("x"), wrong("y"), sample("y", index=1), wrong("z")],
    )
    fill(
        make_run(tmp_path / "b", {"score": "eval"}),
        [wrong("x"), wrong("y"), sample("y", index=1), sample("w")],
    )
    a, b = find(tmp_path, "a"), find(tmp_path, "b")
    found, judged = cases.changed(a, b, a.rows)
    assert [(c.key, c.before["verdict"], c.after["verdict"]) for c in found] == [
        (("x", 0), "correct", "wrong")
    ]
    assert judged == 3


def test_runs_with_other_problems_cannot_be_compared(tmp_path: Path) -> None:
    fill(make_run(tmp_path / "a", {"score": "eval"}), [sample("x")])
    fill(make_run(tmp_path / "b", {"score": "eval"}), [sample("y")])
    a, b = find(tmp_path, "a"), find(tmp_path, "b")
    with pytest.raises(UserError, match="no judged samples in common"):
        cases.changed(a, b, a.rows)


def test_the_last_evaluation_with_samples_is_taken_unless_a_stage_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"one": "eval", "fit": "sft", "two": "eval", "three": "eval"})
    fill(run, [sample("a")], name="one")
    fill(run, [sample("b")], name="two")
    assert find(tmp_path, "r").stage == "two"
    assert find(tmp_path, "r").others == ["one"]
    assert find(tmp_path, "r/one").rows[0]["id"] == "a"
    assert find(tmp_path, str(run.root)).stage == "two"
    assert find(tmp_path, f"{run.root}/one").stage == "one"
    assert find(tmp_path, "r", like="one").stage == "one"
    assert find(tmp_path, "r", like="three").stage == "two"
    for text, words in (
        ("r/fit", "stage fit of r leaves no samples"),
        ("r/none", "has no stage 'none'"),
        ("r/three", "no samples yet"),
    ):
        with pytest.raises(UserError, match=words) as error:
            find(tmp_path, text)
        assert error.value.code == Exit.NOT_FOUND
    assert "one, two" in str(error.value)


def test_a_training_shows_the_newest_of_the_rollouts_that_were_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"rl": "grpo", "score": "eval"})
    rows = [sample(f"step {s}: p", index=i, **latent(3)) for s in (1, 11) for i in range(2)]
    write_rows(stage(run, "rl").rollouts, rows)
    at = find(tmp_path, "r")  # the evaluation has no samples yet
    assert (at.stage, at.notes, len(at.rows)) == ("rl", [], 4)
    assert cases.default(at, at.rows).key == ("step 11: p", 0)
    case = cases.case_of(at, ("step 11: p", 1))
    assert case is not None
    assert case.notes[0].startswith("latent steps of rollouts are not traced; evaluate")
    fill(run, [sample("a")])
    assert find(tmp_path, "r").stage == "score"
    assert find(tmp_path, "r/rl").others == ["score"]


def test_a_run_that_trains_alone_has_nothing_to_show(tmp_path: Path) -> None:
    make_run(tmp_path / "r", {"fit": "sft"})
    with pytest.raises(UserError, match="r has no evaluation"):
        find(tmp_path, "r")


def test_an_evaluation_that_still_runs_is_read_from_its_ranks(tmp_path: Path) -> None:
    """Each sample once, though a requeue wrote it twice; the line that is being written is no damage."""
    run = make_run(tmp_path / "r", {"score": "eval"})
    bare = {k: v for k, v in sample("a").items() if k not in ("verdict", "extracted", "reason")}
    write_rows(stage(run).rank_samples(0), [bare, {**bare, "id": "c"}])
    write_rows(stage(run).rank_samples(1), [{**bare, "id": "b"}, bare])
    with open(stage(run).rank_samples(1), "a") as f:
        f.write('{"id": "d", "ind')
    at = find(tmp_path, "r")
    assert [r["id"] for r in at.rows] == ["a", "c", "b"]
    assert not at.graded
    assert at.notes == ["r/score has not ended: 3 samples so far, none graded (latentctl status r)"]
    case = cases.case_of(at, ("b", 0))
    assert case is not None
    assert case.steps is None
    write_rows(stage(run).rank_samples(1).with_name("traces-00001.jsonl"), [trace("b", sharpness(1.0))])
    write_rows(stage(run).rank_samples(1), [{**bare, "id": "b", **latent(1)}])
    case = cases.case_of(find(tmp_path, "r"), ("b", 0))
    assert case is not None
    assert case.steps is not None
    with pytest.raises(UserError, match="no verdicts yet"):
        cases.worst(at, at.rows)


def test_damaged_lines_are_left_out_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"score": "eval"})
    fill(run, [sample("a")])
    path = stage(run).samples
    path.write_text("{broken\n" + path.read_text() + '{"id": "no index"}\n[1]\n', encoding="utf-8")
    at = find(tmp_path, "r")
    assert [r["id"] for r in at.rows] == ["a"]
    assert at.notes == [f"{path}:1 and 2 more lines: not a sample, left out"]


def test_a_chain_is_text_and_spans_in_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"score": "eval"})
    row = sample("a", text="so then 3", latents=5, latent_cause="entropy", spans=[[0, 2], [3, 3]])
    fill(run, [row], [trace("a", sharpness(1, 1, 1, 1, 1), spans=[[0, 2], [3, 3]])])
    case = cases.case_of(find(tmp_path, "r"), ("a", 0))
    assert case is not None
    assert list(case.chain()) == [range(0, 2), "so ", range(2, 5), "then 3"]
    assert case.steps is not None
    assert len(case.steps) == 5
    assert (case.number, case.problems, case.input) == (1, 1, "hidden")


@pytest.mark.parametrize("spans", [None, "x", [[0, "two"]], [[0, 9]], [[5, 1], [0, 1]], [3]])
def test_spans_that_do_not_fit_the_row_stand_in_front(tmp_path: Path, spans: object) -> None:
    run = make_run(tmp_path / "r", {"score": "eval"})
    fill(run, [sample("a", latents=2, latent_cause="fixed", spans=spans)])
    case = cases.case_of(find(tmp_path, "r"), ("a", 0))
    assert case is not None
    assert list(case.chain()) == [range(0, 2), "cup 3"]


@pytest.mark.parametrize(
    ("settings", "id", "words"),
    [
        ({"trace": "off"}, "q0", "`eval: {trace: full}`"),
        (
            {"trace_problems": 2},
            "q2",
            "only the first 2 problems are; evaluate again with `eval: {trace_problems: 3}`",
        ),
        ({}, "q0", "no trace of its latent steps is in"),
    ],
)
def test_a_missing_trace_says_why_and_how_to_get_it(
    tmp_path: Path, settings: dict, id: str, words: str
) -> None:
    run = make_run(tmp_path / "r", {"score": "eval"}, settings=settings)
    fill(run, [sample(f"q{i}", **latent(6)) for i in range(3)])
    case = cases.case_of(find(tmp_path, "r"), (id, 0))
    assert case is not None
    assert case.steps is None
    assert case.latents == 6
    (note,) = case.notes
    assert words in note


def test_a_damaged_trace_costs_its_own_sample_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"score": "eval"})
    fill(
        run,
        [wrong("a", **latent(1)), wrong("b", **latent(1)), wrong("c", **latent(2))],
        [
            {**trace("a", []), "steps": [{"entropy": "high"}]},
            trace("b", sharpness(1)),
            trace("c", sharpness(1)),
        ],
    )
    with open(stage(run).traces, "a") as f:
        f.write('{"id": "b", "index": 0, torn')
    at = find(tmp_path, "r")
    noted = {id: getattr(cases.case_of(at, (id, 0)), "notes", None) for id in "abc"}
    assert noted == {
        "a": ["the trace of this sample is damaged"],
        "b": [],
        "c": ["the trace has 1 of 2 latent steps"],
    }
    assert cases.worst(at, at.rows).key in (("b", 0), ("c", 0))


def test_a_verdict_that_is_missing_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"score": "eval"})
    fill(run, [sample("a", verdict=None)])
    case = cases.case_of(find(tmp_path, "r"), ("a", 0))
    assert case is not None
    assert case.notes == ["this sample has no verdict; `latentctl grade` judges again"]


def test_ids_with_quotes_and_line_ends_find_their_trace(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"score": "eval"})
    names = ['a"b', "a\\", "ä\n数"]
    fill(run, [sample(n, **latent(1)) for n in names], [trace(n, sharpness(1)) for n in names])
    # other writers lay a line out otherwise
    lines = stage(run).traces.read_text(encoding="utf-8").splitlines()
    turned = [json.dumps(dict(reversed(json.loads(line).items()))) for line in lines]
    at = find(tmp_path, "r")
    for _ in range(2):
        assert all((c := cases.case_of(at, (n, 0))) is not None and c.steps is not None for n in names)
        stage(run).traces.write_text("\n".join(turned), encoding="utf-8")
