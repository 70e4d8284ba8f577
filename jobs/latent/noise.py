"""Counter-based randomness: a draw is a function of (seed, request, sample, position), never of a stream's
state.

The same sample therefore draws the same tokens alone or in any batch, before or after a resume, on CPU or
GPU.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: the increment of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


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


def uniform(keys: Tensor, steps: Tensor) -> Tensor:
    """Uniform numbers inside (0, 1), float64, of the shape of the broadcast `keys` and `steps` (both int64).

    `_mix` runs over the key first, so that keys that differ by a multiple of the increment do not share a
    sequence.
    """
    bits = _mix(_mix(keys) + (steps + 1) * _GOLDEN)
    return (_shift(bits, 12).to(torch.float64) + 0.5) * 2.0**-52
