from __future__ import annotations

import pytest

from tests.slurm.conftest import devbox

__all__ = ["devbox"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/soak/" in str(item.path):
            item.add_marker(pytest.mark.slow)
