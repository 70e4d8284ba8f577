"""A checkpoint that takes latent steps, and `latentctl serve` on it as a person would call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny import model, tokenizer

from tests.answers import checked

REPO = Path(__file__).resolve().parents[2]
STEPS = 3
LATENT = {
    "version": 1,
    "input": {"kind": "hidden"},
    "start": "prompt",
    "markers": "think",
    "stop": {"fixed": STEPS},
}
CHAT = (
    "{% for m in messages %}[{{m['role']}}]{{m['content']}}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
START_S = 240


def checkpoint(folder: Path, **latent: Any) -> Path:
    """A small random model with a chat template that carries latent settings, as a training leaves it."""
    model("qwen3").save_pretrained(folder)
    words = tokenizer()
    words.chat_template = CHAT
    words.save_pretrained(folder)
    (folder / "latent.json").write_text(json.dumps({**LATENT, **latent}))
    return folder


@dataclass
class Served:
    """A server in the foreground, started and ready."""

    process: subprocess.Popen[bytes]
    runs: Path
    env: dict[str, str]
    said: dict[str, Any] = field(default_factory=dict)
    """The envelope's data."""

    @property
    def run(self) -> Path:
        return self.runs / self.said["run"]

    def interrupt(self) -> int:
        """Ctrl-C. The exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def end(self) -> None:
        """Whatever happened: nothing goes on."""
        if self.process.poll() is None:
            self.interrupt()


def environment(folder: Path, **more: str) -> dict[str, str]:
    drop = {"LATENTCTL_RUNS_DIR", "LATENTCTL_CLUSTER", "LATENTCTL_API_KEY", "PYTHONPATH", "VLLM_API_KEY"}
    env = {k: v for k, v in os.environ.items() if k not in drop and not k.startswith(("SLURM_", "SUBMITIT_"))}
    own = {"PYTHONPATH": str(REPO), "LATENTCTL_STATE_DIR": str(folder / "state"), "NO_COLOR": "1"}
    return {**env, **own, "VLLM_CPU_OMP_THREADS_BIND": "nobind", **more}


def serve(folder: Path, *args: str, **env: str) -> Served:
    """`latentctl serve ARGS --json`, until it prints its envelope."""
    runs = folder / "runs"
    command = [sys.executable, "-m", "latentctl.cli.main", "serve", *args, "--runs-dir", str(runs), "--json"]
    seen = environment(folder, **env)
    out, err = folder / "out.json", folder / "err.txt"
    with out.open("w") as to_out, err.open("w") as to_err:
        process = subprocess.Popen(command, cwd=folder, env=seen, stdout=to_out, stderr=to_err)
    served = Served(process, runs, seen)
    deadline = time.monotonic() + START_S
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if out.read_text().endswith("\n}\n"):
                served.said = checked(out.read_text())["data"]
                return served
            time.sleep(0.2)
    except BaseException:
        served.end()
        raise
    served.end()
    raise AssertionError(f"it did not start: {out.read_text()}\n{err.read_text()}")
