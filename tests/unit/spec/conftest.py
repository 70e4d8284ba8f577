"""Every test of recipes stands in an empty folder, with the shipped methods and those that it registers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from spec_recipes import Recipes

from latentctl.spec import methods


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(autouse=True)
def own_methods() -> Iterator[None]:
    before, stages = dict(methods.METHODS), dict(methods._STAGES)
    for name, settings in before.items():
        if not settings.__module__.startswith("latentctl."):  # registered by the plugin of another test
            del methods.METHODS[name]
    yield
    for kept, known in ((before, methods.METHODS), (stages, methods._STAGES)):
        known.clear()
        known.update(kept)


@pytest.fixture
def recipes() -> Recipes:
    return Recipes()
