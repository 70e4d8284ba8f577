"""New weights in the engine on transformers, and the proof that an engine agrees with its trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainer import ITEMS, adapted, llama

from jobs.generate import weight_files
from jobs.generate.protocol import Request
from jobs.generate.transformers_engine import TransformersEngine
from jobs.generate.weights import Stream, shapes, shapes_of
from jobs.models.plain_export import plain_weights
from jobs.rl.agree import Disagreement, agrees
from jobs.rl.weights import InProcess, plain_stream
from jobs.runtime.errors import JobUserError
from latentctl.spec.sampling import SamplingSpec

pytestmark = pytest.mark.heavy


class Letters:
    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(i + 32) for i in ids)


def engine_on(model: Any) -> TransformersEngine:
    return TransformersEngine(model, Letters(), max_batch=4)


@pytest.fixture
def engine() -> TransformersEngine:
    return engine_on(llama(tied=True))


def asked(engine: TransformersEngine, *lengths: int) -> Iterator[Any]:
    requests = [Request(f"r{n}", 0, [5, 6, n], SamplingSpec(max_new_tokens=n)) for n in lengths]
    return engine.generate(requests)


@pytest.mark.parametrize("from_files", [False, True])
def test_a_load_makes_it_the_new_model(engine: TransformersEngine, from_files: bool, tmp_path: Path) -> None:
    new = adapted(llama(tied=True, seed=5))
    with pytest.raises(Disagreement):
        agrees(engine, new, ITEMS)
    weights: Any = plain_weights(new)
    if from_files:
        weight_files.write(tmp_path, weights.items())
    engine.load(tmp_path if from_files else weights.items(), 7)
    assert agrees(engine, new, ITEMS) < 1e-4
    assert [s.version for s in asked(engine, 3)] == [7]


def test_a_trainers_own_model_is_taken_as_it_is() -> None:
    """With adapters: merged weights in the place of its own would count them twice."""
    for make in (llama, lambda: adapted(llama(tied=True))):
        model = make().train()
        engine = engine_on(model)
        before = {n: (p.data_ptr(), p.detach().clone()) for n, p in model.named_parameters()}
        InProcess(engine).push(model, 1)
        assert engine.version == 1
        assert agrees(engine, model, ITEMS) == 0
        for name, parameter in model.named_parameters():
            assert parameter.data_ptr() == before[name][0]
            assert torch.equal(parameter, before[name][1])


def test_a_model_in_training_is_asked_without_its_dropout() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_id=None)
    model = GPT2LMHeadModel(config)
    engine = engine_on(model)
    still = [(s.ids, s.logps) for s in asked(engine, 8)]
    model.train()
    assert [(s.ids, s.logps) for s in asked(engine, 8)] == still
    assert agrees(engine, model, ITEMS) == 0
    assert all(module.training for module in model.modules())


def test_merged_weights_have_no_place_in_a_model_with_adapters() -> None:
    with pytest.raises(JobUserError, match="has adapters"):
        engine_on(adapted(llama())).load(plain_stream(llama()), 1)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda w: w.pop("model.norm.weight"), r"model\.norm\.weight is missing"),
        (lambda w: [w.pop(k) for k in list(w)[:5]], r"embed_tokens.* and 2 more are missing"),
        (lambda w: w.update({"lm_head.weight": torch.ones(320, 64)}), r"the model has no lm_head\.weight"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(63)}),
            r"model\.norm\.weight is \(63,\), the model's \(64,\)",
        ),
    ],
)
def test_weights_of_another_model_are_refused(
    engine: TransformersEngine, harm: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    weights = plain_weights(llama(tied=True, seed=5))
    harm(weights)
    weight_files.write(tmp_path, weights.items())
    for source in (weights.items(), tmp_path):
        with pytest.raises(JobUserError, match=words):
            engine.load(source, 1)
    assert engine.version == 0
    assert agrees(engine, llama(tied=True), ITEMS) == 0


def test_a_name_that_comes_twice_is_refused(engine: TransformersEngine) -> None:
    pair = ("model.norm.weight", torch.ones(64))
    with pytest.raises(JobUserError, match=r"model\.norm\.weight twice"):
        engine.load([pair, pair], 1)


@pytest.mark.parametrize(("stop", "extra"), [(4, None), (None, ("more", torch.ones(1)))])
def test_a_stream_that_breaks_its_word_leaves_no_weights(
    engine: TransformersEngine, stop: int | None, extra: Any
) -> None:
    weights = plain_weights(llama(tied=True, seed=5))
    coming = [*list(weights.items())[:stop], *([extra] if extra else [])]
    with pytest.raises(RuntimeError, match=r"did not come|was not said to come"):
        engine.load(Stream({n: tuple(t.shape) for n, t in weights.items()}, coming), 1)
    with pytest.raises(JobUserError, match="no weights: the loading of version 1 failed half-way"):
        list(asked(engine, 2))
    engine.load(weights.items(), 1)
    assert agrees(engine, llama(tied=True, seed=5), ITEMS) == 0


def test_older_weights_and_weights_amid_requests_are_refused(engine: TransformersEngine) -> None:
    weights = plain_weights(llama(tied=True))
    engine.load(weights.items(), 2)
    with pytest.raises(JobUserError, match="version 1 are older than those in use \\(2\\)"):
        engine.load(weights.items(), 1)
    samples = asked(engine, 3, 30)
    assert next(samples).id == "r3"
    for change in (lambda: engine.load(weights.items(), 3), engine.sleep):
        with pytest.raises(JobUserError, match="while requests are under way"):
            change()
    samples.close()  # type: ignore[attr-defined]
    engine.load(weights.items(), 3)


def test_asleep_it_answers_nothing(engine: TransformersEngine) -> None:
    weights = plain_weights(llama(tied=True))
    engine.sleep()
    for use in (
        lambda: list(asked(engine, 2)),
        lambda: list(engine.score(ITEMS)),
        lambda: engine.load(weights.items(), 1),
    ):
        with pytest.raises(JobUserError, match="asleep"):
            use()
    engine.wake()
    assert len(list(asked(engine, 2))) == 1
    engine.sleep(keep=False)
    engine.wake()
    with pytest.raises(JobUserError, match="given up when it was put to sleep"):
        list(asked(engine, 2))
    engine.load(weights.items(), 1)
    assert len(list(asked(engine, 2))) == 1


@pytest.mark.parametrize("tied", [False, True])
def test_what_a_config_makes_is_known_without_its_weights(tied: bool) -> None:
    model = llama(tied=tied)
    assert shapes_of(model.config) == shapes(model)
    assert shapes(model) == {n: tuple(t.shape) for n, t in plain_weights(model).items()}


def test_disagreement_is_told_with_numbers(engine: TransformersEngine) -> None:
    right = list(engine.score(ITEMS))
    assert agrees(engine, right, ITEMS) == 0
    wrong = [list(row) for row in right]
    wrong[1][2] += 0.5
    wrong[0][0] += 2e-3
    with pytest.raises(Disagreement, match=r"2 of 12 tokens .* at most by 0\.5 \(item 1, token 2"):
        agrees(engine, wrong, ITEMS)
    assert agrees(engine, wrong, ITEMS, tolerance=0.6) == pytest.approx(0.5)
    wrong[2][1] = float("nan")
    with pytest.raises(Disagreement, match=r"by nan \(item 2, token 1"):
        agrees(engine, wrong, ITEMS, tolerance=0.6)
    with pytest.raises(ValueError, match="no tokens to compare"):
        agrees(engine, [[]], [([1], [])])
