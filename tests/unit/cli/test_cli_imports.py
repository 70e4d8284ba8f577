"""What starts often must start fast: nothing heavy is imported by the commands that look."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cli_world import World

HEAVY = ("torch", "transformers", "datasets", "deepspeed", "wandb", "submitit", "vllm", "peft", "numpy")
LOOKS = (
    ["--help"],
    ["status"],
    ["status", "@last"],
    ["status", "--json"],
    ["show", "@last"],
    ["logs", "@last"],
)
_PROBE = """
import json, sys
from latentctl.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("MODULES" + json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported(world: World, *args: str) -> set[str]:
    """Every module in memory when a command ends."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *args],
        cwd=world.root,
        env=world.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.rsplit("MODULES", 1)[1]))


def test_commands_that_look_import_nothing_heavy_and_no_spec(world: World) -> None:
    world("submit", "recipe.yaml", "--wait")
    for args in LOOKS:
        found = imported(world, *args)
        assert not [m for m in (*HEAVY, "rich", "yaml", "latentctl.spec") if m in found], args


@pytest.mark.parametrize("command", ["submit", "sweep", "eval", "cancel", "retry", "status", "logs", "show"])
def test_help_of_a_command_imports_nothing_heavy(world: World, command: str) -> None:
    found = imported(world, command, "--help")
    assert not [m for m in (*HEAVY, "rich", "latentctl.spec") if m in found]
