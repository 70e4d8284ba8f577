"""Who may import whom in the data plane (`jobs/README.md`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
LIGHT = {"latentctl", "latentctl.spec", "latentctl.record", "latentctl.errors"}
ROOMS = {
    "worker": {"runtime", "methods.protocol"},
    "task": {"runtime"},
    "methods": {"train", "models", "latent", "generate", "grade", "data", "runtime"},
    "train": {"models", "runtime", "methods.protocol"},
    "generate": {"models", "latent", "runtime"},
    "models": {"runtime"},
    "grade": {"data", "runtime"},
    "data": {"models", "runtime"},  # `latentctl data` shows rows as the stage's own tokenizer cuts them
    "latent": set(),
    "runtime": {"methods.protocol", "data.plugins"},
}
HEAVY = {"torch", "deepspeed", "transformers", "datasets", "wandb", "vllm", "peft"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module, lazy imports included; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)


def below(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_jobs_imports_only_what_it_may(room):
    folder = REPO / "jobs" / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert files
    allowed = {f"jobs.{r}" for r in ROOMS[room] | {room}}
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {name}"
        for path in files
        for name, line in imports(path)
        if (name.startswith("jobs.") and not below(name, allowed))
        or (name.startswith("latentctl.") and not below(name, LIGHT - {"latentctl"}))
    ]
    assert wrong == []


def test_every_room_is_known():
    found = {p.stem for p in (REPO / "jobs").iterdir() if p.name[0] not in "_." and p.suffix in ("", ".py")}
    assert found - {"README"} == set(ROOMS)


def test_the_control_plane_imports_nothing_heavy():
    wrong = [
        f"{path.relative_to(REPO)}:{line}: {name}"
        for path in sorted((REPO / "latentctl").rglob("*.py"))
        for name, line in imports(path)
        if name.split(".")[0] in HEAVY | {"jobs"}
    ]
    assert wrong == []


def test_the_record_and_the_spec_know_no_other_room():
    for room, allowed in (
        ("record", {"latentctl.record"}),
        ("spec", {"latentctl.spec", "latentctl.errors", "latentctl.shipped"}),
    ):
        wrong = [
            f"{path.relative_to(REPO)}:{line}: {name}"
            for path in sorted((REPO / "latentctl" / room).rglob("*.py"))
            for name, line in imports(path)
            if name.startswith("latentctl.") and not below(name, allowed)
        ]
        assert wrong == [], room
