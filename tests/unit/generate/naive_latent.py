"""Latent decoding written from its specification: one row, no cache, one number at a time, in float64 where
numbers are weighed. Shares no code with the engine or with `jobs.latent`, its random numbers aside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jobs.generate.protocol import Request, Sample
from jobs.latent.noise import gumbel, request_key
from latentctl.spec.latent import ConcreteNoise, ContextualInput, SoftInput


def entropy_of(logits: Tensor, temperature: float) -> float:
    logs = torch.log_softmax(logits.double() / temperature, -1)
    return float(-(logs.exp() * logs).sum())


def mixture(
    logits: Tensor,
    spec: SoftInput,
    embedding: Tensor,
    noise: Callable[[Tensor, Tensor], Tensor] = lambda ids, weights: weights,
) -> Tensor:
    """Temperature, top-k, top-p, min-p, cap, each renormalised, over a full sort; then `noise` makes other
    weights of those of the kept ids."""
    probs, order = torch.softmax(logits.double() / spec.temperature, -1).sort(descending=True, stable=True)
    share = probs.tolist()
    if spec.top_k:
        share = share[: spec.top_k]
    total, kept, running = sum(share), [], 0.0
    for p in share:
        if spec.top_p < 1 and running >= spec.top_p:
            break
        kept.append(p / total)
        running += p / total
    kept = [p for p in kept if p >= spec.min_p * kept[0]][: spec.max_topk]
    weights = torch.tensor(kept, dtype=torch.float64) / sum(kept)
    ids = order[: len(kept)]
    return (noise(ids, weights)[:, None] * embedding[ids].double()).sum(0)


@dataclass
class Mind:
    """What one row does next, given the logits and the hidden state of its newest position."""

    request: Request
    embedding: Tensor
    thinking: bool = field(init=False)
    states: list[Tensor] = field(default_factory=list)
    """Of all positions."""
    opened: int = 0
    """Position of the start marker's last token."""
    steps: int = 0
    """Latent steps in this span."""
    total: int = 0
    """In all spans."""
    low: int = 0
    text: list[int] = field(default_factory=list)
    """What was written since the last span."""
    cause: str | None = None

    def __post_init__(self) -> None:
        asked = self.request.thoughts
        assert asked is not None
        self.asked = asked
        self.thinking = asked.spec.start == "prompt"
        self.opened = len(self.request.ids) - 1

    def hear(self, token: int) -> None:
        """This token was drawn as text."""
        self.text.append(token)
        if (
            self.asked.spec.start == "model"
            and tuple(self.text[-len(self.asked.start) :]) == self.asked.start
        ):
            self.thinking, self.steps, self.low, self.text = True, 0, 0, []
            self.opened = len(self.states)

    def latent(self, logits: Tensor) -> Tensor | None:
        """The next latent input, or None: the span ends, and `cause` says why."""
        self.cause = self._ends(logits)
        if self.cause:
            self.thinking = False
            return None
        self.steps += 1
        self.total += 1
        return self._input(logits)

    def _ends(self, logits: Tensor) -> str | None:
        stop = self.asked.spec.stop
        assert stop is not None
        if self.asked.fixed is not None and self.steps >= self.asked.fixed:
            return "fixed"
        if stop.end_marker and int(logits.argmax()) == self.asked.end[0]:
            return "end_marker"
        if stop.entropy is not None:
            own = self.asked.spec.input
            heat = own.temperature if isinstance(own, SoftInput) and stop.entropy.on == "input" else 1.0
            self.low = self.low + 1 if entropy_of(logits, heat) < stop.entropy.threshold else 0
            if self.low >= stop.entropy.patience:
                return "entropy"
        if stop.max_len is not None and self.steps >= stop.max_len:
            return "max_len"
        return None

    def _input(self, logits: Tensor) -> Tensor:
        spec = self.asked.spec.input
        if isinstance(spec, SoftInput):
            return mixture(logits, spec, self.embedding, self._noise)
        if isinstance(spec, ContextualInput):
            return self._mean(spec)
        if spec is not None and spec.kind == "pause":
            return self.embedding[self.asked.token].double()
        return self.states[-1].double()

    def _noise(self, ids: Tensor, weights: Tensor) -> Tensor:
        noise = self.asked.spec.noise
        if noise is None:
            return weights
        assert isinstance(noise, ConcreteNoise), "the other noises are not written here"
        key = request_key(self.request.sampling.seed, self.request.id, self.request.index)
        drawn = gumbel(torch.tensor([key]), torch.tensor([self.total - 1]), ids[None])[0]
        return ((weights.log() + drawn) / noise.temperature).softmax(-1)

    def _mean(self, spec: ContextualInput) -> Tensor:
        first = {
            "all": 0,
            "latent_only": self.opened,
            "from_start_marker": self.opened - len(self.asked.start) + 1,
        }[spec.include]
        seen = self.states[max(first, len(self.states) - spec.window) :]
        if spec.compat and self.steps > 1:
            seen = seen[-1:]
        if isinstance(spec.weights, list):
            weights = list(spec.weights)
        else:
            ratio = spec.decay if spec.weights == "exponential" else 1.0
            weights = [ratio**i for i in range(spec.window)]
        if spec.compat:
            weights = weights[-len(seen) :]  # in the order of time
        else:
            weights = weights[: len(seen)][::-1]
        mean = sum((w / sum(weights)) * s.double() for w, s in zip(weights, seen, strict=True))
        assert isinstance(mean, Tensor)
        return mean * (seen[-1].double().norm() / mean.norm()) if spec.rescale else mean


