"""Latent steps inside vLLM on random weights, teacher-forced: every input, stop rule, noise and family, plain
requests between them, against one forward of transformers without a cache."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from v2_rig import RUNNER

pytest.importorskip("vllm", reason="vllm is not installed")

from latent_requests import END, START, decoded, latent, think
from latent_world import FAMILIES, INPUTS, Vllm, prompt, tiny
from naive_latent import replayed

from jobs.generate.protocol import Request, Sample

pytestmark = pytest.mark.heavy
TOLERANCE = 1e-4


SHORT: dict[str, Any] = {"block_size": 32, "num_gpu_blocks_override": 7, "max_model_len": 128}
"""Memory for three or four of six requests."""
CONDITIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "chunked": ("gpt2", {"max_num_batched_tokens": 16}),
    "preempted": ("qwen3", SHORT),
    "together": (
        "qwen2",
        {**SHORT, "max_num_batched_tokens": 48, "enable_prefix_caching": True},
    ),
}
"""Name -> family, and what is unlike the usual in the engine's arguments."""


if RUNNER == "v1":  # Triton's interpreter, which takes V2's kernels, knows one process
    CONDITIONS["two ranks"] = "llama", {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}


@pytest.fixture(scope="module", params=CONDITIONS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    family, arguments = CONDITIONS[request.param]
    model = tiny(family)
    folder = tmp_path_factory.mktemp(family)
    model.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # functions of these tests, called on ranks
        engine = Vllm(folder, type(model).__name__, **arguments)
        yield model, engine
    again = engine.facts()["rebuilt"]
    engine.close()
    assert (again > 0) == ("block_size" in arguments), "preempted where memory is short, only"


def checked(world: Any, requests: list[Request]) -> dict[str, Sample]:
    model, engine = world
    found = engine.run(requests)
    for request in requests:
        sample, fed = found[f"{request.id}/{request.index}"]
        if request.thoughts is None:
            plain(model, request, sample)
        else:
            replayed(model, request, sample, fed, TOLERANCE)
    return {sample.id: sample for sample, _ in found.values()}


def plain(model: Any, request: Request, sample: Sample) -> None:
    """Greedy text: the likeliest token at each position, and its log-prob."""
    with torch.no_grad():
        logits = model(torch.tensor([[*request.ids, *sample.ids]])).logits[0, len(request.ids) - 1 : -1]
    assert sample.ids == logits.argmax(-1).tolist()
    wanted = logits.log_softmax(-1).gather(-1, torch.tensor(sample.ids)[:, None]).squeeze(-1)
    assert sample.logps == pytest.approx(wanted.tolist(), abs=TOLERANCE)


def mixed(world: Any) -> list[Request]:
    """Every input with every stop rule, ragged prompts; text between them."""
    rng = random.Random(1)
    probes = [
        think(f"probe{i}", prompt(rng, *START), latent(x, {"max_len": 8}, trace=3), 12)
        for i, x in enumerate(INPUTS)
    ]
    seen = checked(world, probes)
    out = []
    for i, (x, probe) in enumerate(zip(INPUTS, probes, strict=True)):
        thoughts = seen[probe.id].thoughts
        assert thoughts is not None
        assert len(thoughts) == 8
        entropies = sorted(t.entropy for t in thoughts)
        stops: dict[str, Any] = {
            "none": 0,
            "fixed": rng.randint(1, 7),
            "capped": {"fixed": 4, "max_len": 6, "end_marker": True},
            "marker": {"end_marker": True, "max_len": 9},
            "entropy": {"entropy": {"threshold": entropies[4] + 1e-3, "patience": 2}, "max_len": 9},
            "model": {"entropy": {"threshold": entropies[3], "patience": 1, "on": "model"}, "max_len": 5},
        }
        for name, stop in stops.items():
            end = (thoughts[3].ids[0], 93) if name == "marker" else END
            trace = rng.choice([None, 2]) if name != "model" else None
            asked = latent(x, stop, markers=(START, end), trace=trace)
            ids = probe.ids if name in ("marker", "entropy") else prompt(rng, *START)
            out.append(think(f"{name}{i}", ids, asked, rng.randint(14, 22)))
        out.append(think(f"text{i}", prompt(rng), None, rng.randint(1, 20)))
    return out


def test_every_input_and_stop_rule_in_one_batch_equals_a_forward_without_a_cache(world: Any) -> None:
    got = checked(world, mixed(world))
    assert {s.latent_cause for s in got.values()} == {None, "fixed", "end_marker", "entropy", "max_len"}
    for i in range(len(INPUTS)):
        assert got[f"none{i}"].latents == 0
        assert got[f"capped{i}"].latents <= 4


def test_spans_begin_wherever_the_model_writes_the_start_marker(world: Any) -> None:
    """The marker is what the model writes after this prompt anyway, one to three tokens long."""
    rng = random.Random(4)
    prompts = [prompt(rng) for _ in range(18)]
    text = checked(world, [think(f"p{i}", ids, None, 40) for i, ids in enumerate(prompts)])
    requests, first = [], {}
    for i, ids in enumerate(prompts):
        written = text[f"p{i}"].ids
        marker = tuple(written[3 : 4 + i % 3])
        at = next(n for n in range(40) if tuple(written[n : n + len(marker)]) == marker)
        first[f"p{i}"] = at + len(marker)
        stop = [{"fixed": 3}, {"fixed": 0}, {"end_marker": True, "max_len": 2}][i // 6]
        asked = latent(INPUTS[i % len(INPUTS)], stop, start="model", markers=(marker, END[: 1 + i % 2]))
        requests.append(think(f"p{i}", ids, asked, 40))
    got = checked(world, requests)
    spans = [got[r.id].spans for r in requests if got[r.id].latents]
    if type(world[0]).__name__ != "LlamaForCausalLM":  # which repeats no marker here
        assert max(map(len, spans)) >= 2, "a second span begins after the first"
    for request in requests:
        sample, asked = got[request.id], request.thoughts
        assert asked is not None
        if sample.latents:
            assert sample.spans[0][0] == first[request.id]
        for before, _ in sample.spans:
            assert tuple(sample.ids[before - len(asked.start) : before]) == asked.start


def test_a_budget_that_ends_inside_a_span_ends_it(world: Any) -> None:
    asked = latent("hidden", {"end_marker": True, "max_len": 50})
    inside = think("inside", prompt(random.Random(0), *START), asked, 10)
    marker = think("marker", prompt(random.Random(1), *START), latent("hidden", 4), 8)
    got = checked(world, [inside, marker])
    assert (got["inside"].latents, got["inside"].latent_cause, got["inside"].ids) == (10, None, [])
    assert (got["marker"].latents, got["marker"].latent_cause) == (4, "fixed")
    assert (got["marker"].ids[:3], len(got["marker"].ids)) == (list(END), 4)


NOISES: list[tuple[Any, Any]] = [
    ("hidden", {"kind": "gaussian", "strength": 0.1}),
    ({"kind": "contextual", "window": 2}, {"kind": "gaussian"}),
    ({"kind": "soft", "top_p": 0.95}, {"kind": "gaussian"}),
    ({"kind": "soft", "top_p": 0.95}, {"kind": "gaussian", "on": "logits"}),
    ({"kind": "soft", "top_p": 0.95}, {"kind": "concrete"}),
    ({"kind": "soft", "top_p": 0.95}, {"kind": "dirichlet"}),
    ({"kind": "soft"}, {"kind": "multiplex"}),
]


def test_noise_is_what_the_transformers_engine_draws(world: Any) -> None:
    """The same request draws the same noise in both engines: what is fed differs by less than 1e-3 of the
    noise's deviation while nothing that was written differs."""
    model, engine = world
    rng = random.Random(2)
    requests = []
    for i, (input, noise) in enumerate(NOISES):
        asked = latent(input, 2, noise=noise, trace=4)
        ids = prompt(rng, *START)
        requests += [think(f"p{i}", ids, asked, 8, index=k, seed=9) for k in range(3)]
    found = engine.run(requests)
    ours, fed = decoded(model, requests)
    for request in requests:
        sample, inputs = found[f"{request.id}/{request.index}"]
        own = fed[request.id, request.index]
        assert len(inputs) == len(own) == 2
        spread = torch.stack([fed[request.id, k][0] for k in range(3)]).std(0)
        off = ((inputs[0] - own[0]).abs() / spread.clamp(min=spread.mean())).max()
        assert off < 1e-3, f"{request.id}: {off} deviations"
        assert all(t.noised for t in sample.thoughts or ())
        assert sample.thoughts[0].ids == ours[request.id, request.index].thoughts[0].ids  # type: ignore[index]
        a, b = found[f"{request.id}/0"][1][0], found[f"{request.id}/1"][1][0]
        assert (a - b).norm() > 1e-2 * a.norm(), "another sample draws other noise"


def test_this_is_the_runner_that_was_asked_for(world: Any) -> None:
    state = world[1].call(lambda worker: hasattr(worker.model_runner, "model_state"))
    assert state == (RUNNER == "v2")
