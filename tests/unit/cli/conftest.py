from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import RECIPE, REPO, World


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they are now: the same all the time, though somebody edits the checkout meanwhile."""
    folder = tmp_path_factory.mktemp("code")
    for package in ("latentctl", "jobs"):
        shutil.copytree(REPO / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def world(tmp_path: Path, code: Path) -> Iterator[World]:
    """A folder with `recipe.yaml` and a cluster `here`, whose jobs succeed unless `behave` says otherwise."""
    made = World(tmp_path, code)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    made.behave("ok")
    yield made
    made.clean()
