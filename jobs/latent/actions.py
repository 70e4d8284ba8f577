"""The latent steps of a sample as they were taken: what a replay feeds, and what a density is asked of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jobs.latent.step import Draw
from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.latent import LatentSpec


class Actions(NamedTuple):
    """n latent steps, of one sample in their order or of several samples one after the other.

    Recorded where they were taken; nothing of it is ever worked out again with other weights.
    """

    kind: Tensor
    """(n,) int64: which noise fell on it (`knobs.QUIET`, `GAUSSIAN`, ...). Floor noise is `GAUSSIAN`."""
    ids: Tensor
    """(n, K) int64: tokens that the filters left, largest weight first; then anything."""
    kept: Tensor
    """(n, K) bool: which of `ids` they left, also those whose weight came out as 0."""
    x: Tensor
    """(n, K) float32, what was drawn: log-weights (concrete, dirichlet), logits (gaussian_logits), counts
    (multiplex). Anything for other kinds and where not `kept`."""
    weights: Tensor
    """(n, K) float32 with which the embeddings of `ids` were mixed; 0 where not `kept`."""
    sigma: Tensor
    """(n,) float32: standard deviation of normal noise (on the input or on logits), else 0."""
    entropy: Tensor
    """(n,) float32, in nats, as the gate saw it; NaN where nobody asked."""
    disturbed: Tensor
    """(n,) bool: the disturbance fell on it; floor noise does not count."""
    fed: Tensor | None
    """(n, d): what was fed, in the model's dtype. None: embeddings of `ids` mixed by `weights`."""

    @staticmethod
    @torch.inference_mode(False)  # a training goes on with what an engine recorded in that mode
    def of(steps: Sequence[tuple[Draw, Tensor, int]], *, fed: bool) -> Actions:
        """From the steps as they were taken: each a `Draw` of several rows, what these were fed (N, d), and
        which of them is meant. On the CPU; `fed`: the vectors are kept."""
        width = max((draw.ids.shape[1] for draw, _, _ in steps), default=0)

        def wide(t: Tensor) -> Tensor:
            return functional.pad(t, (0, width - t.shape[0]))

        def column(name: str, dtype: torch.dtype, *, matrix: bool = False) -> Tensor:
            rows = [getattr(draw, name)[i] for draw, _, i in steps]
            if not rows:
                return torch.zeros((0, 0) if matrix else 0, dtype=dtype)
            return torch.stack([wide(r) for r in rows] if matrix else rows).to("cpu", dtype)

        vectors = [x[i] for _, x, i in steps] if fed else []
        return Actions(
            column("kind", torch.int64),
            column("ids", torch.int64, matrix=True),
            column("kept", torch.bool, matrix=True),
            column("x", torch.float32, matrix=True),
            column("weights", torch.float32, matrix=True),
            column("sigma", torch.float32),
            column("entropy", torch.float32),
            column("noised", torch.bool),
            torch.stack(vectors).cpu() if vectors else None,
        )

    @staticmethod
    def join(many: Sequence[Actions]) -> Actions:
        """The steps of all, one after the other; all with vectors, or none."""
        width = max((a.ids.shape[1] for a in many), default=0)

        def column(name: str) -> Tensor:
            parts = [getattr(a, name) for a in many if len(a.kind)]
            if not parts:
                return getattr(many[0], name)
            if parts[0].dim() == 2:
                parts = [functional.pad(p, (0, width - p.shape[1])) for p in parts]
            return torch.cat(parts)

        held = [a.fed for a in many if a.fed is not None]
        names = [n for n in Actions._fields if n != "fed"]
        return Actions(**{n: column(n) for n in names}, fed=torch.cat(held) if held else None)

    def take(self, index: Tensor) -> Actions:
        """The steps `index` (int64), in that order."""
        return Actions._make(None if t is None else t[index] for t in self)

    def first(self, count: int) -> Actions:
        """So many from the start."""
        return Actions._make(None if t is None else t[:count] for t in self)


def pack_actions(actions: Actions) -> bytes:
    """To be sent or kept; `unpack_actions` gives them back."""
    held = io.BytesIO()
    torch.save({name: value for name, value in actions._asdict().items() if value is not None}, held)
    return held.getvalue()


def unpack_actions(data: bytes) -> Actions:
    found = torch.load(io.BytesIO(data), weights_only=True)
    return Actions(**{"fed": None, **found})


def stores_inputs(spec: LatentSpec, disturbance: DisturbanceSpec | None) -> bool:
    """Whether the input of every latent step is recorded as a vector. Else it is token ids and weights (for
    `pause` one token), whose meaning changes with the embeddings."""
    noise = spec.noise
    floor = disturbance is not None and disturbance.floor > 0
    gaussian = noise is not None and noise.kind == "gaussian" and noise.on == "input"
    return floor or gaussian or (spec.input is not None and spec.input.kind in ("hidden", "contextual"))
