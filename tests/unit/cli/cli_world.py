"""The CLI as a person has it: real processes, a profile whose interpreter is a stand-in without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.answers import checked

REPO = Path(__file__).resolve().parents[3]
STANDIN = Path(__file__).with_name("standin_python.py")
RECIPE = """\
name: tiny
model: some/model
dataset: gsm8k
stages:
  - {name: sft, method: sft}
  - {name: score, method: eval}
"""


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return checked(self.out)


@dataclass
class World:
    """A working folder with a recipe, a `cluster/here.yaml`, and runs."""

    root: Path
    code: Path
    """Where latentctl and jobs are imported from."""
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run_names(self) -> list[str]:
        if not self.runs.is_dir():
            return []
        return sorted(p.name for p in self.runs.iterdir() if p.name not in ("sweeps", ".settled"))

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LATENTCTL_", "SLURM_"))}
        small = {
            "STATE_DIR": str(self.root / "state"), "POLL_S": "0.03", "WATCH_S": "0.1", "SETTLE_S": "1",
            "GPUS": "0", "KILL_WAIT_S": "1",
        }  # fmt: skip
        kept |= {f"LATENTCTL_{k}": v for k, v in small.items()}
        return {**kept, "PYTHONPATH": str(self.code), "LATENTCTL_CLUSTER": "here", "NO_COLOR": "1"}

    def behave(self, how: str) -> None:
        """How the stand-in's attempts go: `ok`, `fail`, `slow`, comma-separated per attempt."""
        python = self.root / "standin"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {STANDIN} "$@"\n')
        python.chmod(0o755)
        lines = [
            "name: here",
            "executor: local",
            f"interpreter: {{train: {python}, eval: {python}}}",
            f"env: {{STANDIN: '{how}'}}",
            "max_parallel: 4",
            "signal_lead: 2s",
        ]
        (self.root / "cluster").mkdir(exist_ok=True)
        (self.root / "cluster" / "here.yaml").write_text("\n".join(lines) + "\n")

    def popen(self, *args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "latentctl.cli.main", *args],
            cwd=self.root,
            env=self.environment(),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *args: str, code: int | None = 0, timeout: float = 60) -> Done:
        process = self.popen(*args)
        out, err = process.communicate(timeout=timeout)
        done = Done(process.returncode, out, err)
        if code is not None:
            assert done.code == code, f"{args}: exit {done.code}\n{out}\n{err}"
        return done

    def interrupt(self, process: subprocess.Popen[str], timeout: float = 30) -> Done:
        """Ctrl-C to a command, and what it said then."""
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=timeout)
        return Done(process.returncode, out, err)

    def clean(self) -> None:
        """End whatever a test left running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for name in self.run_names():
            if not name.startswith("."):
                self("cancel", name, code=None)


def until(check: Callable[[], Any], seconds: float = 30, what: str = "") -> Any:
    """The first true value of `check`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or check}")
