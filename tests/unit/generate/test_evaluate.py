"""The eval method: merged once per problem, resumed sample by sample, by any number of processes."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from eval_stage import MODEL, context, experiment, texts

from jobs.grade import samples
from jobs.methods.evaluate import Evaluate
from jobs.methods.protocol import Preempted
from jobs.models import load_model
from jobs.runtime.errors import JobUserError
from latentctl.spec.experiment import Experiment

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[tuple[str, int], str]]:
    ctx = context(tmp_path_factory.mktemp("whole"), experiment())
    return Evaluate(ctx).run(), texts(ctx)


def test_one_process_writes_rows_and_numbers(whole: Any) -> None:
    result, rows = whole
    assert len(rows) == 24
    assert (result["n"], result["k"], result["grader"], result["engine"]) == (12, 2, "exact", "transformers")
    assert sum(result["stop_causes"].values()) == 24
    assert set(result["pass_at_k"]) == {"1", "2"}
    assert result["tokens_per_s"] > 0
    assert result["leakage"]["sets"] == []
    json.dumps(result, allow_nan=False)


def _random_model(exp: Experiment) -> Any:
    found: list[Any] = []

    def kept(*args: Any, **kw: Any) -> Any:
        found.append(load_model(*args, **kw))
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.methods.sharing.load_model", kept)
        with pytest.raises(InterruptedError), tempfile.TemporaryDirectory() as folder:
            Evaluate(context(Path(folder), exp)).run()
    return found[0]


def test_a_killed_evaluation_goes_on_sample_by_sample_with_another_number_of_processes(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes are stopped half-way, one leaving a torn line; three finish, and generate only what
    is missing."""
    exp = experiment()
    ctx = context(tmp_path, exp, size=2)
    for rank in range(2):
        ctx = context(tmp_path, exp, rank=rank, size=2)
        method = Evaluate(ctx)
        add = samples.Appender.add
        written = 0

        def add_some(self: Any, row: Any, ctx: Any = ctx, add: Any = add) -> None:
            nonlocal written
            add(self, row)
            written += 1
            if written == 4:
                ctx.stop.request("USR2")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(samples.Appender, "add", add_some)
            with pytest.raises(Preempted):
                method.run()
    with open(ctx.paths.rank_samples(1), "ab") as torn:
        torn.write(b'{"id": "shell-game-te')
    kept = {samples.key(r) for r in samples.read_parts(ctx.paths.rank_samples(0).parent)}
    assert 8 <= len(kept) < 24
    results: dict[int, Any] = {}
    model = _random_model(exp)  # threads share the random stream that a random model is made from
    monkeypatch.setattr("jobs.methods.sharing.load_model", lambda *a, **k: model)

    def one(rank: int) -> None:
        results[rank] = Evaluate(context(tmp_path, exp, attempt=2, rank=rank, size=3)).run()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    ctx = context(tmp_path, exp, attempt=2)
    assert texts(ctx) == whole[1]
    for key in ("accuracy", "accuracy_ci", "n", "tokens_mean", "stop_causes", "prompt_hash"):
        assert results[0][key] == whole[0][key]
    assert results[1] == results[2] == {}
    again = [json.loads(line) for path in ctx.paths.rank_samples(0).parent.glob("rank-*.jsonl")
             for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]  # fmt: skip
    assert len(again) == 24, "no sample was generated twice"


def test_a_process_that_waits_stops_when_a_peer_was_stopped(tmp_path: Path) -> None:
    exp = experiment()
    stopped = context(tmp_path, exp, rank=1, size=2)
    stopped.stop.request("TERM")
    with pytest.raises(Preempted):
        Evaluate(stopped).run()
    with pytest.raises(Preempted):
        Evaluate(context(tmp_path, exp, rank=0, size=2)).run()


def test_a_finished_generation_is_graded_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = experiment()
    first = Evaluate(context(tmp_path, exp)).run()
    monkeypatch.setattr(
        "jobs.methods.sharing.load_model", lambda *a, **k: pytest.fail("the model was loaded")
    )
    ctx = context(tmp_path, exp, attempt=2)
    ctx.paths.samples.unlink()
    again = Evaluate(ctx).run()
    assert again["accuracy"] == first["accuracy"]
    assert again["tokens_per_s"] is None


def test_a_silent_recipe_and_a_silent_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobUserError, match="neither the recipe nor the checkpoint"):
        Evaluate(context(tmp_path, experiment(prompt=None), source=tmp_path))


def test_the_checkpoint_says_how_to_ask(tmp_path: Path) -> None:
    told = {"version": 1, "input": None, "prompt": {"form": "coconut"}, "stage": "sft", "method": "sft"}
    (tmp_path / "latent.json").write_text(json.dumps(told))
    assert (
        Evaluate(context(tmp_path, experiment(prompt=None), source=tmp_path)).asking.prompt.form == "coconut"
    )


def test_an_answer_longer_than_the_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    exp = experiment(sampling={"max_new_tokens": 1000})
    with pytest.raises(JobUserError, match="256 positions"):
        Evaluate(context(tmp_path, exp)).run()
    assert not list(tmp_path.rglob("rank-*.jsonl"))


def test_an_unknown_grader_is_refused_before_generation(tmp_path: Path) -> None:
    with pytest.raises(JobUserError, match="no grader is called"):
        Evaluate(context(tmp_path, experiment(eval={"grader": "nummeric"}))).run()
    assert not list(tmp_path.rglob("*.jsonl"))


def test_debug_takes_four_problems(tmp_path: Path) -> None:
    assert Evaluate(context(tmp_path, experiment(), debug=True)).run()["n"] == 4


def test_each_of_the_recipes_seeds_draws_its_own_samples(tmp_path: Path, whole: Any) -> None:
    ctx = context(tmp_path, experiment().model_copy(update={"seed": 1}))
    Evaluate(ctx).run()
    other = texts(ctx)
    assert other.keys() == whole[1].keys()
    assert sum(other[k] != whole[1][k] for k in other) > 12


def test_training_data_that_holds_the_questions_is_reported(tmp_path: Path) -> None:
    data = {"name": "shell-game", "split": "test", "limit": 12, "options": {"swaps": 2}}
    sft = {"name": "sft", "method": "sft", "from": "model", "model": MODEL, "dataset": {**data, "limit": 3},
           "prompt": {"form": "plain"}}  # fmt: skip
    score = experiment().dump()["stages"][0] | {"from": "sft"}
    exp = Experiment.model_validate({"name": "x", "stages": [sft, score]})
    found = Evaluate(context(tmp_path, exp)).run()["leakage"]
    assert (found["count"], found["sets"][0]["stage"], found["unseen"]) == (3, "sft", None)