@torch.no_grad()
def computed(model: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (L, V) and last hidden states (L, d) of one sequence of inputs (L, d), from scratch."""
    out = model(inputs_embeds=inputs[None], use_cache=False, output_hidden_states=True)
    return out.logits[0], out.hidden_states[-1][0]


def free_run(model: Any, request: Request, eos: int | None) -> tuple[list[int], int, str | None, str]:
    """Greedy text, latent steps, latent cause and stop cause, recomputing everything at each position."""
    embedding = model.get_input_embeddings().weight.detach()
    mind = Mind(request, embedding)
    inputs = [*embedding[torch.tensor(request.ids)]]
    ids: list[int] = []
    latents, forced, cause = 0, [], None
    room = request.sampling.max_new_tokens
    while len(ids) + latents < room:
        logits, hidden = computed(model, torch.stack(inputs))
        mind.states = list(hidden)
        if mind.thinking:
            x = mind.latent(logits[-1])
            if x is not None:
                inputs.append(x.to(embedding.dtype))
                latents += 1
                continue
            cause, forced = mind.cause, list(mind.asked.end)
        if forced:
            token = forced.pop(0)
        else:
            token = int(logits[-1].argmax())
            if token == eos:
                return ids, latents, cause, "eos"
            mind.hear(token)
        ids.append(token)
        inputs.append(embedding[token])
    return ids, latents, "budget" if mind.thinking and latents else cause, "length"


def replayed(model: Any, request: Request, sample: Sample, fed: list[Tensor], tolerance: float) -> None:
    """Teacher-forced: the engine's tokens and latent inputs `fed` in one forward without a cache; then every
    decision, latent input and log-prob is made again and compared."""
    embedding = model.get_input_embeddings().weight.detach()
    mind = Mind(request, embedding)
    before = dict(sample.spans)
    sequence: list[Tensor] = [*embedding[torch.tensor(request.ids)]]
    kinds: list[str] = []
    given = iter(fed)
    for place in range(len(sample.ids) + 1):
        for _ in range(before.get(place, 0)):
            sequence.append(next(given))
            kinds.append("latent")
        if place < len(sample.ids):
            sequence.append(embedding[sample.ids[place]])
            kinds.append("token")
    assert len(kinds) == len(sample.ids) + sample.latents <= request.sampling.max_new_tokens
    logits, hidden = computed(model, torch.stack(sequence))
    tokens, forced, place = iter(zip(sample.ids, sample.logps, strict=True)), [], len(request.ids) - 1
    steps = 0
    for kind in kinds:
        mind.states = list(hidden[: place + 1])
        own = logits[place]
        if mind.thinking:
            x = mind.latent(own)
            assert (x is None) == (kind == "token"), f"{mind.cause} at position {place}"
            if x is None:
                forced = list(mind.asked.end)
            else:
                off = (x.float() - sequence[place + 1]).abs().max() / x.abs().max()
                assert off < tolerance, f"latent input at position {place}: {off}"
                if sample.thoughts is not None:
                    thought = sample.thoughts[steps]
                    heat = mind.asked.spec.input.temperature if mind.asked.spec.input.kind == "soft" else 1.0  # type: ignore[union-attr]
                    assert math.isclose(thought.entropy, entropy_of(own, heat), abs_tol=tolerance)
                    assert thought.ids[0] == int(own.argmax())
                steps += 1
        if kind == "token":
            token, logp = next(tokens)
            assert math.isclose(logp, float(torch.log_softmax(own, -1)[token]), abs_tol=tolerance)
            if forced:
                assert token == forced.pop(0)
            else:
                assert token == int(own.argmax())
                mind.hear(token)
        place += 1
