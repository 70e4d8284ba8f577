"""Every test of recipes stands in an empty folder, and forgets the methods that it registers."""

from __future__ import annotations

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
def own_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    monkeypatch.setattr(methods, "_STAGES", dict(methods._STAGES))


@pytest.fixture
def recipes() -> Recipes:
    return Recipes()
