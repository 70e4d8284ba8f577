"""The loss of GRPO: one replay of each rollout, a clipped policy gradient on drawn tokens and noisy steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jobs.latent.actions import stores_inputs
from jobs.latent.density import Settings, kept_logp, kl, log_prob, weights_kl
from jobs.latent.knobs import CONCRETE, DIRICHLET, GAUSSIAN, GAUSSIAN_LOGITS, MULTIPLEX
from jobs.methods.grpo.rows import GrpoRow, Scored
from jobs.models.parts import Parts
from jobs.rl.head import Head
from jobs.rl.mismatch import Correction, correction
from jobs.rl.policy import Surrogate, k3, mean_over, surrogate
from jobs.rl.replay import Layout, Steps, feed, replay, steps
from jobs.train.objective import Batch, Item, Outcome
from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.grpo import GrpoSettings
from latentctl.spec.latent import LatentSpec

_KINDS = {"concrete": CONCRETE, "dirichlet": DIRICHLET, "multiplex": MULTIPLEX}


class Said(NamedTuple):
    """What a model says of a micro-batch."""

    text: Tensor
    """(T,) log-probs of drawn tokens."""
    entropy: Tensor | None
    steps: dict[int, Steps]
    touched: Tensor
    """() 0, through everything that was called, whatever the rows held."""


class Latent(NamedTuple):
    """(S,) each, of the steps of one kind of noise: log-densities now and before the update, their rows."""

    new: Tensor
    old: Tensor
    rows: Tensor


class GrpoObjective:
    """See `jobs.train.objective.Objective`. `latent`: settled settings, None for text alone; `start`: tokens
    of the start marker; `token`: what `pause` feeds; `reference`: the model that the KL divergence is taken
    to, where it is not the policy without its adapters."""

    metrics: tuple[str, ...] = ("accuracy", "reward")

    def __init__(
        self,
        settings: GrpoSettings,
        *,
        latent: LatentSpec | None,
        disturbance: DisturbanceSpec | None = None,
        start: int = 1,
        token: int | None = None,
        pad: int,
        reference: nn.Module | None = None,
    ) -> None:
        self.settings, self.latent, self.reference = settings, latent, reference
        self.layout = Layout(
            latent,
            kinds(latent, disturbance),
            pad=pad,
            vectors=latent is not None and stores_inputs(latent, disturbance),
            start=start,
            token=token,
        )
        self.density = None if latent is None else Settings.of(latent)

    def collate(self, items: Sequence[Item]) -> Batch:
        rows: list[GrpoRow] = [item.row for item in items]
        tensors = self.layout.tensors([(row.sequence, row.actions) for row in rows])
        count = max(1, len(rows))

        def column(name: str) -> Tensor:
            return torch.tensor([getattr(row, name) for row in rows] or [0.0], dtype=torch.float32)

        tensors |= {name: column(name) for name in ("advantage", "scale", "legacy", "drawn")}
        tensors["rows"] = count
        engine = [logp for row in rows for logp in row.sequence.engine]
        tensors["engine"] = torch.tensor(engine, dtype=torch.float32)
        scored = [row.scored for row in rows]
        if rows and all(s is not None for s in scored):
            there = [s for s in scored if s is not None]
            tensors["old"] = torch.cat([s.text for s in there])
            entropy = torch.cat([s.entropy for s in there])
            limits = torch.tensor([row.high for row in rows])[tensors["text_row"]]
            tensors["counts"] = (entropy >= limits).float()
            for kind in self.layout.kinds:
                if f"at_{kind}" in tensors:
                    tensors[f"old_{kind}"] = torch.cat([s.steps[kind] for s in there])
        return Batch(
            tensors,
            weight=float(sum(row.weight for row in rows)),
            tokens=sum(row.length for row in rows),
            rows=len(rows),
        )

    def loss(self, model: Any, tensors: dict[str, Any], *, measure: bool) -> Outcome:
        """Σ scale · (policy loss + beta · KL) over positions. Statistics come as NAME and NAME_n."""
        settings = self.settings
        parts = Parts(model)
        x = feed(parts, tensors, self.layout)
        said = self._said(parts, x, tensors, entropies=True)
        count, rows = tensors["rows"], tensors["text_row"]
        drawn = tensors["drawn"].bool()
        now = said.text.detach()
        old = torch.where(drawn[rows], tensors.get("old", now), now)
        engine = torch.where(drawn[rows], tensors["engine"], old)
        fixed = correction(old, engine, rows, count, settings.mismatch)
        latent = self._latent(said, tensors, drawn)
        new = torch.cat([said.text, *(one.new for one in latent)])
        before = torch.cat([old, *(one.old for one in latent)])
        owner = torch.cat([rows, *(one.rows for one in latent)])
        made = surrogate(new, before, tensors["advantage"][owner], owner, count, settings)
        counts = tensors.get("counts", torch.ones_like(now)) * fixed.tokens
        counts = torch.cat([counts, torch.ones_like(new[len(rows) :])])
        each = made.loss * counts * fixed.samples[owner]
        gaps = self._divergence(parts, said, tensors)
        if gaps is not None:
            each = each + settings.kl.beta * gaps
        total = (each * tensors["scale"][owner]).sum() + self._legacy(said, tensors) + said.touched
        with torch.no_grad():
            return Outcome(total, _told(made, said, fixed, gaps, len(rows)))

    def score(self, model: Any, tensors: dict[str, Any]) -> dict[str, Tensor]:
        """`text`, `entropy` (T,), `steps_k` (S,) for each kind k of noise, `reference` (rows,)."""
        parts = Parts(model)
        x = feed(parts, tensors, self.layout)
        said = self._said(parts, x, tensors, entropies=True)
        assert said.entropy is not None
        found = {"text": said.text, "entropy": said.entropy}
        own = {kind: self._density(kind, one) for kind, one in said.steps.items()}
        found |= {f"steps_{kind}": values for kind, values in own.items()}
        gap = torch.zeros(tensors["rows"], device=x.device)
        if self.settings.kl.beta and self.settings.kl.where == "reward":
            with self._reference(parts) as other:
                there = self._said(other, feed(other, tensors, self.layout), tensors)
                gap = gap.index_add(0, tensors["text_row"], said.text - there.text)
                for kind, one in there.steps.items():
                    at = tensors.get(f"row_{kind}", tensors["text_row"][:0])
                    gap = gap.index_add(0, at, own[kind] - self._density(kind, one))
        return {**found, "reference": gap}

    def put(self, rows: Sequence[GrpoRow], scores: dict[str, Tensor]) -> list[GrpoRow]:
        """The rows of a batch with what `score` said of it."""
        done: list[GrpoRow] = []
        at, places = 0, dict.fromkeys(self.layout.kinds, 0)
        for i, row in enumerate(rows):
            n = len(row.sequence.text)
            own: dict[int, Tensor] = {}
            for kind in places:
                steps_n = 0 if row.actions is None else int((row.actions.kind == kind).sum())
                values = scores.get(f"steps_{kind}", torch.zeros(0))
                own[kind] = values[places[kind] : places[kind] + steps_n]
                places[kind] += steps_n
            text, entropy = scores["text"][at : at + n], scores["entropy"][at : at + n]
            scored = Scored(text, entropy, own, float(scores["reference"][i]))
            done.append(row._replace(scored=scored))
            at += n
        return done

    def _said(self, parts: Parts, x: Tensor, tensors: dict[str, Any], *, entropies: bool = False) -> Said:
        settings = self.settings
        hidden = replay(parts, x)
        head = Head(parts, hidden, temperature=settings.temperature, memory=settings.logit_memory)
        text, entropy = head.text(tensors["text_at"], tensors["text_ids"], entropies=entropies)
        means = settings.latent_loss.kind in ("l1", "l2")
        found = {
            kind: steps(parts, head, tensors, self.layout, kind, means=means) for kind in self.layout.kinds
        }
        return Said(text, entropy, found, torch.stack(head.touched).sum())

    def _density(self, kind: int, one: Steps) -> Tensor:
        assert self.density is not None
        reduction = self.settings.latent_loss.reduction
        return log_prob(
            one.actions, kind, self.density, logits=one.logits, mean=one.mean, z=one.z, reduction=reduction
        )

    def _latent(self, said: Said, tensors: dict[str, Any], drawn: Tensor) -> list[Latent]:
        """The steps of each kind of noise; none with a legacy latent loss."""
        found = []
        for kind, one in said.steps.items() if self.settings.latent_loss.kind == "pg" else ():
            new = self._density(kind, one)
            rows = tensors.get(f"row_{kind}", tensors["text_row"][:0])
            old = torch.where(drawn[rows], tensors.get(f"old_{kind}", new.detach()), new.detach())
            found.append(Latent(new, old, rows))
        return found

    def _divergence(self, parts: Parts, said: Said, tensors: dict[str, Any]) -> Tensor | None:
        """(P,) at each position the KL divergence to the reference model: k3 of text tokens, of latent steps
        what `jobs.latent.density.kl` gives. None where it is not in the loss."""
        settings = self.settings
        if not settings.kl.beta or settings.kl.where != "loss":
            return None
        with self._reference(parts) as other:
            there = self._said(other, feed(other, tensors, self.layout), tensors)
        found = [k3(said.text, there.text)]
        for kind, one in said.steps.items() if settings.latent_loss.kind == "pg" else ():
            far = there.steps[kind]
            assert self.density is not None
            found.append(
                kl(
                    one.actions,
                    kind,
                    self.density,
                    logits=one.logits,
                    other=far.logits,
                    mean=one.mean,
                    other_mean=far.mean,
                )
            )
        return torch.cat(found)

    def _legacy(self, said: Said, tensors: dict[str, Any]) -> Tensor:
        """Document 000's latent loss: over each sample's disturbed steps the mean of advantage · distance,
        between what was fed and what the model would feed (`l1`, `l2`: mean over the width), or between the
        noisy weights and the model's (`kl`). Floor noise is no disturbance. 0 with `pg`."""
        spec = self.settings.latent_loss
        total = said.text.new_zeros(())
        if spec.kind == "pg":
            return total
        distances, owners = [], []
        for kind, one in said.steps.items():
            index = one.actions.disturbed.nonzero().squeeze(-1)
            rows = tensors.get(f"row_{kind}", tensors["text_row"][:0])
            distances.append(self._distance(one)[index])
            owners.append(rows[index])
        distance, owner = torch.cat(distances), torch.cat(owners)
        advantage = tensors["advantage"]
        if spec.bounded:
            advantage = advantage.clamp(min=0.0)
        means = mean_over(distance, owner, tensors["rows"])
        return spec.weight * (advantage * tensors["legacy"] * means).sum()

    def _distance(self, one: Steps) -> Tensor:
        """(S,) of the legacy kinds."""
        if self.settings.latent_loss.kind == "kl":
            assert one.logits is not None
            assert self.density is not None
            logp = kept_logp(one.logits, one.actions.kept, self.density.temperature)
            return weights_kl(one.actions, logp)
        assert one.mean is not None
        assert one.z is not None
        gap = one.z - one.mean
        return gap.abs().mean(-1) if self.settings.latent_loss.kind == "l1" else gap.square().mean(-1)

    @contextmanager
    def _reference(self, parts: Parts) -> Iterator[Parts]:
        """The reference model, asked without gradient."""
        own = nullcontext() if self.reference is not None else without_adapters(parts.model)
        with torch.no_grad(), own:
            yield Parts(self.reference) if self.reference is not None else parts


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as it is without its LoRA adapters."""
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "_disable_adapters")]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def kinds(latent: LatentSpec | None, disturbance: DisturbanceSpec | None) -> tuple[int, ...]:
    """Of noise that may have fallen on a stage's latent steps."""
    if latent is None:
        return ()
    noise = latent.noise
    found = set()
    if noise is not None and noise.kind == "gaussian":
        found.add(GAUSSIAN_LOGITS if noise.on == "logits" else GAUSSIAN)
    elif noise is not None:
        found.add(_KINDS[noise.kind])
    if disturbance is not None and disturbance.floor > 0:
        found.add(GAUSSIAN)
    return tuple(sorted(found))


def _told(
    made: Surrogate, said: Said, fixed: Correction, gaps: Tensor | None, texts: int
) -> dict[str, Tensor]:
    """Sums and their counts; `latent_` is about noisy latent steps, all else about drawn tokens."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def add(name: str, values: Tensor) -> None:
        found[name] = values.double().sum(), torch.tensor(float(values.numel()), device=values.device)

    assert said.entropy is not None
    add("entropy", said.entropy)
    add("ratio", made.ratio[:texts])
    add("clip_low", made.low[:texts])
    add("clip_high", made.high[:texts])
    add("mismatch", fixed.gap.abs())
    add("mismatch_weight", fixed.gap.exp())
    add("mismatch_masked_tokens", (fixed.tokens == 0).double())
    add("mismatch_masked_samples", (fixed.samples == 0).double())
    if said.steps:
        add("latent_ratio", made.ratio[texts:])
        add("latent_clipped", (made.low | made.high)[texts:])
    if gaps is not None:
        add("kl", gaps[:texts])
        if said.steps:
            add("latent_kl", gaps[texts:])
    return {k: v for name, (total, n) in found.items() for k, v in ((name, total), (f"{name}_n", n))}
