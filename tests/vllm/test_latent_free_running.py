"""Free-running latent decoding in vLLM of a model that learned to think: the text of the transformers engine,
for every kind of input and every stop rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import v2_rig  # noqa: F401

pytest.importorskip("vllm", reason="vllm is not installed")

import latent_world
from counting_model import EOS, INPUTS, VOCAB, learned, requests
from engine_harness import NumberTokenizer, by_key
from latent_world import Vllm

from jobs.generate.transformers_engine import TransformersEngine

pytestmark = pytest.mark.heavy
KINDS = [kind for kind in INPUTS if kind != "exact"]
"""`max_topk: null` is for the transformers engine alone."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    model = learned(width=64, heads=2)
    model.resize_token_embeddings(VOCAB + 1)  # a row for the placeholder
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_world, "RECORD", VOCAB)
        engine = Vllm(folder, "LlamaForCausalLM", max_model_len=128)
        yield model, engine
        engine.close()


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_that_of_the_transformers_engine(world: Any, kind: str) -> None:
    model, engine = world
    asked = requests(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_world, "RECORD", VOCAB)
        found = engine.run(asked, stop_token_ids=[EOS])
    ours = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=8).generate(asked))
    causes = set()
    for request in asked:
        theirs, own = found[f"{request.id}/0"][0], ours[request.id, 0]
        text = theirs.ids[:-1] if theirs.ids[-1:] == [EOS] else theirs.ids
        spans = tuple(span for span in own.spans if span[1])  # an empty one leaves no latent position
        assert (text, theirs.latents, theirs.spans) == (own.ids, own.latents, spans), request.id
        assert theirs.latent_cause == own.latent_cause or own.latent_cause == "budget"
        assert theirs.logps[: len(text)] == pytest.approx(own.logps, abs=1e-3)
        causes.add(theirs.latent_cause)
    soft = kind in ("soft", "noisy")
    assert causes >= ({"fixed", "end_marker", "entropy"} if soft else {"fixed", "max_len"})
