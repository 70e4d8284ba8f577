"""Latent settings of N rows as tensors, and what the host knows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jobs.latent.inputs import window_weights
from latentctl.spec.disturbance import DisturbanceSpec, TargetRatio
from latentctl.spec.latent import ContextualInput, LatentSpec, SoftInput

TEXT, LATENT, CLOSING = range(3)
"""Phases of a row: text is drawn; the next position is a latent step; the rest of the end marker is
forced."""
SOFT, HIDDEN, CONTEXTUAL, PAUSE = range(4)
"""Kinds of input."""
CAUSES = ("", "fixed", "end_marker", "entropy", "max_len", "budget")
"""Why a span ended; a cause is an index. `budget` is the engine's: max_new_tokens was reached inside a
span."""
QUIET, GAUSSIAN, GAUSSIAN_LOGITS, CONCRETE, DIRICHLET, MULTIPLEX = range(6)
"""Kinds of noise."""
ALL, LATENT_ONLY, FROM_START = range(3)
"""Which positions a window may look at (`ContextualInput.include`)."""

_KINDS = {"soft": SOFT, "hidden": HIDDEN, "contextual": CONTEXTUAL, "pause": PAUSE}
_NOISES = {"gaussian": GAUSSIAN, "concrete": CONCRETE, "dirichlet": DIRICHLET, "multiplex": MULTIPLEX}
_INCLUDES = {"all": ALL, "latent_only": LATENT_ONLY, "from_start_marker": FROM_START}


@dataclass(frozen=True, slots=True)
class Row:
    """What one sample brings."""

    spec: LatentSpec
    """Settled: input, markers, start and stop are said."""
    end: tuple[int, ...]
    """Token ids of the end marker."""
    start: tuple[int, ...] = ()
    """Token ids of the start marker: `start: model` waits for them."""
    fixed: int | None = None
    """So many latent steps; None: no count."""
    token: int | None = None
    """What `pause` feeds."""
    key: int = 0
    """Of the sample, `noise.request_key`."""
    trace: int | None = None
    """None: nothing is recorded; n: the entropy and the n most likely tokens."""
    disturbance: DisturbanceSpec | None = None
    """When the noise falls, its threshold a number; None: on every latent step."""
    record: bool = False
    """What was drawn is recorded with its kept set (`step.Draw`)."""


class Knobs(NamedTuple):
    """Settings of N rows: tensors (N,) unless said otherwise, then statics that the host knows.

    The statics say what any row needs, so that nothing else is computed; they decide no value.
    """

    kind: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    cap: Tensor
    """At most so many tokens are kept."""
    heat: Tensor
    """Temperature at which the entropy is measured."""
    weights: Tensor
    """(N, m) of the window, newest first."""
    include: Tensor
    rescale: Tensor
    compat: Tensor
    token: Tensor
    fixed: Tensor
    """-1: no count."""
    end_rule: Tensor
    threshold: Tensor
    """0: no entropy rule."""
    patience: Tensor
    max_len: Tensor
    end: Tensor
    """(N, E) marker tokens, padded with -1; `end_len` (N,)."""
    end_len: Tensor
    start: Tensor
    """(N, S), as `end`; empty where a span cannot begin in text."""
    start_len: Tensor
    fallback: Tensor
    """(N, S): so many tokens of the start marker still match where the one after those matched does not
    (the failure function of Knuth, Morris and Pratt)."""
    waits: Tensor
    """`start: model`."""
    marker: Tensor
    """Tokens of the start marker, also of one that stands in the prompt."""
    noise: Tensor
    strength: Tensor
    """Standard deviation, temperature or alpha of the noise."""
    absolute: Tensor
    draws: Tensor
    by_probability: Tensor
    gate: Tensor
    """Noise falls where the entropy is above this; -inf: anywhere."""
    ratio: Tensor
    """At most this share of a sample's latent steps so far is disturbed."""
    floor: Tensor
    """Standard deviation of the noise on all other steps, by the RMS of what they are fed."""
    key: Tensor

    kinds: frozenset[int]
    noises: frozenset[int]
    width: int | None
    """K: so many tokens at most are kept by any row; None: as many as the filters of some row keep."""
    look: int
    """So many of the largest logits decide the filters; at least K."""
    window: int
    """m, 0 where no row looks back."""
    keeps: bool
    """Some row mixes tokens or records them."""
    weighs: bool
    """Some row needs probabilities under the whole vocabulary: top-p without top-k, or a trace."""
    ends: bool
    """Some row has the rule end_marker."""
    entropic: bool
    """Some row has the rule entropy, or a trace."""
    reheats: bool
    """Some row measures its entropy at another temperature than that of its input."""
    longest_draw: int
    """Most draws of any multiplex row."""
    floors: bool
    """Some row has a floor."""
    records: bool
    """Some row records what was drawn."""

    @staticmethod
    def of(rows: Sequence[Row], device: torch.device | str = "cpu") -> Knobs:
        """Raises ValueError where a row's settings are not settled, have no end, or need what it lacks."""
        each = [_one(row) for row in rows]

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([e[name] for e in each], dtype=dtype, device=device)

        def matrix(name: str, fill: float, dtype: torch.dtype) -> Tensor:
            wide = max((len(e[name]) for e in each), default=0)
            padded = [[*e[name], *[fill] * (wide - len(e[name]))] for e in each]
            return torch.tensor(padded, dtype=dtype, device=device).reshape(len(each), wide)

        tensors: dict[str, Tensor] = {
            name: matrix(name, *_MATRICES[name]) if name in _MATRICES else column(name, dtype)
            for name, dtype in _DTYPES.items()
        }
        caps = [e["cap"] for e in each if e["keeps"] and not e["exact"]]
        exact = any(e["exact"] for e in each)
        return Knobs(
            **tensors,
            kinds=frozenset(e["kind"] for e in each),
            noises=frozenset(e["noise"] for e in each) - {QUIET},
            width=None if exact else max(caps, default=1),
            look=max([1, *caps, *(e["top_k"] for e in each if e["top_p"] < 1)]),
            window=tensors["weights"].shape[1],
            keeps=bool(caps) or exact,
            weighs=any(e["weighs"] for e in each),
            ends=any(e["end_rule"] for e in each),
            entropic=any(e["entropic"] for e in each),
            reheats=any(e["heat"] != e["temperature"] for e in each),
            longest_draw=max((e["draws"] for e in each), default=0),
            floors=any(e["floor"] for e in each),
            records=any(e["records"] for e in each),
        )

    @property
    def reads(self) -> bool:
        """A step needs logits."""
        return self.keeps or self.ends or self.entropic

    def to(self, device: torch.device) -> Knobs:
        """The same on another device, sent without waiting for it."""
        if device.type == "cpu":
            return self
        sent = {name: getattr(self, name).pin_memory().to(device, non_blocking=True) for name in _DTYPES}
        return self._replace(**sent)

    def take(self, index: Tensor) -> Knobs:
        """The rows `index` (int64), in that order. The statics stay: they may then allow for more."""
        return self._replace(**{name: getattr(self, name)[index] for name in _DTYPES})


