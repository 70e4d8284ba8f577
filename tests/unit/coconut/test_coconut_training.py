"""A curriculum stage through the whole loop: any split, any ZeRO stage, any interruption; the next stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_harness import INIT, PREEMPTED, Case, dataset, experiment, launch, run_case, write_rows

from jobs.models import read_latent
from jobs.runtime.errors import JobUserError

pytestmark = pytest.mark.heavy

STEPS = 5
# Adam turns the sign of a gradient that is all rounding into a whole step, unless eps is above it.
TRAIN = {"steps": STEPS, "eps": 1e-5, "schedule": "cosine", "warmup": 2, "clip": 0.5, "weight_decay": 0.1}
STAGE = {
    "stage": 4,
    "max_stage": 3,
    "latents_per_step": 1,
    "uniform_prob": 0.4,
    "reset_optimizer": "every_epoch",
}
"""Counts differ from row to row, and some rows have none."""
LEARNED = {"input": {"kind": "contextual", "window": 3, "weights": "learned"}}
SOFT = {"input": {"kind": "soft", "top_k": 4}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 21)


def recipe(rows: Path, train: dict[str, Any], said: dict[str, Any], **more: Any) -> dict[str, Any]:
    return experiment(rows, train, name="coconut", method="coconut", coconut=said, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> dict[str, Case]:
    """One process, the global batch in one forward, ZeRO 0."""
    found = {}
    for kind, latent in (("learned", LEARNED), ("soft", SOFT)):
        train = {**TRAIN, "micro_batch": 8, "eval_every": STEPS}
        said = recipe(rows, train, STAGE, latent=latent, validation=dataset(rows))
        found[kind] = Case(str(tmp_path_factory.mktemp("whole")), said)
        run_case(found[kind])
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> dict[tuple[str, int], Case]:
    """All that two processes do, in one start: starting costs more than all of it."""
    folder = tmp_path_factory.mktemp("two")
    found: dict[tuple[str, int], Case] = {}

    def case(kind: str, zero: int, attempt: int = 1, **more: Any) -> Case:
        train = {**TRAIN, "micro_batch": 2, "zero_stage": zero, "eval_every": STEPS}
        latent = SOFT if kind == "soft" else LEARNED
        said = recipe(rows, train, STAGE, latent=latent, validation=dataset(rows))
        found[kind, zero] = Case(str(folder / f"{kind}-{zero}"), said, attempt, **more)
        return found[kind, zero]

    straight = [case("learned", 2), case("learned", 3), case("soft", 3)]
    stopped = [case("broken", z, stop_at=3, on_rank=1) for z in (2, 3)]
    launch(folder, [*straight, *stopped, *(case("broken", z, 2) for z in (2, 3))], size=2)
    assert all(c.result() == PREEMPTED for c in stopped)
    return found


@pytest.mark.parametrize(("kind", "zero"), [("learned", 2), ("learned", 3), ("soft", 3)])
def test_the_split_changes_nothing(
    kind: str, zero: int, whole: dict[str, Case], two: dict[tuple[str, int], Case]
) -> None:
    """8 rows at once in one process = 2 processes × 2 rows × 2 accumulation steps."""
    split, alone = two[kind, zero], whole[kind]
    assert len(split.losses()) == STEPS
    assert [x for _, x in split.losses()] == pytest.approx([x for _, x in alone.losses()], abs=2e-6)
    assert split.norms() == pytest.approx(alone.norms(), rel=1e-4)
    weights, expected = (load_file(c.stage / "model" / "model.safetensors") for c in (split, alone))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=2e-5, rtol=1e-3, msg=name)
    assert split.result()["tokens"] == alone.result()["tokens"]
    assert split.result()["validation"] == pytest.approx(alone.result()["validation"], abs=1e-5)


@pytest.mark.parametrize("zero", [2, 3])
def test_learned_weights_are_trained_and_written(
    zero: int, whole: dict[str, Case], two: dict[tuple[str, int], Case]
) -> None:
    held, expected = (
        (read_latent(c.stage / "model") or {})["input"]["weights"]
        for c in (two["learned", zero], whole["learned"])
    )
    assert held == pytest.approx(expected, abs=1e-5)
    assert sum(held) == pytest.approx(1.0, abs=1e-6)
    assert max(held) - min(held) > 1e-4, "they have moved"


@pytest.mark.parametrize("zero", [2, 3])
def test_resume_is_exact(zero: int, two: dict[tuple[str, int], Case]) -> None:
    """Preempted at the end of the first epoch and resumed: drawn stages, learned weights and the moments that
    each epoch forgets are the same bit for bit."""
    straight, broken = two["learned", zero], two["broken", zero]
    assert broken.losses() == straight.losses()
    assert broken.norms() == straight.norms()
    assert {r["attempt"] for r in broken.rows()} == {1, 2}, "nothing was resumed"
    weights, expected = (load_file(c.stage / "model" / "model.safetensors") for c in (broken, straight))
    assert all(torch.equal(weights[k], expected[k]) for k in expected)
    assert read_latent(broken.stage / "model") == read_latent(straight.stage / "model")


def test_each_epoch_begins_with_fresh_moments(rows: Path, whole: dict[str, Case], tmp_path: Path) -> None:
    """Three batches of 8 begin in the first epoch of 21 rows: the fourth step is the first to differ, and its
    effect shows in the fifth loss."""
    said = recipe(rows, {**TRAIN, "micro_batch": 8}, {**STAGE, "reset_optimizer": "never"}, latent=LEARNED)
    case = Case(str(tmp_path), said)
    run_case(case)
    kept, forgotten = case.losses(), whole["learned"].losses()
    assert forgotten[:4] == kept[:4]
    assert forgotten[4] != kept[4]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Case:
    case = Case(
        str(tmp_path_factory.mktemp("first")),
        recipe(rows, {**TRAIN, "schedule": "constant"}, {"stage": 1}, latent=LEARNED),
    )
    run_case(case)
    return case


def test_the_next_stage_goes_on_with_weights_markers_and_window(
    rows: Path, first: Case, tmp_path: Path
) -> None:
    source = str(first.stage / "model")
    train = {"steps": 1, "lr": 1e-9}
    said = recipe(rows, train, {"stage": 2}, latent=LEARNED, model={"path": source})
    case = Case(str(tmp_path), said, source=source)
    run_case(case)
    before, after = (load_file(c.stage / "model" / "model.safetensors") for c in (first, case))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0, msg=name)
    one, two = (read_latent(c.stage / "model") or {} for c in (first, case))
    assert two["input"]["weights"] == pytest.approx(one["input"]["weights"], abs=1e-6)
    assert one["input"]["weights"] != pytest.approx([1 / 3] * 3, abs=1e-5)
    assert two["stop"]["per_step"] == {"latents": 2, "cap": 2}
    tokenizer = json.loads((case.stage / "model" / "tokenizer.json").read_text())
    added = [t["content"] for t in tokenizer["added_tokens"]]
    assert added.count("<|latent|>") == 1


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_moments_go_over_from_the_stage_before(zero: int, tmp_path: Path) -> None:
    """Eight rows and batches of eight: an epoch is one step, whatever its order. Three steps and then two
    that take the moments over are five steps without a break; two with fresh moments are not."""
    eight = write_rows(tmp_path / "rows.jsonl", 8)
    train = {"schedule": "constant", "warmup": 0, "zero_stage": zero, "micro_batch": 4}

    def losses(name: str, steps: int, reset: str, source: Path | None = None) -> tuple[Path, list[float]]:
        more = {"model": {"path": str(source)}} if source else {}
        said = recipe(
            eight, {**train, "steps": steps}, {"stage": 1, "reset_optimizer": reset}, latent=LEARNED, **more
        )
        case = Case(str(tmp_path / name), said, source=str(source) if source else None)
        run_case(case)
        return case.stage / "model", [x for _, x in case.losses()]

    _, unbroken = losses("unbroken", 5, "on_stage")
    model, first = losses("first", 3, "on_stage")
    _, carried = losses("carried", 2, "never", model)
    _, fresh = losses("fresh", 2, "on_stage", model)
    assert first + carried == pytest.approx(unbroken, abs=2e-6)
    assert fresh[0] == pytest.approx(unbroken[3], abs=2e-6), "the same weights"
    assert abs(fresh[1] - unbroken[4]) > 1e-4


def test_moments_that_cannot_go_over_are_noted(
    rows: Path, first: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(first.stage / "model")
    said = {"stage": 1, "reset_optimizer": "never"}
    one = recipe(rows, {"steps": 1, "zero_stage": 1}, said, latent=LEARNED, model={"path": source})
    run_case(Case(str(tmp_path / "a"), one, source=source))
    assert "zero_stage was 0, now it is 1" in capsys.readouterr().err
    two = recipe(rows, {"steps": 1}, said, latent={"input": "hidden"}, model={"path": source})
    run_case(Case(str(tmp_path / "b"), two, source=source))
    assert "other weights" in capsys.readouterr().err
    run_case(Case(str(tmp_path / "c"), recipe(rows, {"steps": 1}, said)))
    assert "no training whose checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(("variant", "target"), [("cot", "cot"), ("no_cot", "answer")])
def test_variants_without_latents_are_sft(rows: Path, tmp_path: Path, variant: str, target: str) -> None:
    losses = []
    for method, block in (("coconut", {"variant": variant}), ("sft", {"target": target})):
        said = experiment(rows, {"steps": 3, "micro_batch": 8}, name="same", method=method, **{method: block})
        said["stages"][0]["model"]["tokenizer"] = {"kind": "byte"}  # the same for both targets
        said["stages"][0]["model"]["init"] = {**INIT, "max_len": 512}
        said["stages"][0]["train"]["max_len"] = 512
        case = Case(str(tmp_path / method), said)
        run_case(case)
        losses.append(case.losses())
        latent = read_latent(case.stage / "model") or {}
        assert latent["input"] is None
    assert losses[0] == losses[1]


def test_rows_that_do_not_fit_are_dropped_or_cut(rows: Path, tmp_path: Path) -> None:
    results = {}
    for overlong in ("drop", "truncate"):
        train = {"steps": 1, "max_len": 26, "overlong": overlong}
        results[overlong] = run_case(Case(str(tmp_path / overlong), recipe(rows, train, {"stage": 1})))
    assert 0 < results["drop"]["dropped"] < 21
    assert results["truncate"]["rows"] > results["drop"]["rows"]
    for result in results.values():
        assert result["rows"] + result["dropped"] == 21


def test_only_long_enough_problems_with_some_others(rows: Path, tmp_path: Path) -> None:
    steps = [len(json.loads(line)["steps"]) for line in rows.read_text().splitlines()]
    long = sum(n >= 3 for n in steps)
    said = recipe(rows, {"steps": 1}, {"stage": 3, "data_mixing_ratio": 0.5})
    assert run_case(Case(str(tmp_path), said))["rows"] == long + round(0.5 * long)


def test_latent_json_says_when_a_span_ends(rows: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ({"stage": 4}, {}, {"per_step": {"latents": 2, "cap": 3}}),
        ({"stage": 4, "pad_latent_to_max": True}, {}, {"fixed": 6}),
        ({"stage": 2, "dynamic": True}, {}, {"end_marker": True, "max_len": 8}),
        ({"stage": 2, "count": "per_example"}, {}, {"per_step": {"latents": 2, "cap": 2}}),
        (
            {"count": "difficulty", "difficulty": {"field": "steps", "max": 4}},
            {"stop": 3, "start": "model"},
            {"fixed": 3},
        ),
    ]
    for i, (said, latent, stop) in enumerate(cases):
        case = Case(str(tmp_path / str(i)), recipe(rows, {"steps": 1}, said, latent=latent))
        run_case(case)
        held = read_latent(case.stage / "model") or {}
        assert {k: v for k, v in held["stop"].items() if v is not False} == stop
        assert held["markers"] == {"start": "<|start-latent|>", "end": "<|end-latent|>"}
        assert held["input"] == {"kind": "hidden"}
        assert held["start"] == latent.get("start", "prompt")


@pytest.mark.parametrize(
    ("said", "more", "words"),
    [
        ({"stage": 1}, {"train": {"gradient_checkpointing": True}}, "gradient checkpointing drops"),
        ({"stage": 1}, {"latent": {"input": "none"}}, "input: none takes no latent steps"),
        ({"stage": 1}, {"prompt": {"form": "answer"}}, "no place for steps that stay as text"),
        ({"count": "difficulty", "difficulty": {}, "dynamic": True}, {}, "r0 has no number 'difficulty'"),
        ({"count": "difficulty", "difficulty": {}}, {}, "nothing says when a span ends"),
        ({"stage": 1}, {"latent": {"markers": {"start": "{", "end": "}"}}}, "cannot write the marker"),
        ({"stage": 6, "max_stage": 6, "data_mixing_ratio": 1}, {}, "no problem of .* as many as 6 steps"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(
    rows: Path, tmp_path: Path, said: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    train = {"steps": 1, **more.pop("train", {})}
    with pytest.raises(JobUserError, match=words):
        run_case(Case(str(tmp_path), recipe(rows, train, said, **more)))


def test_a_preempted_stage_goes_on(rows: Path, tmp_path: Path) -> None:
    said = recipe(rows, {"steps": 4}, STAGE)
    straight = Case(str(tmp_path / "a"), said)
    run_case(straight)
    broken = Case(str(tmp_path / "b"), said, stop_at=2)
    assert run_case(broken) == PREEMPTED
    run_case(replace(broken, attempt=2, stop_at=None))
    assert broken.losses() == straight.losses()


def test_debug_takes_a_few_rows(rows: Path, tmp_path: Path) -> None:
    assert run_case(Case(str(tmp_path / "a"), recipe(rows, {}, {"stage": 1}), debug=True))["rows"] == 4
    long = recipe(rows, {}, {"stage": 4, "data_mixing_ratio": 0})
    assert run_case(Case(str(tmp_path / "b"), long, debug=True))["rows"] == 4, "of those that are long enough"
