"""A replay says of a rollout what was said when it was drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "generate"))

from dataclasses import replace

from engine_harness import NumberTokenizer, by_key, tiny
from latent_requests import PAUSE, START, latent, think

from jobs.generate.protocol import Request, Sample
from jobs.generate.transformers_engine import TransformersEngine
from jobs.latent.knobs import GAUSSIAN
from jobs.latent.noise import normal, request_key
from jobs.methods.grpo.objective import GrpoObjective
from jobs.methods.grpo.rows import row_of
from jobs.models.parts import parts
from jobs.rl.replay import feed
from jobs.rl.rollout import Rollout
from jobs.train.objective import Item
from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.grpo import GrpoSettings

pytestmark = pytest.mark.heavy

HEAT = 0.8
SOFT = {"kind": "soft", "temperature": 0.9, "top_p": 0.95, "max_topk": 8}
GAUSS = {"kind": "gaussian", "strength": 0.1}
CASES: dict[str, tuple[Any, Any, DisturbanceSpec | None]] = {
    "text": (None, None, None),
    "soft": (SOFT, None, None),
    "soft, concrete": (SOFT, {"kind": "concrete"}, None),
    "soft, concrete at times": (
        SOFT,
        {"kind": "concrete"},
        DisturbanceSpec(entropy_threshold=1.5, max_ratio=0.6),
    ),
    "soft, dirichlet": (SOFT, {"kind": "dirichlet", "alpha": 5.0}, None),
    "soft, multiplex": (SOFT, {"kind": "multiplex"}, None),
    "soft, logits": (SOFT, {**GAUSS, "on": "logits"}, None),
    "soft, gaussian": (SOFT, GAUSS, DisturbanceSpec(entropy_threshold=1.5)),
    "soft, gaussian, absolute": (SOFT, {**GAUSS, "scale": "absolute"}, None),
    "soft, concrete and floor": (SOFT, {"kind": "concrete"}, DisturbanceSpec(max_ratio=0.5, floor=0.02)),
    "hidden": ("hidden", None, None),
    "hidden, gaussian": ("hidden", GAUSS, None),
    "contextual, gaussian": ({"kind": "contextual", "window": 3}, GAUSS, None),
    "contextual, latent only": ({"kind": "contextual", "window": 3, "include": "latent_only"}, GAUSS, None),
    "contextual, from marker": (
        {"kind": "contextual", "window": 4, "include": "from_start_marker"},
        GAUSS,
        None,
    ),
    "pause": ("pause", None, None),
}
PROMPTS = [[3, 14, 15, 92, *START], [6, 5, 35, 8, 9, 79, 3, *START], [23, *START]]


def rollouts(model: Any, name: str) -> list[tuple[Request, Sample]]:
    """Ragged rows: three prompts, two samples each; one is cut inside its span."""
    input, noise, disturbance = CASES[name]
    requests = []
    for i, prompt in enumerate(PROMPTS):
        for index in range(2):
            asked = None
            if input is not None:
                asked = replace(
                    latent(input, {"end_marker": True, "max_len": 3 + 2 * i}, noise=noise),
                    disturbance=disturbance,
                    record=True,
                )
            most = 6 if i == 2 else 16
            request = think(f"p{i}", prompt, asked, most, index=index, temperature=HEAT)
            requests.append(replace(request, tempered=True))
    engine = TransformersEngine(model, NumberTokenizer(), max_batch=4, max_batch_tokens=4096)
    found = by_key(engine.generate(requests))
    return [(r, found[r.id, r.index]) for r in requests]


def objective(name: str, **settings: Any) -> GrpoObjective:
    input, noise, disturbance = CASES[name]
    spec = None if input is None else latent(input, {"fixed": 3}, noise=noise).spec
    return GrpoObjective(
        GrpoSettings(temperature=HEAT, **settings),
        latent=spec,
        disturbance=disturbance,
        start=len(START),
        token=PAUSE if input == "pause" else None,
        pad=0,
    )


def items(made: list[tuple[Request, Sample]]) -> list[Item]:
    rows = [row_of(Rollout(i, i // 2, r.ids, s)) for i, (r, s) in enumerate(made)]
    return [Item(row, i) for i, row in enumerate(rows)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_replayed_log_probs_are_the_rollouts(family: str, name: str) -> None:
    """Of every text token, within 1e-3 (measured: below 1e-4)."""
    model = tiny(family).eval()
    made = rollouts(model, name)
    own = objective(name)
    batch = own.collate(items(made))
    with torch.no_grad():
        scores = own.score(model, batch.tensors)
    assert len(scores["text"]) == len(batch.tensors["engine"]) > 20
    gap = (scores["text"] - batch.tensors["engine"]).abs().max()
    assert float(gap) < 1e-4


@pytest.mark.parametrize("name", [n for n in CASES if "gaussian" in n or "contextual" in n or "floor" in n])
def test_replayed_means_are_the_rollouts(name: str) -> None:
    """What was fed, less the noise that was drawn, is what the model would feed now: within 1e-4."""
    model = tiny("qwen3").eval()
    made = rollouts(model, name)
    own = objective(name)
    batch = own.collate(items(made))
    taken = parts(model)
    with torch.no_grad():
        x = feed(taken, batch.tensors, own.layout)
        said = own._said(taken, x, batch.tensors).steps[GAUSSIAN]
    keys, steps, sigmas, fed = [], [], [], []
    for request, sample in made:
        assert sample.actions is not None
        assert sample.actions.fed is not None
        index = (sample.actions.kind == GAUSSIAN).nonzero().squeeze(-1)
        key = request_key(request.sampling.seed, request.id, request.index)
        keys += [key] * len(index)
        steps += index.tolist()
        sigmas.append(sample.actions.sigma[index])
        fed.append(sample.actions.fed[index])
    lanes = torch.arange(32)
    eps = normal(torch.tensor(keys), torch.tensor(steps), lanes).float()
    wanted = torch.cat(fed) - torch.cat(sigmas)[:, None] * eps
    assert len(wanted) > 5
    assert said.mean is not None
    torch.testing.assert_close(said.mean, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in CASES if n != "text"])
def test_all_latent_steps_are_recorded_and_feed_again_what_was_fed(name: str) -> None:
    model = tiny("qwen3").eval()
    made = rollouts(model, name)
    for _, sample in made:
        assert sample.actions is not None
        assert len(sample.actions.kind) == sample.latents
        if sample.actions.fed is not None and CASES[name][0] == SOFT:
            table = model.get_input_embeddings().weight.detach()
            mixed = torch.bmm(sample.actions.weights[:, None], table[sample.actions.ids]).squeeze(1)
            quiet = sample.actions.kind != GAUSSIAN
            torch.testing.assert_close(mixed[quiet], sample.actions.fed[quiet], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_padding_and_order_of_rows_change_nothing(name: str) -> None:
    model = tiny("qwen3").eval()
    own = objective(name)
    all_items = [
        Item(item.row._replace(advantage=(-1.0) ** i * (i + 1), scale=1.0, weight=1.0), i)
        for i, item in enumerate(items(rollouts(model, name)))
    ]

    def gradient(split: list[list[Item]]) -> torch.Tensor:
        model.zero_grad()
        for part in split:
            own.loss(model, own.collate(part).tensors, measure=False).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient([all_items])
    assert float(whole.abs().max()) > 0
    alone = gradient([[item] for item in reversed(all_items)])
    assert float((alone - whole).abs().max()) < 3e-5 * float(whole.abs().max())


def test_the_head_in_parts_gives_the_same_loss_and_gradient() -> None:
    from jobs.rl import head

    model = tiny("qwen3").eval()
    own = objective("soft, concrete")
    rows = [
        Item(item.row._replace(advantage=1.0 + i, scale=1.0, weight=1.0), i)
        for i, item in enumerate(items(rollouts(model, "soft, concrete")))
    ]
    batch = own.collate(rows)

    def gradient() -> torch.Tensor:
        model.zero_grad()
        own.loss(model, batch.tensors, measure=False).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_MIB", 97 * 4 * 5 // 256)  # five positions at a time
        assert float((gradient() - whole).abs().max()) < 1e-5 * float(whole.abs().max())
