"""The latent steps of a sample as they were taken: what a replay feeds, and what a density is asked of."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
    fed: Tensor | None
    """(n, d): what was fed, in the model's dtype. None: embeddings of `ids` mixed by `weights`."""
