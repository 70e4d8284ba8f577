"""Log-probs from hidden states without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jobs.models.parts import Parts
from jobs.runtime import distributed

_MIB = 2**20


class Head:
    """The head of a model at positions of one's choice, at a temperature.

    So many positions go through it at once that their float32 logits take at most `memory` MiB (and at least
    one); of several parts each is worked out again in the backward pass, and only then held. Where weights
    lie in pieces (ZeRO-3) all ranks must call the head equally often: the rank with most parts decides.
    """

    def __init__(self, parts: Parts, hidden: Tensor, *, temperature: float, memory: int) -> None:
        """`hidden` (P, d): the states of all positions, of which the methods take some."""
        self.parts, self.hidden, self.temperature = parts, hidden, temperature
        vocabulary = parts.config.vocab_size
        self.rows = max(1, memory * _MIB // (4 * vocabulary))
        self.together = any(hasattr(p, "ds_id") for p in parts.model.parameters())
        self.touched: list[Tensor] = [0.0 * hidden.sum()]
        """() 0 each, through every call: what keeps a rank without positions in the backward pass."""

    def text(self, at: Tensor, targets: Tensor, *, entropies: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probs (N,) of the tokens `targets` (N,) after the places `at` (N,), float32; and the entropies
        (N,) in nats of their distributions, without gradient."""

        def part(h: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.parts.head(h).float() / self.temperature
            norm = logits.logsumexp(-1)
            logp = logits.gather(-1, ids[:, None]).squeeze(-1) - norm
            if not entropies:
                return logp, logp.detach()
            with torch.no_grad():
                return logp, norm - ((logits - norm[:, None]).exp() * logits).sum(-1)

        found = [self._run(part, places, ids) for places, ids in self._parts(at, targets)]
        logp = torch.cat([a for a, _ in found])[: len(targets)]
        return logp, torch.cat([b for _, b in found])[: len(targets)] if entropies else None

    def at(self, at: Tensor, ids: Tensor) -> Tensor:
        """Logits (N, K) of the tokens `ids` (N, K) after the places `at` (N,): raw, float32."""

        def part(h: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.parts.head(h).float().gather(-1, own)
            return logits, logits.detach()

        found = [self._run(part, places, own)[0] for places, own in self._parts(at, ids)]
        return torch.cat(found)[: len(ids)]

    def _parts(self, at: Tensor, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """At least one part; a rank with nothing left takes its first position again."""
        count = max(1, -(-len(ids) // self.rows))
        if self.together:
            count = int(distributed.all_max(count))
        if len(ids) == 0:
            at, ids = at.new_zeros(1), ids.new_zeros(1, *ids.shape[1:])
        self.pieces = count
        for i in range(count):
            span = slice(i * self.rows, (i + 1) * self.rows)
            yield (at[span], ids[span]) if i * self.rows < len(ids) else (at[:1], ids[:1])

    def _run(
        self, part: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], at: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        hidden = self.hidden[at]
        if self.pieces == 1 or not torch.is_grad_enabled():
            found: Any = part(hidden, ids)
        else:
            found = checkpoint(part, hidden, ids, use_reentrant=False, preserve_rng_state=False)
        self.touched.append(0.0 * found[0].sum())
        return found
