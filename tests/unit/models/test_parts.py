"""A model taken apart is the model, or it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_unroll import ARCHS, V, model

from jobs.models.lora import add_lora
from jobs.models.parts import parts
from jobs.runtime.errors import JobUserError
from latentctl.spec.model import LoraSpec

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", ARCHS)
def test_put_together_they_are_the_model(arch: str, tied: bool) -> None:
    made = model(arch, tied=tied)
    p = parts(made)
    assert made.training
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(p.head(p.run(p.embed(ids))), made(input_ids=ids).logits)
    assert p.embedding is made.get_input_embeddings().weight
    assert p.layers == 2


def test_the_proof_leaves_no_trace() -> None:
    """Neither in which modules train nor in the random numbers that follow."""
    made = model("gpt2", attn_pdrop=0.5)
    made.transformer.h[0].eval()
    state = torch.get_rng_state()
    parts(made)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.training
    assert not made.transformer.h[0].training
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_adapters_are_part_of_it(arch: str) -> None:
    made = add_lora(model(arch), LoraSpec(r=2), seed=0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    p = parts(made)
    ids = torch.arange(6)[None]
    hidden = p.run(p.embed(ids))
    torch.testing.assert_close(p.head(hidden), made(input_ids=ids).logits)
    hidden.sum().backward()
    assert any(q.grad is not None and q.grad.any() for n, q in made.named_parameters() if "lora" in n)


def refused(made: Any) -> JobUserError:
    with pytest.raises(JobUserError) as caught:
        parts(made)
    assert caught.value.hint
    return caught.value


def test_a_model_that_does_more_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, final_logit_softcapping=0.01,
    )  # fmt: skip
    assert "its logits differ" in str(refused(Gemma2ForCausalLM(config)))


def test_other_kinds_of_model_are_refused() -> None:
    from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

    t5 = T5Config(vocab_size=V, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    assert "is not a decoder" in str(refused(T5ForConditionalGeneration(t5)))
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    assert "BertModel" in str(refused(BertModel(BertConfig(vocab_size=V, **size))))
