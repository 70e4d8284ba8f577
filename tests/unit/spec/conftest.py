"""Every test of recipes stands in an empty folder, and forgets the methods that it registers."""

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
    known = dict(methods.METHODS)
    yield
    for name in set(methods.METHODS) - set(known):
        del methods.METHODS[name]
        methods._STAGES.pop(name, None)


@pytest.fixture
def recipes() -> Recipes:
    return Recipes()