_INT, _REAL, _BOOL = torch.int64, torch.float32, torch.bool
_DTYPES: dict[str, torch.dtype] = {
    "kind": _INT, "temperature": _REAL, "top_k": _INT, "top_p": torch.float64, "min_p": torch.float64,
    "cap": _INT, "heat": _REAL, "weights": _REAL, "include": _INT, "rescale": _BOOL, "compat": _BOOL,
    "token": _INT, "fixed": _INT, "end_rule": _BOOL, "threshold": _REAL, "patience": _INT, "max_len": _INT,
    "end": _INT, "end_len": _INT, "start": _INT, "start_len": _INT, "fallback": _INT, "waits": _BOOL,
    "marker": _INT, "noise": _INT, "strength": _REAL, "absolute": _BOOL, "draws": _INT,
    "by_probability": _BOOL, "gate": _REAL, "ratio": torch.float64, "floor": _REAL, "key": _INT,
}  # fmt: skip
_MATRICES: dict[str, tuple[float, torch.dtype]] = {
    "weights": (0.0, _REAL), "end": (-1, _INT), "start": (-1, _INT), "fallback": (0, _INT),
}  # fmt: skip
_NO_CAP = 2**62


def _one(row: Row) -> dict[str, Any]:
    """One row's settings by the names of `Knobs`, and what of the statics it asks for."""
    spec, stop = row.spec, row.spec.stop
    if spec.input is None or stop is None or spec.start is None:
        raise ValueError("latent settings are not settled: input, start and stop must be said")
    if not row.end:
        raise ValueError("the end marker has no tokens")
    if spec.input.kind not in _KINDS:
        raise ValueError(f"the input {spec.input.kind} takes no latent steps")
    waits = spec.start == "model"
    if waits and not row.start:
        raise ValueError("start: model needs the tokens of the start marker")
    if spec.input.kind == "pause" and row.token is None:
        raise ValueError("the input pause needs the token that it feeds")
    max_len = stop.max_len if stop.max_len is not None else row.fixed
    if max_len is None:
        raise ValueError("a latent span without an end: give stop.max_len or a fixed count")
    kind = _KINDS[spec.input.kind]
    soft = spec.input if isinstance(spec.input, SoftInput) else None
    context = spec.input if isinstance(spec.input, ContextualInput) else None
    temperature = soft.temperature if soft else 1.0
    tau = stop.entropy
    cap = (soft.max_topk or _NO_CAP) if soft else max(row.trace or 1, 1)
    gate = _gate(row.disturbance)
    return {
        "kind": kind,
        "temperature": temperature,
        "top_k": soft.top_k if soft else 0,
        "top_p": soft.top_p if soft else 1.0,
        "min_p": soft.min_p if soft else 0.0,
        "cap": cap,
        "heat": 1.0 if tau and tau.on == "model" else temperature,
        "weights": window_weights(context).tolist() if context else [],
        "include": _INCLUDES[context.include] if context else ALL,
        "rescale": bool(context and context.rescale),
        "compat": bool(context and context.compat),
        "token": row.token or 0,
        "fixed": -1 if row.fixed is None else row.fixed,
        "end_rule": stop.end_marker,
        "threshold": tau.threshold if tau else 0.0,
        "patience": tau.patience if tau else 1,
        "max_len": max_len,
        "end": row.end,
        "end_len": len(row.end),
        "start": row.start if waits else (),
        "start_len": len(row.start) if waits else 0,
        "fallback": _fallback(row.start) if waits else [],
        "waits": waits,
        "marker": len(row.start),
        "key": row.key,
        "keeps": bool(soft) or row.trace is not None,
        "exact": bool(soft) and soft.max_topk is None,
        "weighs": row.trace is not None or (bool(soft) and soft.top_p < 1 and not soft.top_k),
        "entropic": tau is not None or row.trace is not None or gate > -math.inf,
        "records": row.record,
        "gate": gate,
        "ratio": row.disturbance.max_ratio if row.disturbance else 1.0,
        "floor": row.disturbance.floor if row.disturbance else 0.0,
        **_noise(spec),
    }


