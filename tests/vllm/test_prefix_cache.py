"""vLLM's prefix cache knows token ids, not what a latent position was fed: the hazard, and its cure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import v2_rig  # noqa: F401

pytest.importorskip("vllm", reason="vllm is not installed")

from latent_requests import START, latent, think
from latent_world import RECORD, Vllm, prompt, tiny
from naive_latent import replayed

pytestmark = pytest.mark.heavy
CACHED: dict[str, Any] = {"enable_prefix_caching": True, "block_size": 32}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("llama")


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(folder: Path, request: pytest.FixtureRequest) -> Iterator[Vllm]:
    engine = Vllm(folder, "LlamaForCausalLM", **CACHED, **getattr(request, "param", {}))
    yield engine
    engine.close()


def thought(engine: Vllm) -> list[int]:
    """A prompt and its answer, latent steps and all, as vLLM keeps them: two blocks and more."""
    asked = latent({"kind": "soft"}, 60)
    request = think("thinks", prompt(random.Random(3), *START, most=10), asked, 70)
    out = engine.run([request])["thinks/0"][0]
    return [*request.ids, *[RECORD] * out.latents, *out.ids]


def probe(engine: Vllm, ids: list[int]) -> tuple[int, torch.Tensor]:
    """How many positions of this prompt came from the cache, and the log-probs after it."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, logprobs=20, detokenize=False)
    out = engine.llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)[0]
    top = out.outputs[0].logprobs[0]
    return out.num_cached_tokens or 0, torch.tensor([top[i].logprob for i in sorted(top)[:5]])


def right(model: Any, ids: list[int], engine: Vllm) -> torch.Tensor:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, logprobs=20, detokenize=False)
    out = engine.llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)[0]
    top = sorted(out.outputs[0].logprobs[0])[:5]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[top]


@pytest.mark.parametrize(
    "engine", [{"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"}], indirect=True
)
def test_without_the_salt_a_prompt_of_the_same_ids_is_answered_from_thoughts(
    engine: Vllm, model: Any
) -> None:
    ids = thought(engine)
    cached, logps = probe(engine, ids)
    assert cached >= 64
    assert not torch.allclose(logps, right(model, ids, engine), atol=1e-2)


def test_with_it_no_other_prompt_meets_them(engine: Vllm, model: Any) -> None:
    ids = thought(engine)
    cached, logps = probe(engine, ids)
    assert cached == 0
    assert torch.allclose(logps, right(model, ids, engine), atol=1e-4)
    assert probe(engine, ids)[0] >= 64, "an ordinary prompt is cached as ever"


def test_samples_of_a_problem_share_its_prompt_unless_their_first_step_looks_back(engine: Vllm) -> None:
    from vllm import SamplingParams

    from jobs.generate.vllm_plugin import wire

    ids = [*(i % 90 for i in range(70)), *START]
    for input, share in (("hidden", 64), ({"kind": "contextual", "window": 3}, 0)):
        asked = latent(input, 3)
        cached = []
        for k in range(2):
            extra = {wire.KEY: wire.pack(asked, key=k, record=RECORD, group=str(input))}
            params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, extra_args=extra)
            out = engine.llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)[0]
            cached.append(out.num_cached_tokens or 0)
        assert cached == [0, share]


SHORT = {"num_gpu_blocks_override": 9, "max_model_len": 160}


@pytest.mark.parametrize("engine", [SHORT], indirect=True)
def test_samples_whose_ids_are_alike_are_not_taken_for_one_another_after_a_preemption(
    engine: Vllm, model: Any
) -> None:
    """Six samples of one problem: the ids that vLLM keeps of them are the same, what they were fed is not."""
    noise = {"kind": "concrete", "temperature": 0.5}
    asked = latent({"kind": "soft", "top_p": 0.95}, 60, noise=noise)
    ids = [*(i % 90 for i in range(40)), *START]
    sampling = {"temperature": 0.0, "seed": 5}
    requests = [think("p", ids, asked, 80, index=k, **sampling) for k in range(6)]
    found = engine.run(requests)
    assert engine.facts()["rebuilt"] > 40
    for request in requests:
        sample, fed = found[f"p/{request.index}"]
        replayed(model, request, sample, fed, 1e-4)
    first = [found[f"p/{k}"][1][0] for k in range(6)]
    assert min((a - b).norm() for a in first for b in first if a is not b) > 1e-2
