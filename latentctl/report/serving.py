"""How to reach a server: the words, and commands that can be pasted."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Any

from latentctl.record.serving import KEY_VARIABLE, Serving, loopback, written

_LATENT_EXAMPLE = '{"input": "soft", "stop": {"end_marker": true, "max_len": 256}}'


def base_url(one: Serving, *, elsewhere: bool) -> str:
    """Where a client on this machine finds it. `elsewhere`: the server runs on another one."""
    if not elsewhere or loopback(one.host):  # of another machine through a tunnel, at the same port
        return f"{one.url}/v1"
    host = one.node if one.host in ("0.0.0.0", "::") else one.host
    return f"http://{written(host)}:{one.port}/v1"


def tunnel(one: Serving, *, elsewhere: bool) -> str | None:
    """The command that brings its port here, where one is needed."""
    if not elsewhere or not loopback(one.host):
        return None
    return f"ssh -N -L {one.port}:{written(one.host)}:{one.port} {one.node}"


def curls(one: Serving, *, elsewhere: bool) -> dict[str, str]:
    """`text` and `latent`: a first request each; `latent` only where the checkpoint carries settings."""
    url = base_url(one, elsewhere=elsewhere)
    if one.latent is None:
        return {"text": _curl(one, url, {})}
    on, off = (_curl(one, url, {"vllm_xargs": {"latent": word}}) for word in ("on", "off"))
    unasked = _curl(one, url, {})
    return {"latent": unasked, "text": off} if one.unasked == "on" else {"latent": on, "text": unasked}


def dump(one: Serving, run: str, *, elsewhere: bool) -> dict[str, Any]:
    """For `--json`."""
    return {
        "run": run,
        "base_url": base_url(one, elsewhere=elsewhere),
        "tunnel": tunnel(one, elsewhere=elsewhere),
        **asdict(one),
        "curl": curls(one, elsewhere=elsewhere),
        "stop": f"latentctl cancel {run}",
    }


def text(one: Serving, *, elsewhere: bool) -> str:
    """What a person pastes."""
    commands = curls(one, elsewhere=elsewhere)
    lines = [f"base URL  {base_url(one, elsewhere=elsewhere)}", f"model     {one.model}"]
    if one.api_key:
        lines.append(f"key       the one of {KEY_VARIABLE}")
    lines.append(f"latent    {_latent(one)}")
    if through := tunnel(one, elsewhere=elsewhere):
        lines += ["", f"# it listens on {one.node} alone; from here:", through]
    for name in ("latent", "text"):
        if name in commands:
            lines += ["", f"# {'with latent steps' if name == 'latent' else 'as text'}", commands[name]]
    return "\n".join(lines)


def _latent(one: Serving) -> str:
    if one.latent is None:
        return f"by request alone: vllm_xargs {json.dumps({'latent': _LATENT_EXAMPLE})}"
    kind = (one.latent.get("input") or {}).get("kind")
    when = "unless a request says off" if one.unasked == "on" else "where a request says on"
    return f"{kind}, as the checkpoint carries it, {when}"


def _curl(one: Serving, url: str, extra: dict[str, Any]) -> str:
    chat = "messages" in one.example
    body = {"model": one.model, **one.example, **extra}
    words = ["curl", f"{url}/{'chat/' if chat else ''}completions", "-H", "Content-Type: application/json"]
    command = shlex.join(words)
    if one.api_key:
        command += f' -H "Authorization: Bearer ${KEY_VARIABLE}"'
    return command + " \\\n  -d " + shlex.quote(json.dumps(body, ensure_ascii=False))
