"""`serving.json`: where a server answers. Its stage writes it when the server is ready."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.paths import JobPaths

NAME = "serving.json"
VERSION = 1
KEY_VARIABLE = "LATENTCTL_API_KEY"
"""Environment variable that holds the key: in the shell of `latentctl serve`, and of the server."""


@dataclass(frozen=True)
class Serving:
    """A server that answers."""

    attempt: int
    node: str
    """The name of the machine that it runs on."""
    host: str
    """What it is bound to."""
    port: int
    model: str
    """The name by which requests ask for the model."""
    api_key: bool
    """Whether requests must carry the key."""
    latent: dict[str, Any] | None
    """The settled LatentSpec that `latent: on` stands for; None: the checkpoint carries none."""
    unasked: str
    """`on` or `off`: what a request gets that does not say `latent`."""
    example: dict[str, Any]
    """The body of a first request, the model's name aside: `messages`, or `prompt` where the tokenizer has no
    chat template, in the form that the model knows."""
    time: str

    @property
    def url(self) -> str:
        """Of the server, seen from its own machine."""
        return f"http://{written(reached(self.host))}:{self.port}"

    def save(self, stage: Path) -> None:
        write_json(stage / NAME, {"version": VERSION, **asdict(self)})


def read_serving(job: JobPaths, stage: str) -> Serving | None:
    """What the newest attempt of a job wrote; None where it is not ready. Raises ValueError for damage."""
    raw = try_read_json(job.stage(stage).root / NAME)
    attempts = job.attempts()
    if raw is None or not attempts or raw.get("attempt") != attempts[-1].number:
        return None
    if raw.pop("version", None) != VERSION:
        raise ValueError(f"{NAME} is of another version of latentctl")
    try:
        return Serving(**raw)
    except TypeError as error:
        raise ValueError(f"{NAME} is damaged: {error}") from None


def loopback(host: str) -> bool:
    """Whether nobody outside this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reached(host: str) -> str:
    """Where to knock on this machine for what is bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def written(host: str) -> str:
    """`host` as a URL writes it."""
    return f"[{host}]" if ":" in host else host
