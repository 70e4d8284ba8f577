"""Both engines on small random models, started once for all tests of a module."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "generate"))  # stages without a worker

for name, value in {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.__stderr__",  # a test's own is closed after it
}.items():
    os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if find_spec("vllm") is None:
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="vllm is not installed"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """`both(family, ...)`: the engines of `tiny.Both`; the same one while the arguments stay the same."""
    from tiny import Both

    open_now: dict[str, Any] = {}

    def get(family: str, **arguments: Any) -> Any:
        key = f"{family} {arguments}"
        if key not in open_now:
            for other in open_now.values():
                other.vllm.close()
            open_now.clear()
            open_now[key] = Both(tmp_path_factory.mktemp(family), family, **arguments)
        return open_now[key]

    yield get
    for other in open_now.values():
        other.vllm.close()
    gc.collect()