def _gate(disturbance: DisturbanceSpec | None) -> float:
    threshold = disturbance.entropy_threshold if disturbance else None
    if isinstance(threshold, TargetRatio):
        raise ValueError("the threshold of the disturbance is not calibrated yet")
    return -math.inf if threshold is None else threshold


def _noise(spec: LatentSpec) -> dict[str, Any]:
    noise = spec.noise
    kind = _NOISES[noise.kind] if noise else QUIET
    strength, absolute, draws, by_probability = 0.0, False, 0, False
    if noise is None:
        pass
    elif noise.kind == "gaussian":
        kind = GAUSSIAN_LOGITS if noise.on == "logits" else GAUSSIAN
        strength, absolute = noise.strength, noise.scale == "absolute"
    elif noise.kind == "concrete":
        strength = noise.temperature
    elif noise.kind == "dirichlet":
        strength = noise.alpha
    else:
        draws, by_probability = noise.draws, noise.weighting == "probability"
    return {
        "noise": kind,
        "strength": strength,
        "absolute": absolute,
        "draws": draws,
        "by_probability": by_probability,
    }


def _fallback(tokens: tuple[int, ...]) -> list[int]:
    """Entry i: the longest proper prefix of `tokens` that ends tokens[:i]."""
    out = [0] * len(tokens)
    for i in range(2, len(tokens)):
        short = out[i - 1]
        while short and tokens[short] != tokens[i - 1]:
            short = out[short]
        out[i] = short + (tokens[short] == tokens[i - 1])
    return out
