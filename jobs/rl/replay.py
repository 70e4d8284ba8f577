"""One parallel forward over rollouts, with their latent steps as they were taken.

Nothing is decoded again: every position is fed what it was fed, and the model says what it makes of it now.
What was fed is data; the gradient goes through what the model says of the next token and latent step.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jobs.latent.actions import Actions
from jobs.latent.density import kept_logp
from jobs.latent.inputs import contextual, window_weights
from jobs.latent.knobs import GAUSSIAN, QUIET
from jobs.models.parts import Parts
from jobs.rl.head import Head
from jobs.rl.sequence import LATENT, Sequence
from latentctl.spec.latent import ContextualInput, LatentSpec, SoftInput

_ACTIONS = tuple(name for name in Actions._fields if name != "fed")


class Layout:
    """Rollouts as the tensors of one micro-batch, on the host. `latent`: the stage's settled settings, None
    for text alone; `kinds`: of the noise that may have fallen; `vectors`: latent inputs are recorded as such;
    `start`: tokens of the start marker; `token`: what `pause` feeds."""

    def __init__(
        self,
        latent: LatentSpec | None,
        kinds: Many[int],
        *,
        pad: int,
        vectors: bool = False,
        start: int = 1,
        token: int | None = None,
    ) -> None:
        self.latent, self.kinds, self.pad, self.vectors = latent, tuple(kinds), pad, vectors
        self.start, self.token = start, token

    def tensors(self, rows: Many[tuple[Sequence, Actions | None]]) -> dict[str, Any]:
        """`ids` (B, L) padded on the right; `text_at`, `text_ids`, `text_row` (T,): the flat place before
        each drawn token, the token, and its row; `fed_at` (M,): flat places of latent steps that are fed,
        with `fed` (M, d) or `fed_ids`, `fed_weights` (M, K); for each kind of noise its steps (`_steps`)."""
        width = max((seq.length for seq, _ in rows), default=1)
        ids = torch.full((max(1, len(rows)), width), self.pad)
        text_at, text_ids, text_row, fed_at = [], [], [], []
        taken: list[Actions] = []
        fed: list[Tensor] = []
        for b, (seq, actions) in enumerate(rows):
            shown = [self.pad if i == LATENT else i for i in seq.ids[: seq.length]]
            ids[b, : len(shown)] = torch.tensor(shown)
            text_at += [b * width + place - 1 for place in seq.text]
            text_ids += [seq.ids[place] for place in seq.text]
            text_row += [b] * len(seq.text)
            there = [place for place in seq.latent if place < seq.length]
            fed_at += [b * width + place for place in there]
            if actions is not None and seq.latent:
                taken.append(actions)
                fed.append(torch.arange(len(there)) + sum(len(a.kind) for a in taken[:-1]))
        found: dict[str, Any] = {
            "ids": ids,
            "text_at": torch.tensor(text_at, dtype=torch.int64),
            "text_ids": torch.tensor(text_ids, dtype=torch.int64),
            "text_row": torch.tensor(text_row, dtype=torch.int64),
        }
        if self.latent is None:
            return found
        joined = Actions.join(taken) if taken else None
        found["fed_at"] = torch.tensor(fed_at, dtype=torch.int64)
        if joined is not None:
            found |= self._inputs(joined.take(torch.cat(fed)))
        found |= self._steps(rows, joined, width)
        return found

    def _inputs(self, actions: Actions) -> dict[str, Tensor]:
        assert self.latent is not None
        if self.vectors:
            assert actions.fed is not None, "inputs were to be recorded as vectors"
            return {"fed": actions.fed}
        if self.token is not None:
            return {}
        return {"fed_ids": actions.ids, "fed_weights": actions.weights}

    def _steps(
        self, rows: Many[tuple[Sequence, Actions | None]], joined: Actions | None, width: int
    ) -> dict[str, Any]:
        """For each kind k of noise, of its steps: `at_k` (S,) the flat place before it, `row_k` (S,), and the
        `Actions` as `act_k_NAME`; `z_k` (S, d) what was fed, where vectors are recorded; of a window
        `seen_k`, `valid_k` (S, m)."""
        found: dict[str, Any] = {}
        places, owners, spans = [], [], []
        for b, (seq, actions) in enumerate(rows):
            if actions is None:
                continue
            places += [b * width + place - 1 for place in seq.latent]
            owners += [b] * len(seq.latent)
            spans += list(zip(seq.latent, seq.span, [seq.prompt] * len(seq.latent), strict=True))
        if joined is None:
            return found
        assert len(places) == len(joined.kind), "latent steps and their actions do not match"
        for kind in self.kinds:
            index = (joined.kind == kind).nonzero().squeeze(-1)
            own = joined.take(index)
            found[f"at_{kind}"] = torch.tensor(places, dtype=torch.int64)[index]
            found[f"row_{kind}"] = torch.tensor(owners, dtype=torch.int64)[index]
            found |= {f"act_{kind}_{name}": getattr(own, name) for name in _ACTIONS}
            if own.fed is not None:
                found[f"z_{kind}"] = own.fed
            if self.latent is not None and isinstance(self.latent.input, ContextualInput):
                picked = [(places[i], *spans[i]) for i in index.tolist()]
                found[f"seen_{kind}"], found[f"valid_{kind}"] = self._windows(self.latent.input, picked)
        return found

    def _windows(
        self, spec: ContextualInput, steps: Many[tuple[int, int, int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Flat places (S, m) of the states that each step looks at, newest first, and which of them count.
        A step: (flat place before it, place in its row, number in its span, prompt)."""
        m = spec.window
        seen, valid = [], []
        for at, place, number, _ in steps:
            begins = place - number  # where its span begins: so many positions stand before it
            before = {"latent_only": 1, "from_start_marker": min(begins, max(self.start, 1))}.get(
                spec.include, begins
            )
            count = before + number
            if spec.compat and number > 0:
                count = 1
            seen.append([max(0, at - j) for j in range(m)])
            valid.append([j < min(count, place) for j in range(m)])
        return (
            torch.tensor(seen, dtype=torch.int64).reshape(-1, m),
            torch.tensor(valid, dtype=torch.bool).reshape(-1, m),
        )


