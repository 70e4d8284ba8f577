"""What the server's process is told, as a file: everything but the key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentctl.record.atomic import read_json, write_json

NAME = "server.json"


@dataclass(frozen=True)
class Told:
    """Settings of one start of the server."""

    source: str
    """A model directory or a Hub id."""
    revision: str | None
    trust_remote_code: bool
    served_name: str
    host: str
    port: int
    api_key: bool
    """Whether requests must carry the key of the environment."""
    latent: dict[str, Any] | None
    """The settled LatentSpec that `latent: on` stands for; None: there is none."""
    carried: dict[str, Any]
    """The checkpoint's latent.json, empty where it has none: what a request leaves unsaid."""
    unasked: str
    """`on` or `off`: what a request gets that does not say `latent`."""
    engine: dict[str, Any]
    """`EngineSpec`, as JSON."""
    max_len: int | None

    def save(self, stage: Path) -> Path:
        path = stage / NAME
        write_json(path, asdict(self))
        return path

    @staticmethod
    def load(path: Path) -> Told:
        return Told(**read_json(path))
