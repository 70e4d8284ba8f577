"""`latentctl serve` where there will be no server: one clear error, its last lines, no process left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the openai package comes with vllm, which is not installed")

from serving import checkpoint, environment
from serving import serve as start
from transformers import Qwen3Config, Qwen3ForCausalLM

from latentctl.launch.processes import of_run
from tests.answers import checked

pytestmark = [pytest.mark.heavy, pytest.mark.vllm]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("failures")
    checkpoint(made / "thinker")
    return made


def serve(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "latentctl.cli.main", "serve", *args, "--runs-dir", str(folder / "runs")]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **env), capture_output=True, text=True, timeout=280
    )


def nothing_runs(folder: Path, within: float = 10.0) -> bool:
    """The state is told before the processes that told it have ended; they have a moment to do so."""
    deadline = time.monotonic() + within
    while left := any(of_run(run) for run in (folder / "runs").glob("serve-*")):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return not left


def test_a_server_that_dies_while_it_loads_says_why(folder: Path) -> None:
    broken = folder / "broken"
    shutil.copytree(folder / "thinker", broken)
    (broken / "model.safetensors").write_bytes(b"these are no weights")
    done = serve(folder, "broken")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "is failed" in error
    assert "SafetensorError" in error
    assert any(line.startswith("  | ") for line in done.stderr.splitlines())
    assert "hint: " in done.stderr
    assert nothing_runs(folder)


def test_a_directory_without_weights_is_refused_before_anything_loads(folder: Path) -> None:
    bare = folder / "bare"
    shutil.copytree(folder / "thinker", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    done = serve(folder, "bare", "--json")
    assert done.returncode == 1
    error = checked(done.stdout)["error"]
    assert "no weights (*.safetensors)" in error["message"]
    assert nothing_runs(folder)


def test_latent_settings_that_nothing_can_follow_are_refused_at_the_start(folder: Path) -> None:
    counting = checkpoint(folder / "counting", stop={"per_step": {"latents": 2}})
    done = serve(folder, str(counting))
    assert done.returncode == 1
    assert "a question has none" in done.stderr
    assert "hint: give a number instead, such as stop: 6" in done.stderr


def test_a_server_that_is_not_ready_in_time_is_ended(folder: Path) -> None:
    done = serve(folder, "thinker", "--ready-timeout", "1s")
    assert done.returncode == 1
    assert "did not answer within 1 s" in done.stderr
    assert nothing_runs(folder)


def test_a_server_whose_engine_dies_ends_and_says_so(folder: Path) -> None:
    served = start(folder, "thinker", "--port", "18432")
    try:
        (engine,) = [p for p in of_run(served.run) if "EngineCore" in name_of(p.pid)]
        os.kill(engine.pid, signal.SIGKILL)
        assert served.process.wait(60) == 1
    finally:
        served.end()
    assert "is failed" in (folder / "err.txt").read_text()
    assert not of_run(served.run)


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


def test_heads_that_the_cpu_build_cannot_compute_are_refused_at_the_start(folder: Path) -> None:
    narrow = folder / "narrow"
    checkpoint(narrow)
    config = Qwen3Config(**(json.loads((narrow / "config.json").read_text()) | {"head_dim": 16}))
    Qwen3ForCausalLM(config).save_pretrained(narrow)
    done = serve(folder, "narrow")
    assert done.returncode == 1
    assert "heads of 16 are not among those of vllm's CPU build" in done.stderr
