"""`pip install .` on a login node: the light core alone, without the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import REPO


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the core; its bin folder."""
    folder = tmp_path_factory.mktemp("core")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "-c", str(REPO / "constraints.txt"), str(REPO)], capture_output=True, text=True, timeout=300
    )
    if done.returncode and "NewConnectionError" in done.stderr:  # a wrong pin is no reason to skip
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return folder / "venv/bin"


def latentctl(core: Path, folder: Path, *args: str, code: int = 0) -> str:
    env = {"PATH": f"{core}:/usr/bin:/bin", "HOME": str(folder), "LATENTCTL_STATE_DIR": str(folder / "state")}
    done = subprocess.run(
        [str(core / "latentctl"), *args], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_core_is_light_and_brings_recipes_profiles_and_the_devbox(core: Path, tmp_path: Path) -> None:
    heavy = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('torch', 'transformers'))))"
    assert subprocess.run([core / "python", "-c", heavy], cwd=tmp_path).returncode == 0
    assert "shell-game" in latentctl(core, tmp_path, "recipes", "list")
    assert "devbox" in latentctl(core, tmp_path, "clusters", "list")
    latentctl(core, tmp_path, "recipes", "copy", "shell-game", ".")
    assert "ok" in latentctl(core, tmp_path, "check", "shell-game.yaml")
    assert "#SBATCH --partition=cpu" in latentctl(
        core, tmp_path, "submit", "shell-game.yaml", "--dry-run", "--cluster", "example-cpu"
    )
    latentctl(core, tmp_path, "schema", "recipe")
    latentctl(core, tmp_path, "devbox", "status", code=1)


def test_a_job_without_the_training_packages_says_how_to_install_them(core: Path, tmp_path: Path) -> None:
    latentctl(core, tmp_path, "recipes", "copy", "shell-game", ".")
    said = latentctl(core, tmp_path, "submit", "shell-game.yaml", "--wait", code=1)
    assert "is not installed" in said
    assert "latentctl[train]" in said
