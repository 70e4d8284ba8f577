"""What TAB offers: names from the disk, and never a word to Slurm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import World


@pytest.fixture
def tab(world: World, monkeypatch: pytest.MonkeyPatch):
    """tab("status", "ti"): what bash would offer for the last word. Slurm's programs note their calls."""
    folder = world.root / "bin"
    folder.mkdir()
    for name in ("squeue", "sacct", "scontrol", "sinfo", "sbatch", "sacctmgr"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {world.root}/called\n")
        (folder / name).chmod(0o755)

    def offered(*words: str) -> list[str]:
        env = {
            **world.environment(),
            "PATH": f"{folder}:/usr/bin:/bin",
            "_LATENTCTL_COMPLETE": "complete_bash",
        }
        env |= {"COMP_WORDS": " ".join(["latentctl", *words]), "COMP_CWORD": str(len(words))}
        done = subprocess.run(
            [sys.executable, "-m", "latentctl.cli.main"],
            cwd=world.root,
            env=env,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        assert not (world.root / "called").exists()
        return done.stdout.split()

    return offered


@pytest.fixture
def names(world: World) -> list[str]:
    """A run and a sweep of two."""
    for lr in ("1e-3", "1e-4"):
        (folder := world.runs / f"tiny-{lr}").mkdir(parents=True)
        (folder / "plan.json").write_text("{}")
    (sweep := world.runs / "sweeps" / "tiny-sweep").mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    (world.runs / ".new-x").mkdir()
    (world.runs / "foreign").mkdir()
    return ["tiny-1e-3", "tiny-1e-4", "tiny-sweep"]


def test_commands_and_options(tab) -> None:
    assert tab("expl") == ["explain"]
    assert tab("status", "--ex") == ["--exit-code"]


@pytest.mark.parametrize(
    "command", ["status", "show", "logs", "explain", "cancel", "retry", "reproduce", "gc", "diff"]
)
def test_runs_and_sweeps(tab, names: list[str], command: str) -> None:
    assert sorted(tab(command, "ti")) == names
    assert tab(command, "@") == ["@last"]
    assert tab(command, "nosuch") == []


def test_the_second_run_of_a_diff(tab, names: list[str]) -> None:
    assert sorted(tab("diff", names[0], "tiny-1")) == names[:2]


def test_another_runs_folder(tab, names: list[str], world: World) -> None:
    world.runs.rename(world.root / "other")
    assert tab("status", "ti") == []
    assert sorted(tab("status", "--runs-dir", str(Path(world.root / "other")), "ti")) == names


def test_clusters(tab, world: World) -> None:
    (world.root / "cluster" / "far.yaml").write_text("executor: slurm\n")
    assert tab("submit", "recipe.yaml", "--cluster", "her") == ["here"]
    assert {"far", "here"} <= set(tab("sweep", "recipe.yaml", "--cluster", ""))
