"""Free-running latent decoding of a model that learned to think: the same text in any batch and in the naive
loop without a cache, for every kind of input and every stop rule."""

from __future__ import annotations

import pytest
from counting_model import COUNT, END, EOS, INPUTS, START, goes_on, learned, requests
from engine_harness import NumberTokenizer, by_key
from naive_latent import free_run
from transformers import LlamaForCausalLM

from jobs.generate.transformers_engine import TransformersEngine

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def trained() -> LlamaForCausalLM:
    return learned()


@pytest.mark.parametrize("kind", list(INPUTS))
def test_text_is_the_same_in_any_batch_and_in_a_loop_without_a_cache(
    trained: LlamaForCausalLM, kind: str
) -> None:
    asked = requests(kind)
    engines = [TransformersEngine(trained, NumberTokenizer(), max_batch=n) for n in (1, 16)]
    alone, beside = (by_key(engine.generate(asked)) for engine in engines)
    causes = set()
    for request in asked:
        one, many = alone[request.id, 0], beside[request.id, 0]
        naive = free_run(trained, request, EOS)
        assert (many.ids, many.latents, many.latent_cause, many.cause) == naive, request.id
        assert (one.ids, one.latents, one.latent_cause, one.cause) == naive, request.id
        assert (one.spans, one.logps) == (many.spans, pytest.approx(many.logps, abs=1e-4))
        causes.add(many.latent_cause)
    soft = kind in ("soft", "exact", "noisy")
    assert causes >= ({"fixed", "end_marker", "entropy"} if soft else {"fixed", "max_len"})


def test_the_model_learned_to_think(trained: LlamaForCausalLM) -> None:
    """Else the texts above would show little: with mixtures of embeddings it counts through its thoughts."""
    for request in requests("soft"):
        if request.id.startswith("marker"):
            (sample,) = TransformersEngine(trained, NumberTokenizer()).generate([request])
            last = request.ids[-1 - len(START)]
            steps = 5 - last % 5 if last < 20 else COUNT - last
            assert (sample.latents, sample.latent_cause) == (steps, "end_marker")
            text = goes_on((last + steps) % COUNT, False, 24)
            assert sample.ids[len(END) :] == [n for n in text if n != EOS][: len(sample.ids) - len(END)]
