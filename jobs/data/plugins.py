"""Python files that a recipe names under `plugins:`; importing one registers what it holds."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from jobs.runtime.errors import JobUserError


def load_plugins(paths: Iterable[str]) -> None:
    """Import each file once. Raises JobUserError with the file and the line that failed."""
    for given in paths:
        path = Path(given).expanduser().resolve()
        name = f"latentctl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            continue
        if not path.is_file():
            raise JobUserError(f"no such plugin file: {given}", where="plugins")
        module_spec = importlib.util.spec_from_file_location(name, path)
        if module_spec is None or module_spec.loader is None:
            raise JobUserError(f"a plugin is a Python file, this is not: {given}", where="plugins")
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        try:
            module_spec.loader.exec_module(module)
        except JobUserError:
            del sys.modules[name]
            raise
        except Exception as error:
            del sys.modules[name]
            raise JobUserError(
                f"the plugin does not load: {type(error).__name__}: {error}", where=_where(error, path)
            ) from error


def _where(error: BaseException, path: Path) -> str:
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)
