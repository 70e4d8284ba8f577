"""What a training knows besides its weights, and how it goes through a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from latentctl.record.atomic import read_json, write_json

_FILE = "trainer.json"


@dataclass
class Best:
    """The best validation so far."""

    metric: str
    value: float
    step: int


@dataclass
class TrainState:
    """Everything that a resume needs besides weights, optimizer, schedule (DeepSpeed's) and random
    streams."""

    world_size: int
    step: int = 0
    """Optimizer steps done."""
    loss: float | None = None
    """The last one logged."""
    tokens: int = 0
    seconds: float = 0.0
    """In training steps, over all attempts; validations and checkpoints left out."""
    best: Best | None = None
    stale: int = 0
    """Validations since the early-stop metric last improved."""
    record: float | None = None
    """The early-stop metric's best value."""
    validation: dict[str, float] | None = None
    """The last one, with its `step`."""
    stopped: str | None = None
    """Why training ended before its last step."""

    def save(self, folder: Path) -> None:
        write_json(folder / _FILE, asdict(self))

    @staticmethod
    def load(folder: Path) -> TrainState:
        raw = read_json(folder / _FILE)
        best = raw.pop("best")
        return TrainState(best=Best(**best) if best else None, **raw)
