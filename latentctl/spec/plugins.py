"""Python files that a recipe names: imported so that what they register is known."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from latentctl.errors import Problem, UserError
from latentctl.spec.explain import Found, shown
from latentctl.spec.local_paths import look_up
from latentctl.spec.yaml_marks import Node


def load_plugin(path: Path) -> None:
    """Import a file under a name of its own. Raises UserError naming the file and the line of whatever it
    raises."""
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
        raise UserError(
            f"syntax error: {error.msg}", where=f"{error.filename or path}:{error.lineno or 1}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.modules.pop(name, None)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise UserError(f"the plugin fails: {type(error).__name__}: {error}", where=where) from error


def load_plugins(root: Node) -> tuple[Node, list[Found]]:
    """Import the files under a recipe's `plugins:`; the tree with their paths absolute, and what is wrong
    with them."""
    listed = root.get("plugins")
    if listed is None or not isinstance(listed.value, list):
        return root, []
    found: list[Found] = []
    placed: list[Node] = []
    for item in listed.value:
        node, problems = _load(item) if isinstance(item.value, str) else (item, [])
        placed.append(node)
        found += [(item.mark, problem) for problem in problems]
    return root.with_child("plugins", replace(listed, value=placed)), found


def _load(item: Node) -> tuple[Node, list[Problem]]:
    where, key = str(item.mark), ".".join(item.path)
    path, reason = look_up(item.value)
    if reason is None and (path.suffix != ".py" or not path.is_file()):
        reason = "a plugin is a Python file (.py)"
    if reason:
        return item, [Problem(f"{shown(item.value)}: {reason}", where, key)]
    try:
        load_plugin(path)
    except UserError as error:
        return item, [
            Problem(p.message, p.where, key, f"the recipe names it at {where}") for p in error.problems
        ]
    return replace(item, value=str(path)), []
