"""A method without torch, for tests of everything around methods: it counts, slowly, and cannot be fooled.

Its state is a chain of hashes, so that a step that is left out, done twice, or taken from another stage shows
in the digest; a lock shows whether two processes ever did the same stage at once.
"""

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from latentctl.spec.methods import MethodSettings, register


@register
class NoopSettings(MethodSettings):
    """Counts."""

    method = "noop"
    implementation = f"{__name__}:Noop"
    output = "checkpoint"
    role = "train"

    steps: int = 10
    """So many."""
    seconds: float = 0.1
    """Each takes so long."""
    save_every: int = 5
    """Steps between checkpoints."""


def digest_of(name: str, steps: int, seed: int) -> str:
    """What a stage must come to."""
    state = f"{name} {seed}".encode()
    for step in range(1, steps + 1):
        state = hashlib.sha256(state + str(step).encode()).digest()
    return state.hex()


class Noop:
    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx

    def run(self) -> dict[str, Any]:
        from jobs.methods.protocol import Preempted
        from jobs.runtime import checkpoints
        from latentctl.record.checkpoint import latest

        ctx, settings = self.ctx, self.ctx.stage.settings
        self._alone()
        if ctx.world.main:
            checkpoints.clean(ctx.paths)
        found = latest(ctx.paths, ctx.spec_hash)
        step = found.step if found else 0
        name = f"{ctx.stage.name} {ctx.experiment.seed}"
        state = bytes.fromhex((found.path / "state").read_text()) if found else name.encode()

        def save() -> None:
            def fill(folder: Path) -> None:
                (folder / "state").write_text(state.hex())

            checkpoints.commit(ctx.paths, step, ctx.attempt, ctx.spec_hash, fill)
            checkpoints.prune(ctx.paths, 2)

        while step < settings.steps:
            time.sleep(settings.seconds)
            step += 1
            state = hashlib.sha256(state + str(step).encode()).digest()
            ctx.report.progress(step, settings.steps)
            ctx.report.log(step, loss=int.from_bytes(state[:4], "big") / 2**32)
            stop = ctx.stop.agreed()
            if stop or step % settings.save_every == 0:
                save()
            if stop and step < settings.steps:
                raise Preempted(f"checkpoint of step {step}")
        checkpoints.publish(ctx.paths, ctx.paths.model, ctx.attempt, self._model)
        return {"digest": state.hex(), "steps": step, "resumed_at": found.step if found else 0}

    def _alone(self) -> None:
        self.held = os.open(self.ctx.paths.root / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            (self.ctx.paths.root / f"twice-{self.ctx.attempt}-{os.getpid()}").touch()

    def _model(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"model_type": "noop"}))
