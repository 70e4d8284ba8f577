"""Python files that a recipe names: imported so that what they register is known."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path

from latentctl.errors import UserError


def load_plugin(path: Path) -> None:
    """Import a file under a name of its own. Raises UserError naming the file and the line of whatever it raises."""
    name = f"latentctl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError("a plugin is a Python file (.py)", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        sys.modules.pop(name, None)
        raise UserError(f"syntax error: {error.msg}", where=f"{error.filename}:{error.lineno}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.modules.pop(name, None)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise UserError(f"the plugin fails: {type(error).__name__}: {error}", where=where) from error
