"""The loss on noisy latent steps against plain loops over rows and positions, with torch's own densities."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rl"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "generate"))

from engine_harness import tiny
from test_replay import CASES, HEAT, SOFT, items, objective, rollouts

from jobs.generate.protocol import Request, Sample
from jobs.latent.knobs import CONCRETE, GAUSSIAN
from jobs.methods.grpo.rows import GrpoRow, Scored
from jobs.train.objective import Item
from latentctl.spec.latent import ConcreteNoise

pytestmark = pytest.mark.heavy

ADVANTAGES = [1.5, -0.7, 0.4, -2.0, 0.9, 1.1]
SCALES = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]
LEGACY = [0.5, 0.25, 0.5, 0.75, 1.0, 0.5]
LOW, HIGH = 0.2, 0.28
TAU = ConcreteNoise().temperature
Made = list[tuple[Request, Sample]]


class Step:
    """One noisy latent step, as a naive forward sees it."""

    def __init__(self, model: Any, sample: Sample, t: int, logits: Tensor) -> None:
        actions = sample.actions
        assert actions is not None
        table = model.get_input_embeddings().weight
        kept = actions.kept[t]
        ids = actions.ids[t][kept]
        self.kind = int(actions.kind[t])
        self.disturbed = bool(actions.disturbed[t])
        self.said = logits[ids] / SOFT["temperature"]
        self.weights = actions.weights[t][kept]
        self.x, self.sigma = actions.x[t][kept], actions.sigma[t]
        self.mean = self.said.softmax(-1) @ table[ids]
        fed = self.weights @ table[ids] if actions.fed is None else actions.fed[t]
        self.z = fed.detach()

    def density(self) -> Tensor:
        if self.kind == GAUSSIAN:
            return Normal(self.mean, self.sigma).log_prob(self.z).sum()
        assert self.kind == CONCRETE
        return ExpRelaxedCategorical(torch.tensor(TAU), logits=self.said).log_prob(self.x)

    def distance(self, kind: str) -> Tensor:
        if kind == "kl":
            return (self.weights * (self.weights.log() - self.said.log_softmax(-1))).nansum()
        gap = self.z - self.mean
        return gap.abs().mean() if kind == "l1" else gap.square().mean()


def naive(model: Any, made: Made) -> list[tuple[list[Tensor], list[Step]]]:
    """Of each row: log-probs of the tokens that were drawn, and its noisy latent steps."""
    table = model.get_input_embeddings().weight
    found = []
    for request, sample in made:
        forced = set(sample.forced_at)
        ids = [*sample.ids, *([sample.end[0]] if sample.end else [])]
        spans = dict(sample.spans)
        inputs = [table[i] for i in request.ids]
        places: list[tuple[int, int | None]] = []  # (place of what was drawn, its token or None)
        done = 0
        actions = sample.actions
        for at, token in enumerate([*ids, None]):
            for _ in range(spans.get(at, 0)):
                assert actions is not None
                places.append((len(inputs), -1 - done))
                fed = actions.weights[done] @ table[actions.ids[done]]
                inputs.append((fed if actions.fed is None else actions.fed[done]).detach())
                done += 1
            if token is not None:
                if at not in forced:
                    places.append((len(inputs), token))
                inputs.append(table[token])
        logits = model(inputs_embeds=torch.stack(inputs)[None]).logits[0]
        text, steps = [], []
        for place, token in places:
            assert token is not None
            if token >= 0:
                text.append(Categorical(logits=logits[place - 1] / HEAT).log_prob(torch.tensor(token)))
            elif actions is not None and int(actions.kind[-1 - token]):
                steps.append(Step(model, sample, -1 - token, logits[place - 1]))
        found.append((text, steps))
    return found


def surrogate(new: Tensor, old: Tensor, advantage: float) -> Tensor:
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage)


def gradient(model: Any, value: Tensor) -> Tensor:
    model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def weighed(made: Made) -> list[GrpoRow]:
    rows = [item.row for item in items(made)]
    return [
        row._replace(advantage=a, scale=s, legacy=w, weight=1.0)
        for row, a, s, w in zip(rows, ADVANTAGES, SCALES, LEGACY, strict=True)
    ]


def both(model: Any, own: Any, rows: list[GrpoRow], wanted: Tensor) -> None:
    """Value and gradient of the objective are those of the loops."""
    expected = gradient(model, wanted)
    batch = own.collate([Item(row, i) for i, row in enumerate(rows)])
    value = own.loss(model, batch.tensors, measure=False).loss
    assert float(value.detach()) == pytest.approx(float(wanted.detach()), rel=1e-4, abs=1e-5)
    gap = (gradient(model, value) - expected).abs().max()
    assert float(gap) < 1e-4 * float(expected.abs().max())


NOISY = ["soft, concrete", "soft, concrete at times", "soft, gaussian", "soft, concrete and floor"]
OPTIONS: dict[str, Any] = {"mismatch": {"mode": "none"}, "clip_low": LOW, "clip_high": HIGH}


@pytest.mark.parametrize("reduction", ["sum", "mean_over_dims"])
@pytest.mark.parametrize("name", NOISY)
def test_noisy_steps_have_the_policy_gradient_of_their_density(name: str, reduction: str) -> None:
    """Ratio and clip per step, against log-densities before the update that differ from those now."""
    model = tiny("qwen3", scale=2.0).eval()
    made = rollouts(model, name)
    own = objective(name, latent_loss={"reduction": reduction}, **OPTIONS)
    rng = torch.Generator().manual_seed(3)
    rows, total, clipped = [], torch.zeros(()), 0
    for row, (text, steps) in zip(weighed(made), naive(model, made), strict=True):
        dims = [len(s.z) if s.kind == GAUSSIAN else len(s.said) for s in steps]
        divide = dims if reduction == "mean_over_dims" else [1] * len(steps)
        new = [s.density() / n for s, n in zip(steps, divide, strict=True)]
        old = [(v + 0.4 * torch.randn((), generator=rng)).detach() for v in [*text, *new]]
        for now, before in zip([*text, *new], old, strict=True):
            total = total + row.scale * surrogate(now, before, row.advantage)
        past = old[len(text) :]
        clipped += sum(abs(float(n.detach() - o)) > 0.3 for n, o in zip(new, past, strict=True))
        of_kind = {
            k: torch.tensor([float(o) for o, s in zip(past, steps, strict=True) if s.kind == k])
            for k in own.layout.kinds
        }
        before = torch.tensor([float(v) for v in old[: len(text)]])
        rows.append(row._replace(scored=Scored(before, torch.zeros(len(text)), of_kind, 0.0)))
    assert clipped >= 3
    both(model, own, rows, total)


LEGACY_KINDS = [(name, kind) for name in NOISY for kind in ("l1", "l2")]
LEGACY_KINDS += [(name, "kl") for name in NOISY if "gaussian" not in name]  # which draws no weights


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize(("name", "kind"), LEGACY_KINDS)
def test_legacy_losses_are_the_weighed_mean_distance_of_disturbed_steps(
    name: str, kind: str, bounded: bool
) -> None:
    model = tiny("qwen3", scale=2.0).eval()
    made = rollouts(model, name)
    own = objective(name, latent_loss={"kind": kind, "weight": 7.0, "bounded": bounded}, **OPTIONS)
    rows, total = weighed(made), torch.zeros(())
    floor = 0
    for row, (text, steps) in zip(rows, naive(model, made), strict=True):
        for value in text:
            total = total - row.scale * row.advantage * (value - value.detach()).exp()
        floor += sum(not s.disturbed for s in steps)
        taken = [s.distance(kind) for s in steps if s.disturbed]
        if taken:
            advantage = max(0.0, row.advantage) if bounded else row.advantage
            total = total + 7.0 * row.legacy * advantage * torch.stack(taken).mean()
    assert (floor > 0) == ("floor" in name)
    both(model, own, rows, total)


def test_l2_is_the_policy_gradient_of_normal_noise_at_the_right_weight() -> None:
    """d / (2 sigma²) for a mean over d dimensions: the one weight at which the legacy loss is sound."""
    name = "soft, gaussian, absolute"
    model = tiny("qwen3", scale=2.0).eval()
    made = rollouts(model, name)
    sigma = CASES[name][1]["strength"]
    width = model.get_input_embeddings().weight.shape[1]
    rows = []
    for row, (_, steps) in zip(weighed(made), naive(model, made), strict=True):
        assert steps
        assert all(float(s.sigma) == pytest.approx(sigma) for s in steps)
        rows.append(row._replace(legacy=row.scale * len(steps)))

    def found(**loss: Any) -> Tensor:
        own = objective(name, latent_loss=loss, **OPTIONS)
        batch = own.collate([Item(row, i) for i, row in enumerate(rows)])
        return gradient(model, own.loss(model, batch.tensors, measure=False).loss)

    sound = found(kind="pg")
    legacy = found(kind="l2", weight=width / (2 * sigma**2))
    assert float((sound - legacy).abs().max()) < 1e-4 * float(sound.abs().max())
    other = found(kind="l2", weight=1.0)
    assert float((sound - other).abs().max()) > 0.05 * float(sound.abs().max())
