"""What a training leaves behind, what it refuses, and how it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_harness import INIT, PREEMPTED, Case, dataset, experiment, run_case, write_rows

from jobs.models import read_latent
from jobs.runtime.errors import JobUserError

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 20)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dataset(write_rows(tmp_path_factory.mktemp("valid") / "valid.jsonl", 6, seed=9))


def steps_on_disk(case: Case) -> list[int]:
    return sorted(int(p.name.split("-")[1]) for p in (case.stage / "checkpoints").iterdir())


def test_the_best_is_kept_and_published(rows: Path, held_out: dict[str, Any], tmp_path: Path) -> None:
    """A rate that is far too high in the end: the best validation is not the last."""
    train = {"steps": 8, "lr": 0.05, "eval_every": 2, "keep": {"best": "loss", "last": 1}}
    case = Case(str(tmp_path), experiment(rows, train, validation=held_out))
    result = run_case(case)
    measured = {r["step"]: r["validation_loss"] for r in case.rows() if "validation_loss" in r}
    assert sorted(measured) == [2, 4, 6, 8]
    best = min(measured, key=lambda s: measured[s])
    assert result["best"] == {"metric": "loss", "value": measured[best], "step": best}
    assert result["validation"]["loss"] == measured[8]
    assert result["validation"]["step"] == 8
    assert steps_on_disk(case) == sorted({best, 8})
    assert (read_latent(case.stage / "best") or {})["step"] == best
    assert (read_latent(case.stage / "model") or {})["step"] == 8
    latent = read_latent(case.stage / "model") or {}
    assert latent["prompt"]["form"] == "coconut"
    assert (latent["stage"], latent["method"]) == ("sft", "sft")
    _same(case.stage / "best", case.stage / "checkpoints" / f"step-{best:06d}" / "model")


def _same(a: Path, b: Path) -> None:
    one, two = (load_file(p / "model.safetensors") for p in (a, b))
    assert all(torch.equal(one[k], two[k]) for k in one | two)


def test_a_best_lost_between_checkpoint_and_publishing_comes_back(
    rows: Path, held_out: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    train = {"steps": 2, "eval_every": 1, "keep": {"best": "loss", "last": 1}}
    case = Case(str(tmp_path), experiment(rows, train, validation=held_out))
    first = run_case(case)
    shutil.rmtree(case.stage / "best")
    shutil.rmtree(case.stage / "model")
    again = run_case(replace(case, attempt=2))
    assert (read_latent(case.stage / "best") or {})["step"] == first["best"]["step"]
    assert (case.stage / "model" / "model.safetensors").is_file()
    assert {**again, "train_seconds": 0, "tokens_per_s": 0} == {
        **first,
        "train_seconds": 0,
        "tokens_per_s": 0,
    }


def test_early_stop_ends_training_and_says_why(rows: Path, held_out: dict[str, Any], tmp_path: Path) -> None:
    train = {
        "steps": 50,
        "lr": 1e-9,
        "eval_every": 1,
        "early_stop": {"metric": "accuracy", "patience": 3},
    }
    case = Case(str(tmp_path), experiment(rows, train, validation=held_out))
    result = run_case(case)
    assert result["steps"] == 4
    assert result["stopped"] == "accuracy has not improved in 3 validations"
    assert (read_latent(case.stage / "model") or {})["step"] == 4


def test_a_stop_signal_at_the_last_step_is_no_preemption(rows: Path, tmp_path: Path) -> None:
    case = Case(str(tmp_path), experiment(rows, {"steps": 3}), stop_at=3)
    assert run_case(case)["steps"] == 3


def test_preemption_commits_and_the_next_attempt_goes_on(rows: Path, tmp_path: Path) -> None:
    case = Case(str(tmp_path), experiment(rows, {"steps": 4, "log_every": 3}), stop_at=2)
    assert run_case(case) == PREEMPTED
    assert steps_on_disk(case) == [2]
    assert not (case.stage / "model").exists()
    result = run_case(replace(case, attempt=2, stop_at=None))
    assert result["steps"] == 4
    assert [s for s, _ in case.losses()] == [2, 3, 4]


def test_epochs_end_with_a_shorter_batch(rows: Path, tmp_path: Path) -> None:
    case = Case(str(tmp_path), experiment(rows, {"epochs": 1.0, "batch": 8, "micro_batch": 2}))
    result = run_case(case)
    assert (result["steps"], result["epochs"], result["rows"]) == (3, 1.0, 20)
    assert result["tokens"] == _all_tokens(case, rows)


def _all_tokens(case: Case, rows: Path) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(case.stage / "model")
    total = 0
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        text = row["question"] + "\n" + "".join(f"{s}\n" for s in row["steps"]) + f"### {row['answer']}"
        total += len(tokenizer(text).input_ids) + 1
    return total


def test_debug_takes_two_steps_on_four_rows(rows: Path, held_out: dict[str, Any], tmp_path: Path) -> None:
    train = {"epochs": 3.0, "batch": 16, "micro_batch": 16, "eval_every": 100, "keep": {"best": "loss"}}
    result = run_case(Case(str(tmp_path), experiment(rows, train, validation=held_out), debug=True))
    assert (result["steps"], result["rows"]) == (2, 4)
    assert result["best"] is not None


@pytest.mark.parametrize("zero", [0, 2])
def test_bf16_and_gradient_checkpointing_train(zero: int, rows: Path, tmp_path: Path) -> None:
    train = {"steps": 6, "precision": "bf16", "zero_stage": zero, "gradient_checkpointing": True, "lr": 1e-2}
    case = Case(str(tmp_path), experiment(rows, {**train, "micro_batch": 2}))
    run_case(case)
    exact = Case(str(tmp_path / "fp32"), experiment(rows, {**train, "precision": "fp32"}))
    run_case(exact)
    rounded, losses = ([x for _, x in c.losses()] for c in (case, exact))
    assert rounded == pytest.approx(losses, rel=0.03)
    assert rounded != losses
    assert losses[-1] < losses[0] - 0.2
    assert {v.dtype for v in load_file(case.stage / "model" / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_lora_trains_adapters_alone_and_exports_them_merged(rows: Path, tmp_path: Path) -> None:
    base = Case(str(tmp_path / "base"), experiment(rows, {"steps": 1, "lr": 1e-9}))
    run_case(base)
    source = base.stage / "model"
    train = {"steps": 6, "lr": 1e-2, "lora": {"r": 4, "dropout": 0.1}, "weight_decay": 0.0, "save_every": 2}
    recipe = experiment(rows, train, model={"path": str(source)})
    case = Case(str(tmp_path / "lora"), recipe, source=str(source))
    run_case(case)
    assert case.losses()[-1][1] < case.losses()[0][1] - 0.05
    before, after = (load_file(p / "model.safetensors") for p in (source, case.stage / "model"))
    assert before.keys() == after.keys()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved
    assert all("proj" in k for k in moved), "embeddings and norms are frozen"
    broken = Case(str(tmp_path / "broken"), recipe, source=str(source), stop_at=3)
    assert run_case(broken) == PREEMPTED
    run_case(replace(broken, attempt=2, stop_at=None))
    assert broken.losses() == case.losses()


def test_a_loss_that_is_no_number_fails_with_its_step(rows: Path, tmp_path: Path) -> None:
    """Logged only every 4 steps: the error still names the step at which it happened, and nothing is
    saved."""
    train = {"steps": 8, "lr": 9.9, "clip": 0.0, "log_every": 4, "save_every": 4, "weight_decay": 0.0}
    init = {**INIT, "arch": "gpt2"}
    case = Case(str(tmp_path), experiment(rows, {**train, "precision": "fp32"}, model={"init": init}))
    from jobs.train.text import TextObjective

    plain = TextObjective.loss
    calls = 0

    def poisoned(self: Any, model: Any, tensors: Any, *, measure: bool) -> Any:
        nonlocal calls
        calls += 1
        outcome = plain(self, model, tensors, measure=measure)
        return outcome._replace(loss=outcome.loss * float("nan")) if calls == 3 else outcome

    TextObjective.loss = poisoned  # type: ignore[method-assign]
    try:
        with pytest.raises(JobUserError, match="not a number any more: step 3 of 8") as caught:
            run_case(case)
    finally:
        TextObjective.loss = plain  # type: ignore[method-assign]
    assert "train.lr (9.9)" in (caught.value.hint or "")
    assert not (case.stage / "checkpoints").exists() or steps_on_disk(case) == []


def test_rows_that_do_not_fit_are_dropped_and_counted_or_cut(rows: Path, tmp_path: Path) -> None:
    fits = Case(str(tmp_path / "a"), experiment(rows, {"steps": 1, "max_len": 24}))
    dropped = run_case(fits)
    assert 0 < dropped["dropped"] < 20
    assert dropped["rows"] == 20 - dropped["dropped"]
    cut = run_case(
        Case(str(tmp_path / "b"), experiment(rows, {"steps": 1, "max_len": 24, "overlong": "truncate"}))
    )
    assert cut["rows"] > dropped["rows"]
    assert cut["rows"] + cut["dropped"] == 20
    with pytest.raises(JobUserError, match=r"every row .* longer than max_len \(8 tokens"):
        run_case(Case(str(tmp_path / "c"), experiment(rows, {"steps": 1, "max_len": 8})))


def test_what_cannot_be_trained_is_refused_in_words(
    rows: Path, held_out: dict[str, Any], tmp_path: Path
) -> None:
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "nothing to validate on": ({"eval_every": 2}, {}),
        "keep.best: no metric 'speed'": (
            {"eval_every": 2, "keep": {"best": "speed"}},
            {"validation": held_out},
        ),
        "not a multiple": ({"batch": 8, "micro_batch": 3}, {}),
        "needs .* tokens": ({}, {"model": {"init": INIT, "tokenizer": {"kind": "bpe", "vocab_size": 64}}}),
    }
    for i, (words, (train, more)) in enumerate(cases.items()):
        with pytest.raises(JobUserError, match=words):
            run_case(Case(str(tmp_path / str(i)), experiment(rows, {"steps": 1, **train}, **more)))


def test_a_row_with_unknown_words_is_named(rows: Path, tmp_path: Path) -> None:
    base = Case(str(tmp_path / "base"), experiment(rows, {"steps": 1}))
    run_case(base)
    strange = tmp_path / "strange.jsonl"
    strange.write_text(json.dumps({"question": "banana?", "answer": "wa", "steps": [], "id": "odd"}) + "\n")
    recipe = experiment(strange, {"steps": 1})
    with pytest.raises(JobUserError, match="does not know 'banana', which stands in row odd"):
        run_case(Case(str(tmp_path / "x"), recipe, source=str(base.stage / "model")))


def test_an_older_attempt_commits_nothing(rows: Path, tmp_path: Path) -> None:
    from latentctl.record.attempt import StaleAttempt

    case = Case(str(tmp_path), experiment(rows, {"steps": 2}))
    (tmp_path / "jobs" / "train" / "attempts" / "2").mkdir(parents=True)
    with pytest.raises(StaleAttempt):
        run_case(case)
    assert not (case.stage / "model").exists()
