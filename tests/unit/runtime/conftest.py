"""Fixtures of the runtime's tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from runs_for_tests import Bench, make


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """`bench([stage(...), ...])` makes a run directory with what it needs to start its worker."""
    return partial(make, tmp_path / "runs")
