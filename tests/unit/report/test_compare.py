"""What is compared with what, and what is marked or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evals_world import LATENT, SAMPLING, right, sample_rows, score, thinking, write_run, write_sweep

from latentctl.errors import Exit, UserError
from latentctl.record.atomic import write_text
from latentctl.record.paths import RunPaths
from latentctl.report.compare import MARKS, Row, compare
from latentctl.report.compare_text import flat, text
from latentctl.report.evals import Target, collect, evaluations, labels, targets
from latentctl.report.intervals import paired_difference

BASE = sample_rows(right(1, 1, 1, 0, 0, 0, 1, 0))
OTHER = sample_rows(right(1, 0, 1, 1, 1, 0, 1, 1))
Rows = list[dict[str, Any]]


def compared(*runs: RunPaths, baseline: int = 0) -> list[Row]:
    return compare([one for run in runs for one in evaluations(Target(run))], baseline)


def pair(
    root: Path, rows: Rows | None = OTHER, *, settings: dict[str, Any] | None = None, **more: Any
) -> tuple[Row, Row]:
    """The baseline and one other evaluation, whose result.json has `more`."""
    base = write_run(root, "base-00000000", {"score": (score(BASE), BASE)})
    numbers = score(OTHER if rows is None else rows) | more
    other = write_run(root, "other-00000000", {"score": (numbers, rows)}, settings=settings)
    first, second = compared(base, other)
    return first, second


def test_the_difference_is_over_the_same_problems(tmp_path: Path) -> None:
    base, other = pair(tmp_path)
    assert (base.difference, base.bounds, base.letters) == (None, None, "")
    assert other.letters == ""
    assert other.difference == pytest.approx(2 / 8)
    assert (other.common, other.better, other.worse) == (8, 3, 1)
    assert other.bounds == paired_difference([1, 0, 1, 1, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0, 1, 0])


def test_any_row_may_be_the_baseline(tmp_path: Path) -> None:
    base = write_run(tmp_path, "a-00000000", {"score": (score(BASE), BASE)})
    other = write_run(tmp_path, "b-00000000", {"score": (score(OTHER), OTHER)})
    first, second = compared(base, other, baseline=1)
    assert first.difference == pytest.approx(-2 / 8)
    assert second.difference is None


def changed(**new: Any) -> dict[str, Any]:
    return {**SAMPLING, **new}


UNFAIR: list[tuple[str, dict[str, Any], str, str]] = [
    ("another grader", {"grader": "numeric"}, "g", "grader numeric (1 has exact)"),
    ("temperature", {"sampling": changed(temperature=0.6)}, "s", "temperature 0.6 (1 has 0.0)"),
    ("another stop", {"sampling": changed(stop=["\n"])}, "s", 'stop ["\\n"] (1 has [])'),
    ("budget", {"sampling": changed(max_new_tokens=128)}, "b", "max_new_tokens 128 (1 has 64)"),
    ("think budget", {"sampling": changed(max_think_tokens=32)}, "b", "max_think_tokens 32 (1 has none)"),
    ("engine", {"engine": "vllm"}, "t", "engine vllm (1 has transformers)"),
    ("ungraded", {"graded_errors": 2}, "e", "2 answers could not be graded: counted as wrong"),
    ("a warning", {"warnings": ["0 of 8 answers could be read"]}, "w", "0 of 8 answers could be read"),
    ("edited result", {"accuracy": 0.9}, "x", "samples.jsonl says 75.0 % of 8, result.json 90.0 % of 8"),
    ("edited count", {"n": 9}, "x", "samples.jsonl says 75.0 % of 8, result.json 75.0 % of 9"),
]  # fmt: skip


@pytest.mark.parametrize(("_", "more", "letter", "words"), UNFAIR, ids=[u[0] for u in UNFAIR])
def test_what_differs_is_marked_and_said(
    tmp_path: Path, _: str, more: dict[str, Any], letter: str, words: str
) -> None:
    _base, other = pair(tmp_path, **more)
    assert other.letters == letter
    assert [m.text for m in other.marks] == [words]
    assert other.difference is not None, "a mark is no refusal"


CHANGED_ROWS: list[tuple[str, Callable[[], Rows], str, str, int | None]] = [
    ("another prompt", lambda: sample_rows(right(*[1] * 8), prompt="Solve: Q{i}\n"), "p",
     "another prompt for 8 of 8 problems, such as game-0", 8),
    ("a part of them", lambda: sample_rows(right(1, 0, 1)), "n",
     "compared on the 3 problems in common: it has 3, 1 has 8", 3),
    ("overlap", lambda: sample_rows(right(1, 0, 1, 1), first=6), "n",
     "compared on the 2 problems in common: it has 4, 1 has 8", 2),
    ("other gold answers",
     lambda: [*sample_rows(right(1, 1), gold="x"), *sample_rows(right(*[1] * 6), first=2)],
     "dn", "2 problems have the same id and another question or answer: game test, 1 has game test", 6),
    ("other data", lambda: sample_rows(right(1, 1, 0), dataset="other"), "d",
     "no problem in common, no difference: game test, 1 has game test", None),
    ("the same ids of other data", lambda: sample_rows(right(*[1] * 8), gold="z"), "d",
     "no problem in common, no difference: game test, 1 has game test", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("_", "rows", "letters", "words", "common"), CHANGED_ROWS, ids=[c[0] for c in CHANGED_ROWS]
)
def test_other_problems_are_marked_or_refused(
    tmp_path: Path, _: str, rows: Callable[[], Rows], letters: str, words: str, common: int | None
) -> None:
    _base, other = pair(tmp_path, rows())
    assert other.letters == letters
    assert words in [m.text for m in other.marks]
    if common is None:
        assert (other.difference, other.bounds, other.common) == (None, None, 0)
    else:
        assert other.common == common


def test_the_intersection_is_what_the_difference_says(tmp_path: Path) -> None:
    _base, other = pair(tmp_path, sample_rows(right(0, 1, 1, 1)))
    assert other.difference == pytest.approx(0.0)
    assert (other.better, other.worse) == (1, 1)


def test_more_samples_per_problem_are_compared_by_their_shares(tmp_path: Path) -> None:
    many = sample_rows([[True, False, True, True]] * 4 + [[False, False, True, True]] * 4)
    _base, other = pair(tmp_path, many, sampling=changed(temperature=1.0, samples=4))
    assert other.letters == "s"
    assert {m.text for m in other.marks} == {"temperature 1.0 (1 has 0.0), samples 4 (1 has 1)"}
    assert other.difference == pytest.approx(0.625 - 0.5)
    shares = [0.75] * 4 + [0.5] * 4
    assert other.bounds == paired_difference(shares, [1, 1, 1, 0, 0, 0, 1, 0])


def test_another_seed_is_no_mark(tmp_path: Path) -> None:
    _base, other = pair(tmp_path, sampling=changed(seed=7))
    assert other.letters == ""


def test_the_batch_tells_whether_seconds_can_be_compared(tmp_path: Path) -> None:
    block = {"eval": {"max_batch": 1, "max_batch_tokens": 32768, "precision": "auto"}}
    _base, other = pair(tmp_path, settings=block)
    assert [(m.letter, m.text) for m in other.marks] == [("t", "max_batch 1 (1 has 64)")]


def test_the_start_marker_of_a_latent_span_is_no_other_prompt(tmp_path: Path) -> None:
    rows = sample_rows(right(1, 0, 1, 1, 1, 0, 1, 1), prompt="Q{i}\n<|start-latent|>")
    _base, other = pair(tmp_path, rows, **thinking())
    assert other.letters == ""
    assert other.difference == pytest.approx(0.25)


def test_a_chat_template_that_opens_the_reasoning_gives_text_and_latents_the_same_prompt(
    tmp_path: Path,
) -> None:
    rows = sample_rows(right(*[1] * 8), prompt="Q{i}\n<think>")
    latent = {**LATENT, "markers": {"start": "<think>", "end": "</think>"}}
    base = write_run(tmp_path, "a-00000000", {"score": (score(rows), rows)})
    other = write_run(tmp_path, "b-00000000", {"score": (score(rows, **thinking(latent=latent)), rows)})
    assert compared(base, other)[1].letters == ""


def test_results_from_before_latent_steps_are_compared(tmp_path: Path) -> None:
    """Without sampling, latents_mean and hashes in result.json: spec.json says how text was drawn."""
    old = {k: v for k, v in score(OTHER).items() if k not in ("sampling", "latents_mean")}
    base = write_run(tmp_path, "base-00000000", {"score": (score(BASE), BASE)})
    other = write_run(tmp_path, "old-00000000", {"score": (old, OTHER)})
    hot = write_run(
        tmp_path, "hot-00000000", {"score": (old, OTHER)}, settings={"sampling": changed(temperature=1.0)}
    )
    rows = compared(base, other, hot)
    assert [row.letters for row in rows] == ["", "", "s"]
    line = flat(rows[1], rows[0])
    assert (line["latents_mean"], line["positions_mean"]) == (None, 40.0)


def test_sampling_that_one_of_them_did_not_record_is_not_taken_for_the_same(tmp_path: Path) -> None:
    old = {k: v for k, v in score(OTHER).items() if k != "sampling"}
    base = write_run(tmp_path, "base-00000000", {"score": (score(BASE), BASE)})
    other = write_run(tmp_path, "old-00000000", {"score": (old, OTHER)}, settings={"sampling": None})
    words = "recorded for one of them only"
    assert [(m.letter, m.text) for m in compared(base, other)[1].marks] == [("s", words), ("b", words)]
    row = compare([*evaluations(Target(other)), *evaluations(Target(other))])[1]
    assert {m.text for m in row.marks} == {"recorded for neither"}


BROKEN: list[tuple[str, bytes | None, str]] = [
    ("absent", None, "samples.jsonl is not there: no difference"),
    ("torn", b'{"id": "game-0", "verd', "samples.jsonl is damaged: no difference"),
    ("no rows", b"[1, 2]\n", "samples.jsonl is damaged: no difference"),
    ("not graded", b'{"id": "game-0", "index": 0}\n', "samples.jsonl is damaged: no difference"),
    ("no text", b"\xff\xfe\x00\n", "samples.jsonl is damaged: no difference"),
]


@pytest.mark.parametrize(("_", "content", "words"), BROKEN, ids=[b[0] for b in BROKEN])
def test_samples_that_cannot_be_read_leave_the_accuracy_and_no_difference(
    tmp_path: Path, _: str, content: bytes | None, words: str
) -> None:
    base = write_run(tmp_path, "base-00000000", {"score": (score(BASE), BASE)})
    other = write_run(tmp_path, "other-00000000", {"score": (score(OTHER), None)})
    if content is not None:
        other.job("all").stage("score").samples.write_bytes(content)
    row = compared(base, other)[1]
    assert [(m.letter, m.text) for m in row.marks] == [("u", words)]
    assert row.difference is None
    assert flat(row, row)["accuracy"] == 0.75
    back = compared(other, base)[1]
    assert back.difference is None
    reason = words.removesuffix(": no difference")
    assert [m.text for m in back.marks] == [f"no difference: 1 has none to compare with ({reason})"]


def test_a_damaged_result_and_an_unfinished_stage_stay_as_rows(tmp_path: Path) -> None:
    run = write_run(
        tmp_path, "a-00000000", {"score": (score(BASE), BASE), "more": (None, None), "bad": (None, None)}
    )
    write_text(run.job("all").stage("bad").result, '{"accuracy": 0.')
    rows = compared(run)
    assert [(r.evaluation.stage, [m.text for m in r.marks]) for r in rows] == [
        ("score", []),
        ("more", ["planned"]),
        ("bad", ["result.json is damaged"]),
    ]
    page = text(rows, rows[0])
    assert "2 u  planned" in page
    assert "3 u  result.json is damaged" in page


def test_an_unfinished_baseline_leaves_no_difference_and_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a-00000000", {"more": (None, None), "score": (score(BASE), BASE)})
    words = "no difference: 1 has none to compare with (planned)"
    assert [(m.letter, m.text) for m in compared(run)[1].marks] == [("u", words)]


@pytest.mark.parametrize("content", ["[]", '{"accuracy": null}', '{"accuracy": "high"}'])
def test_a_result_without_an_accuracy_says_so(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path, "a-00000000", {"score": (None, None)})
    write_text(run.job("all").stage("score").result, content)
    (row,) = compared(run)
    assert row.evaluation.lacking in ("result.json is damaged", "result.json holds no accuracy")
    assert row.letters == "u"


def test_a_debug_run_is_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a-00000000", {"score": (score(BASE), BASE)}, debug=True)
    assert compared(run)[0].letters == "r"


def test_every_letter_is_explained_once() -> None:
    assert len(set(MARKS.values())) == len(MARKS)
    used = {u[2] for u in UNFAIR} | {c for row in CHANGED_ROWS for c in row[2]} | {"u", "r"}
    assert used == set(MARKS), "a mark that no test brings about"


def test_names_mean_runs_stages_and_sweeps(tmp_path: Path) -> None:
    for name in ("grid-aaaaaaaa", "grid-bbbbbbbb", "single-cccccccc"):
        write_run(tmp_path, name, {"score": (score(BASE), BASE), "hard": (score(BASE), BASE)})
    write_sweep(tmp_path, "lr-dddddddd", {"grid-aaaaaaaa": {"train.lr": 1}, "grid-bbbbbbbb": {"train.lr": 2}})
    found = collect(targets(tmp_path, ["single/hard", "lr-d/score", "single/hard", "single"]))
    assert [(one.run, one.stage) for one in found] == [
        ("single-cccccccc", "hard"),
        ("grid-aaaaaaaa", "score"),
        ("grid-bbbbbbbb", "score"),
        ("single-cccccccc", "score"),
    ]
    assert [one.varies for one in found] == [{}, {"train.lr": 1}, {"train.lr": 2}, {}]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("nothing", "no run 'nothing'", "latentctl status --all"),
        ("trained/sft", "stage 'sft' of run trained-00000000 is no evaluation", "its evaluations: none"),
        ("scored/sft", "stage 'sft' of run scored-00000000 is no evaluation", "its evaluations: score"),
        ("scored/scor", "stage 'scor' of run scored-00000000 does not exist", "its evaluations: score"),
        ("trained", "run trained-00000000 has no evaluation", "latentctl eval"),
    ],
)
def test_a_name_without_an_evaluation_is_refused(tmp_path: Path, name: str, message: str, hint: str) -> None:
    write_run(tmp_path, "trained-00000000", {})
    write_run(tmp_path, "scored-00000000", {"score": (score(BASE), BASE)})
    with pytest.raises(UserError) as caught:
        collect(targets(tmp_path, [name]))
    assert caught.value.code == Exit.NOT_FOUND
    assert message in str(caught.value)
    assert hint in str(caught.value)


def test_a_point_that_is_gone_stays_as_a_row(tmp_path: Path) -> None:
    write_run(tmp_path, "grid-aaaaaaaa", {"score": (score(BASE), BASE)})
    write_sweep(tmp_path, "lr-dddddddd", {"grid-aaaaaaaa": {"lr": 1}, "grid-bbbbbbbb": {"lr": 2}})
    rows = compare(collect(targets(tmp_path, ["lr-dddddddd"])))
    assert [(row.evaluation.run, row.letters) for row in rows] == [
        ("grid-aaaaaaaa", ""),
        ("grid-bbbbbbbb", "u"),
    ]
    assert rows[1].marks[0].text == "the run is gone"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a-11111111", "", "x"), ("a-11111111", "", "y")], ["x", "y"]),
        ([("a-11111111", "", "x"), ("b-11111111", "", "x")], ["a", "b"]),
        ([("a-11111111", "", "x"), ("a-22222222", "", "x")], ["a-11111111", "a-22222222"]),
        ([("a-11111111", "", "x"), ("b-11111111", "", "y")], ["a/x", "b/y"]),
        ([("s", "lr=1", "x"), ("s", "lr=2", "x")], ["lr=1", "lr=2"]),
        ([("s", "lr=1", "x"), ("b-1", "", "x")], ["lr=1", "b"]),
        ([("s", "lr=1", "x"), ("t", "lr=1", "x")], ["s/lr=1", "t/lr=1"]),
        ([("a-11111111", "", "x")], ["x"]),
    ],
)
def test_labels_are_short_and_still_tell_rows_apart(
    rows: list[tuple[str, str, str]], expected: list[str]
) -> None:
    assert labels(rows) == expected
