"""What people get wrong and what machines do to them: one clear error, nothing half-created."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Cli

pytestmark = pytest.mark.heavy


def test_a_typo_is_found_before_anything_is_created(cli: Cli) -> None:
    done = cli("submit", cli.recipe(TINY.replace("lr: 1e-3", "lrr: 1e-3")), code=2)
    assert "tiny.yaml:5:9" in done.err
    assert "lr" in done.err.split("hint:")[1]
    assert not cli.runs.exists()


def test_a_missing_model_fails_the_job_in_words(cli: Cli) -> None:
    recipe = TINY.replace(TINY.splitlines()[1], "model: no-such-org/no-such-model")
    done = cli("submit", cli.recipe(recipe), "--wait", code=1)
    assert "no-such-org/no-such-model" in done.err
    assert "hint:" in done.err


def test_a_missing_model_directory_is_refused_at_once(cli: Cli) -> None:
    recipe = TINY.replace(TINY.splitlines()[1], "model: ./not/here")
    done = cli("submit", cli.recipe(recipe), code=2)
    assert "not/here" in done.err
    assert "tiny.yaml:2" in done.err


def test_a_broken_dataset_is_named_with_file_and_line(cli: Cli) -> None:
    (cli.folder / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n{"question": "2+2?", "ans\n')
    recipe = TINY.replace(
        "{name: shell-game, limit: 256, options: {cups: 4, swaps: 3}}", "{path: rows.jsonl}"
    )
    done = cli("submit", cli.recipe(recipe), "--wait", code=1)
    assert "rows.jsonl:2" in done.err
    judged = cli("data", "rows.jsonl", "--check", code=1)
    assert "rows.jsonl:2" in judged.out + judged.err


def test_ctrl_c_during_submit_leaves_nothing_half_created(cli: Cli) -> None:
    """At ten moments (the first while Python itself starts): afterwards there is a whole run or none."""
    cli.recipe()
    for i in range(10):
        process = cli.start("submit", "tiny.yaml", "--name", f"moment{i}", "--set", "train.steps=1")
        time.sleep(0.08 * (i + 1))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode in (0, 5, 130, -signal.SIGINT)
        for run in cli.runs.glob(f"moment{i}-*"):
            assert (run / "plan.json").exists()
            assert (run / "lock.json").exists()
            cli("cancel", run.name, code=None)
    if cli.runs.exists():
        assert not [p for p in cli.runs.iterdir() if p.name.startswith(".") and p.is_dir()]


def test_a_second_submit_while_the_first_runs_starts_nothing(cli: Cli) -> None:
    cli("submit", cli.recipe(), "--set", "train.steps=100000")
    second = cli("submit", "tiny.yaml", "--set", "train.steps=100000")
    runs = [p.name for p in cli.runs.iterdir() if p.name.startswith("tiny-")]
    assert len(runs) == 1
    assert runs[0] in second.out + second.err
    cli("cancel", runs[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_clear_error_and_leaves_no_run(cli: Cli, small_disk: Path) -> None:
    done = cli("submit", cli.recipe(), "--runs-dir", str(small_disk / "runs"), code=2)
    assert "space" in done.err
    assert not list((small_disk / "runs").glob("tiny-*"))


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_no_compiler_is_needed(cli: Cli, tmp_path: Path) -> None:
    """Trains and evaluates with a PATH on which no compiler, no ninja and no nvcc can be found."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "bash", "git", "env", "uname", "hostname"):
        found = subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        if found:
            (tools / name).symlink_to(found)
    extensions = tmp_path / "extensions"
    cli(
        "submit", cli.recipe(), "--wait", "--set", "train.steps=2", "--set", "stages.score.dataset.limit=2",
        PATH=str(tools), TORCH_EXTENSIONS_DIR=str(extensions), CC="", CXX="", CUDA_HOME="",
    )  # fmt: skip
    assert not extensions.exists() or not list(extensions.rglob("*.so"))
    assert (
        json.loads(next(cli.runs.glob("tiny-*/jobs/*/result.json")).read_text())["stages"]["score"]["n"] == 2
    )


def test_debug_runs_in_the_foreground_with_two_steps(cli: Cli) -> None:
    """Two steps, four problems, said here and at once; no run is left behind."""
    done = cli("submit", cli.recipe(), "--debug")
    assert "sft 2/2" in done.out
    assert "sft 3" not in done.out
    assert "score 4 " in done.out
    assert not cli.runs.exists()