class Steps(NamedTuple):
    """What a model says of the steps of one kind of noise."""

    actions: Actions
    logits: Tensor | None
    """(S, K) raw, of `actions.ids`; None where the input mixes no tokens."""
    mean: Tensor | None
    """(S, d) what it would feed undisturbed; None unless asked for."""
    z: Tensor | None
    """(S, d) what was fed; None unless a mean was asked for."""


def feed(parts: Parts, tensors: dict[str, Any], layout: Layout) -> Tensor:
    """(B, L, d): token embeddings, and in their places the latent inputs as they were."""
    x = parts.embed(tensors["ids"])
    if layout.latent is None:
        return x
    at = tensors["fed_at"]
    if layout.vectors:
        latent = tensors["fed"] if "fed" in tensors else x.new_zeros(0, x.shape[-1])
    elif layout.token is not None:
        latent = parts.embed(at.new_full((len(at) + 1,), layout.token))[: len(at)]
    else:
        ids = tensors.get("fed_ids", at.new_zeros(0, 1))
        latent = _mixed(parts, ids, tensors.get("fed_weights", ids.float())).detach()
    flat = x.flatten(0, 1)
    return flat.index_copy(0, at, latent.to(x.dtype)).view_as(x)


def replay(parts: Parts, x: Tensor) -> Tensor:
    """Hidden states (B · L, d) of the body's one forward over `x` (B, L, d)."""
    return parts.run(x).flatten(0, 1)


def steps(
    parts: Parts, head: Head, tensors: dict[str, Any], layout: Layout, kind: int, *, means: bool
) -> Steps:
    """Of the steps of `kind`, at the hidden states that `head` looks at. `means`: also what the model would
    feed undisturbed; always for normal noise on the input."""
    assert layout.latent is not None
    assert kind != QUIET
    there = f"at_{kind}" in tensors
    at = tensors[f"at_{kind}"] if there else tensors["fed_at"][:0]
    actions = Actions(**{n: tensors[f"act_{kind}_{n}"] for n in _ACTIONS}, fed=None) if there else _none(at)
    soft = layout.latent.input is not None and layout.latent.input.kind == "soft"
    logits = head.at(at, actions.ids) if soft else None
    if not (means or kind == GAUSSIAN):
        return Steps(actions, logits, None, None)
    mean = _mean(parts, head, tensors, layout, kind, at, actions, logits)
    if layout.vectors:
        z = tensors[f"z_{kind}"].to(mean.dtype) if there else mean.detach()
    else:
        z = _mixed(parts, actions.ids, actions.weights).detach()
    return Steps(actions, logits, mean, z)


def _mean(
    parts: Parts,
    head: Head,
    tensors: dict[str, Any],
    layout: Layout,
    kind: int,
    at: Tensor,
    actions: Actions,
    logits: Tensor | None,
) -> Tensor:
    """(S, d) what the model would feed at these steps, differentiable."""
    assert layout.latent is not None
    spec = layout.latent.input
    if logits is not None:
        assert isinstance(spec, SoftInput)
        weights = kept_logp(logits, actions.kept, spec.temperature).exp()
        return _mixed(parts, actions.ids, weights, head.touched)
    if isinstance(spec, ContextualInput):
        m = spec.window
        window = head.hidden[tensors.get(f"seen_{kind}", at.new_zeros(0, m))]
        valid = tensors.get(f"valid_{kind}", at.new_zeros(0, m).bool())
        weights = window_weights(spec).to(window.device)
        return contextual(window, weights, valid, spec.rescale)
    if layout.token is not None:
        rows = parts.embed(at.new_full((len(at) + 1,), layout.token))
        head.touched.append(0.0 * rows.sum())
        return rows[: len(at)]
    return head.hidden[at]


def _mixed(parts: Parts, ids: Tensor, weights: Tensor, touched: list[Tensor] | None = None) -> Tensor:
    """(n, d): embeddings of `ids` (n, K) by `weights` (n, K), through the module, in float32 at least. Where
    there are none the module is called all the same: under ZeRO-3 all ranks call it equally often."""
    rows = parts.embed(ids if len(ids) else ids.new_zeros(1, 1))
    if touched is not None:
        touched.append(0.0 * rows.sum())
    wide = torch.promote_types(rows.dtype, torch.float32)
    if len(ids) == 0:
        return rows[:0, 0]
    return torch.bmm(weights.to(wide)[:, None], rows.to(wide)).squeeze(1).to(rows.dtype)


def _none(at: Tensor) -> Actions:
    """No step."""
    empty = torch.zeros(0, 1, device=at.device)
    column = empty[:, 0]
    return Actions(at, empty.long(), empty.bool(), empty, empty, column, column, column.bool(), None)
