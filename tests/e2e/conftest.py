"""Drives the installed command line as a person would: real processes, real DeepSpeed, real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.answers import checked

REPO = Path(__file__).resolve().parents[2]
TINY = """\
name: tiny
model: {init: {arch: gpt2, hidden: 32, layers: 1, heads: 2, max_len: 128}, tokenizer: {kind: word}}
dataset: {name: shell-game, limit: 256, options: {cups: 4, swaps: 3}}
prompt: {template: plain, form: coconut}
train: {lr: 1e-3, steps: 8, batch: 16, micro_batch: 8, save_every: 4}
sampling: {max_new_tokens: 40}
eval: {engine: transformers}
stages:
  - {name: sft, method: sft}
  - {name: score, method: eval, dataset: {limit: 12}}
"""


@dataclass
class Cli:
    """`latentctl` in a folder of its own."""

    folder: Path
    env: dict[str, str]

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "latentctl.cli.main", *args],
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args: str, code: int | None = 0, timeout: float = 300, **env: str) -> Done:
        """Run to the end; `code` is the exit code that must come, None: any."""
        process = self.start(*args, **env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        done = Done(args, process.returncode, out, err)
        assert code is None or done.code == code, f"{done}"
        assert "Traceback" not in err or done.code == 70, f"{done}"
        return done

    def recipe(self, text: str = TINY, name: str = "tiny.yaml") -> str:
        (self.folder / name).write_text(text)
        return name

    def run_dir(self, prefix: str = "tiny-") -> Path:
        (found,) = [p for p in self.runs.iterdir() if p.name.startswith(prefix)]
        return found


@dataclass
class Done:
    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return checked(self.out)

    def __str__(self) -> str:
        return (
            f"latentctl {' '.join(self.args)} -> {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return make_cli(tmp_path)


def make_cli(folder: Path) -> Cli:
    drop = {"LATENTCTL_RUNS_DIR", "LATENTCTL_CLUSTER", "PYTHONPATH", "RANK", "WORLD_SIZE"}
    env = {k: v for k, v in os.environ.items() if k not in drop and not k.startswith(("SLURM_", "SUBMITIT_"))}
    env["PYTHONPATH"] = str(REPO)
    env["LATENTCTL_STATE_DIR"] = str(folder / "state")
    env["NO_COLOR"] = "1"
    return Cli(folder, env)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """One tiny run, trained and evaluated, shared by the tests that only look."""
    cli = make_cli(tmp_path_factory.mktemp("finished"))
    cli("submit", cli.recipe(), "--wait", timeout=240)
    return cli


def losses(cli: Cli, pattern: str, stage: str = "sft") -> list[tuple[int, float]]:
    (file,) = cli.runs.glob(f"{pattern}/jobs/*/metrics.jsonl")
    rows = [json.loads(x) for x in file.read_text().splitlines()]
    return [(r["step"], r["loss"]) for r in rows if r["stage"] == stage and "loss" in r]


def wait_for_heartbeat(cli: Cli) -> str:
    wait_until(lambda: cli.runs.exists() and any(cli.runs.glob("*/jobs/*/heartbeat.json")), 120)
    return next(cli.runs.glob("tiny-*")).name


def wait_until(ready: Callable[[], bool], seconds: float, *, every: float = 0.2) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited too long"
        time.sleep(every)


def processes_of(run: str, word: str = "") -> list[int]:
    """Processes whose command line names the run."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                line = Path(f"/proc/{entry.name}/cmdline").read_text(errors="replace")
            except OSError:
                continue
            if run in line and word in line and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def worker_of(run: Path, rank: int) -> int:
    """One rank of a run that is under way here: the first such process, as children have its environment."""
    said = f"\0RANK={rank}\0".encode()
    return next(
        pid
        for pid in processes_of(str(run), "jobs.worker")
        if said in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    )
