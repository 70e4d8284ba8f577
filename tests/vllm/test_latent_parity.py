"""Latent steps inside vLLM on random weights, teacher-forced: every input, stop rule, noise and family, plain
requests between them, against one forward of transformers without a cache."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="vllm is not installed")

from latent_world import END, FAMILIES, INPUTS, START, Vllm, latent, prompt, think, tiny
from naive_latent import replayed

from jobs.generate.protocol import Request, Sample

pytestmark = pytest.mark.heavy
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    model = tiny(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    engine = Vllm(folder, type(model).__name__)
    yield model, engine
    engine.close()


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
