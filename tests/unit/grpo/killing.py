"""Runs one GRPO case in a process of its own that kills itself at the n-th moment.

A moment passes whenever something that a kill could tear has just begun or ended: a sample came, rewards are
judged, an optimizer step was taken, a file of a checkpoint was written, a checkpoint or a model got its name.
`python killing.py CASE.json N` (N 0: never) prints how many there were.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parent))


class Moments:
    """Counts, and kills at the one that was chosen."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at, self.passed = kill_at, 0

    def pass_one(self) -> None:
        self.passed += 1
        if self.passed == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        plain: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.pass_one()
            found = plain(*args, **kwargs)
            self.pass_one()
            return found

        setattr(owner, name, call)

    def after_each(self, owner: Any, name: str) -> None:
        plain: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            for item in plain(*args, **kwargs):
                self.pass_one()
                yield item

        setattr(owner, name, call)


def main() -> None:
    import torch
    from grpo_world import harness

    from jobs.generate.transformers_engine import TransformersEngine
    from jobs.grade.rewards import Rewards
    from jobs.runtime import checkpoints
    from jobs.train.engine import Engine

    torch.set_num_threads(1)
    moments = Moments(int(sys.argv[2]))
    moments.after_each(TransformersEngine, "generate")
    for owner, name in (
        (Rewards, "judge"),
        (Engine, "step"),
        (Engine, "save"),
        (checkpoints, "finish"),
        (checkpoints, "publish"),
    ):
        moments.around(owner, name)
    harness.run_case(harness.Case(**json.loads(Path(sys.argv[1]).read_text())))
    print(f"moments: {moments.passed}")


if __name__ == "__main__":
    main()
