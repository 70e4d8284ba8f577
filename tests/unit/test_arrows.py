"""Which room may import which: the arrows of the architecture, read from the source of every module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FREE = {"latentctl", "latentctl.errors", "latentctl.record", "latentctl.faults"}
"""Free to everybody: the version, the errors, the run directory (stdlib only), and the rules for failures."""

ARROWS: dict[str, set[str]] = {
    "latentctl.errors": set(),
    "latentctl.shipped": set(),
    "latentctl.record": set(),
    "latentctl.faults": set(),
    "latentctl.spec": {"latentctl.shipped"},
    "latentctl.plan": {"latentctl.spec"},
    "latentctl.runs": {"latentctl.spec"},
    "latentctl.report": {"latentctl.runs"},
    "latentctl.launch": {"latentctl.runs", "latentctl.plan", "latentctl.spec", "latentctl.shipped"},
    "latentctl.api": {
        "latentctl.plan", "latentctl.launch", "latentctl.runs", "latentctl.report", "latentctl.spec",
    },
    "latentctl.cli": {
        "latentctl.plan", "latentctl.launch", "latentctl.runs", "latentctl.report", "latentctl.spec",
        "latentctl.shipped",
    },
    "jobs.runtime": {"latentctl.spec"},
    "jobs.latent": {"latentctl.spec"},
    "jobs.models": {"jobs.latent", "jobs.runtime", "latentctl.spec"},
    "jobs.data": {"jobs.models", "jobs.runtime", "latentctl.spec"},
    "jobs.grade": {"jobs.data", "jobs.runtime", "latentctl.spec"},
    "jobs.generate": {"jobs.latent", "jobs.models", "jobs.runtime", "latentctl.spec"},
    "jobs.serve": {
        "jobs.data", "jobs.generate", "jobs.latent", "jobs.models", "jobs.runtime", "latentctl.spec",
    },
    "jobs.rl": {"jobs.generate", "jobs.latent", "jobs.models", "jobs.runtime", "latentctl.spec"},
    "jobs.preflight": {"jobs.data", "jobs.models", "jobs.runtime", "latentctl.spec"},
    "jobs.train": {"jobs.models", "jobs.runtime", "latentctl.spec"},
    "jobs.methods": {
        "jobs.train", "jobs.models", "jobs.latent", "jobs.generate", "jobs.rl", "jobs.data", "jobs.grade",
        "jobs.serve", "jobs.preflight", "jobs.runtime", "latentctl.spec",
    },
    "jobs.worker": {"jobs.runtime", "latentctl.spec"},
    "jobs.task": {"jobs.runtime", "latentctl.spec"},
}  # fmt: skip
"""Room -> the rooms that it may import besides itself and what is free."""

CONTRACTS = ("jobs.methods.protocol", "jobs.generate.protocol", "jobs.grade.protocol", "jobs.data.example")
"""What rooms of the data plane hand to one another: types, free to all of them."""
KNOWN = {("jobs.runtime.guard", "jobs.data.plugins.load_plugins")}
"""Plugin files may hold datasets, graders and methods; the worker loads them by the one function there is."""

HEAVY = {
    "torch",
    "transformers",
    "deepspeed",
    "datasets",
    "wandb",
    "vllm",
    "peft",
    "safetensors",
    "accelerate",
}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module."""
    for path in sorted((REPO / package).rglob("*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, inside functions too; `TYPE_CHECKING` blocks cost and bind
    nothing, and are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def room(name: str) -> str:
    """`latentctl.launch` of `latentctl.launch.slurm.SlurmExecutor`; the package itself for names of its
    `__init__`."""
    top, _, rest = name.partition(".")
    if top not in ("latentctl", "jobs") or not rest:
        return top
    first = rest.split(".")[0]
    folder = REPO / top / first
    return f"{top}.{first}" if folder.is_dir() or folder.with_suffix(".py").is_file() else top


EVERY = [*modules("latentctl"), *modules("jobs")]


@pytest.mark.parametrize(("name", "path"), EVERY, ids=[n for n, _ in EVERY])
def test_a_module_imports_only_where_its_room_points(name: str, path: Path) -> None:
    here = room(name)
    wrong = []
    for imported in imports(path):
        there = room(imported)
        own = there == here or there == here.split(".")[0]
        if there.split(".")[0] not in ("latentctl", "jobs") or own:
            continue
        if there in FREE or there in ARROWS.get(here, set()) or here in ("latentctl", "jobs"):
            continue
        if (here.startswith("jobs.") and imported.startswith(CONTRACTS)) or (name, imported) in KNOWN:
            continue
        wrong.append(f"{here} -> {there} ({imported})")
    assert not wrong


def test_every_room_has_its_arrows() -> None:
    rooms = {room(n) for n, _ in EVERY} - {"latentctl", "jobs"}
    assert rooms <= set(ARROWS), "say in ARROWS what a new room may import"


def test_the_control_plane_never_imports_the_heavy_side() -> None:
    for name, path in modules("latentctl"):
        tops = {i.split(".")[0] for i in imports(path)}
        assert not tops & (HEAVY | {"jobs"}), f"{name} imports {tops & (HEAVY | {'jobs'})}"


def test_the_run_directory_and_the_errors_need_the_standard_library_alone() -> None:
    for name, path in modules("latentctl"):
        if room(name) in ("latentctl.record", "latentctl.errors"):
            tops = {i.split(".")[0] for i in imports(path)} - {"latentctl"}
            assert tops <= sys.stdlib_module_names, name


def test_what_a_job_does_about_failures_needs_the_standard_library_alone() -> None:
    for name, path in modules("latentctl"):
        if name in ("latentctl.faults.rules", "latentctl.faults.policy"):
            tops = {i.split(".")[0] for i in imports(path)} - {"latentctl"}
            assert tops <= sys.stdlib_module_names, name


def test_the_data_plane_takes_only_spec_and_what_is_free_of_the_control_plane() -> None:
    for name, path in modules("jobs"):
        rooms = {room(i) for i in imports(path) if i.startswith("latentctl")}
        assert rooms <= FREE | {"latentctl.spec"}, name


def test_the_arrows_form_no_circle() -> None:
    left = {r: set(t) for r, t in ARROWS.items()}
    while left:
        ends = {r for r, t in left.items() if not t & set(left)}
        assert ends, f"a circle among {sorted(left)}"
        left = {r: t for r, t in left.items() if r not in ends}
