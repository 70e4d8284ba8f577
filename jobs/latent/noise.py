"""Counter-based randomness: a draw is a function of (seed, request, sample, position, lane), never of a
stream's state.

The same sample therefore draws the same tokens and the same noise alone or in any batch, before or after a
resume, on CPU or GPU.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: the increment of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB

_TRIES = 8
"""Of the Gamma sampler. One is accepted with probability above 0.95, so all fail once in 10^10 draws."""


def request_key(seed: int, request_id: str, index: int) -> int:
    """A signed 64-bit key of one sample; stable across machines and Python versions."""
    digest = hashlib.blake2b(f"{seed}\0{index}\0{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): int64 -> int64, wrapping."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def uniform(keys: Tensor, steps: Tensor, lanes: Tensor | None = None) -> Tensor:
    """Uniform numbers inside (0, 1), float64.

    Without `lanes`: of the shape of the broadcast `keys` and `steps` (both int64). With `lanes` (int64), one
    number per lane: `keys` and `steps` (N,), `lanes` (K,) for all rows alike or (N, ...) -> (N, K) or
    (N, ...).

    `_mix` runs over the key first, so that keys that differ by a multiple of the increment do not share a
    sequence; the same for positions and lanes.
    """
    bits = _mix(_mix(keys) + (steps + 1) * _GOLDEN)
    if lanes is not None:
        bits = bits.reshape(-1, *[1] * max(1, lanes.dim() - 1))
        bits = _mix(bits + (lanes + 1) * _GOLDEN)
    return (_shift(bits, 12).to(torch.float64) + 0.5) * 2.0**-52


def normal(keys: Tensor, steps: Tensor, lanes: Tensor | None = None) -> Tensor:
    """Standard normal numbers; arguments and shape as of `uniform`."""
    return torch.special.ndtri(uniform(keys, steps, lanes))


def gumbel(keys: Tensor, steps: Tensor, lanes: Tensor | None = None) -> Tensor:
    """Standard Gumbel numbers; arguments and shape as of `uniform`."""
    return -(-uniform(keys, steps, lanes).log()).log()


def loggamma(keys: Tensor, steps: Tensor, concentration: Tensor, lanes: Tensor) -> Tensor:
    """Logarithms of Gamma(concentration, 1) numbers, float64, of the shape of `concentration`, which is that
    of `uniform(keys, steps, lanes)`.

    Marsaglia and Tsang (2000) with a fixed number of tries, the first accepted one taken; below 1 their
    boost, Gamma(a) = Gamma(a + 1) · U^(1/a). In logarithms, because a small concentration underflows.
    """
    each = 2 * _TRIES + 1
    own = lanes[..., None] * each + torch.arange(each, device=lanes.device)
    if lanes.dim() == 1:
        own = own[None]
    u = uniform(keys, steps, own.expand(len(keys), *own.shape[1:]))
    a = concentration.double()
    d = torch.where(a < 1, a + 1, a)[..., None] - 1 / 3
    x = torch.special.ndtri(u[..., :_TRIES])
    cube = (1 + x / (9 * d).sqrt()).pow(3)
    log_cube = cube.clamp(min=torch.finfo(torch.float64).tiny).log()
    accept = (cube > 0) & (u[..., _TRIES : 2 * _TRIES].log() < 0.5 * x * x + d - d * cube + d * log_cube)
    first = accept.to(torch.int64).argmax(-1, keepdim=True)
    drawn = d.squeeze(-1).log() + log_cube.gather(-1, first).squeeze(-1)
    return torch.where(a < 1, drawn + u[..., -1].log() / a, drawn)
