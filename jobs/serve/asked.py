"""What a request says of latent steps: `latent` and `latent_trace` among its `vllm_xargs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from latentctl.spec.findings import user_error
from latentctl.spec.latent import LatentSpec
from latentctl.spec.unknown_keys import unknown_in
from latentctl.spec.validate import validate
from latentctl.spec.yaml_marks import YamlProblems, parse

LATENT = "latent"
TRACE = "latent_trace"
MOST_TRACED = 100
"""Tokens of a latent step that a trace can hold."""


class Wish(NamedTuple):
    """What one request asks for."""

    latent: LatentSpec | bool | None
    """Settings of its own; True `on`, False `off`; None: it does not say."""
    trace: int | None
    """So many tokens of each latent step are to be recorded; None: nothing."""


def read(extra: Mapping[str, Any] | None) -> Wish:
    """Raises ValueError in words. Keys of others are left alone."""
    extra = extra or {}
    for key in extra:
        if key.startswith(LATENT) and key not in (LATENT, TRACE):
            raise ValueError(f"unknown key {key!r} in vllm_xargs: expected {LATENT} or {TRACE}")
    return Wish(_latent(extra.get(LATENT)), _trace(extra.get(TRACE)))


def _latent(said: Any) -> LatentSpec | bool | None:
    if said is None or said in ("on", "off"):
        return None if said is None else said == "on"
    if not isinstance(said, str):
        raise ValueError(f"latent is {said!r}: expected on, off, or a recipe's latent block as JSON text")
    try:
        node = parse(said, LATENT)
    except YamlProblems as error:
        raise ValueError(f"latent is no JSON: {_words([p.message for _, p in error.problems])}") from None
    if node is None or not node.is_map:
        raise ValueError(
            f"latent is {said[:60]!r}: expected on, off, or a recipe's latent block as JSON text, such as "
            '{"input": "soft", "stop": {"end_marker": true, "max_len": 512}}'
        )
    found = unknown_in(node, LatentSpec)
    spec, more = (None, []) if found else validate(node, LatentSpec)
    if spec is None:
        problems = user_error([*found, *more]).problems
        raise ValueError(_words([_one(p.key, p.message, p.hint) for p in problems]))
    return spec


def _one(key: str | None, message: str, hint: str | None) -> str:
    where = f"{LATENT}.{key}: " if key else f"{LATENT}: "
    return f"{where}{message}" + (f" ({hint})" if hint else "")


def _words(problems: list[str]) -> str:
    return "; ".join(problems) or "latent cannot be read"


def _trace(said: Any) -> int | None:
    if said is None or said == 0:
        return None
    number = int(said) if isinstance(said, str) and said.isdecimal() else said
    if not isinstance(number, int) or not 0 < number <= MOST_TRACED:
        raise ValueError(f"{TRACE} is {said!r}: expected a number of tokens, 1 to {MOST_TRACED}")
    return number
