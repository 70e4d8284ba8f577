"""A method without torch, driven through the real worker: counts, checkpoints, fails on demand."""

from __future__ import annotations

import json
import os
import signal
import time
import weakref
from pathlib import Path
from typing import Any

from latentctl.spec.methods import MethodSettings, register


@register
class LightSettings(MethodSettings):
    """Counts to `steps`."""

    method = "light"
    implementation = f"{__name__}:Light"
    output = "checkpoint"

    steps: int = 5
    pause: float = 0.0
    save_every: int = 0
    fail_at: int | None = None
    fail_rank: int = 0
    fail: str = "ValueError('boom')"
    """Python: what to raise."""
    signal_rank: int | None = None
    """This rank sends itself USR2 at step 2 of attempt 1."""
    collective: bool = False
    """An all-reduce at every step: hangs or breaks when a peer is gone."""


_alive: weakref.WeakSet[Any] = weakref.WeakSet()


class Light:
    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx
        self.settings = ctx.stage.settings
        self.left_over = len(_alive)
        self.me = self  # a cycle, as engines have them: only a garbage collection frees it
        _alive.add(self)

    def run(self) -> dict[str, Any]:
        from jobs.methods.protocol import Preempted
        from jobs.runtime import checkpoints, distributed
        from latentctl.record.checkpoint import latest

        ctx, s = self.ctx, self.settings
        if ctx.world.main:
            checkpoints.clean(ctx.paths)
        distributed.barrier()
        found = latest(ctx.paths, ctx.spec_hash)
        begin = found.step if found else 0
        if found:
            ctx.report.rewind(begin)
        for step in range(begin + 1, s.steps + 1):
            if s.collective:
                distributed.all_max(step)
            if step == s.fail_at and ctx.world.rank == s.fail_rank:
                raise eval(s.fail)
            if step == 2 and ctx.attempt == 1 and ctx.world.rank == s.signal_rank:
                os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(s.pause)
            ctx.report.log(step, loss=1 / step)
            ctx.report.progress(step, s.steps, loss=1 / step)
            stop = ctx.stop.agreed()
            if stop or (s.save_every and step % s.save_every == 0):
                self._save(step)
            if stop:
                raise Preempted(f"at step {step}")
        if ctx.world.main:
            checkpoints.publish(ctx.paths, ctx.paths.model, ctx.attempt, self._export)
        return {
            "counted": s.steps,
            "began": begin,
            "source": str(ctx.source),
            "left_over": self.left_over,
            "threads": os.environ["OMP_NUM_THREADS"],
        }

    def close(self) -> None:
        print("closed", flush=True)

    def _save(self, step: int) -> None:
        from jobs.runtime import checkpoints, distributed

        ctx = self.ctx

        def fill(folder: Path) -> None:
            (folder / f"rank-{ctx.world.rank}.json").write_text(json.dumps({"step": step}))
            if ctx.world.main:
                (folder / "model").mkdir()
                (folder / "model" / "config.json").write_text("{}")

        checkpoints.commit(
            ctx.paths,
            step,
            ctx.attempt,
            ctx.spec_hash,
            fill,
            rank=ctx.world.rank,
            barrier=distributed.barrier,
        )

    def _export(self, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
