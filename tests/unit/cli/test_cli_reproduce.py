"""A run once more, from what it kept: the same spec and code, and whether its numbers hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_world import World

from latentctl.record.paths import RunPaths
from latentctl.report.verify import Row, holds


@pytest.fixture
def run(world: World) -> RunPaths:
    """One that has succeeded."""
    world("submit", "recipe.yaml", "--wait")
    (name,) = world.run_names()
    return RunPaths(world.runs / name)


def results(run: RunPaths) -> list[Path]:
    return sorted(run.root.glob("jobs/*/stages/*/result.json"))


def test_it_is_the_same_spec_and_code_and_its_numbers_hold(world: World, run: RunPaths) -> None:
    (world.root / "recipe.yaml").write_text("changed since")
    done = world("reproduce", run.id, "--verify", "--json")
    said = done.json["data"]
    after = RunPaths(world.runs / said["run"])
    assert (said["of"], after.id, said["holds"]) == (run.id, f"{run.id}-r2", True)
    assert {n["verdict"] for n in said["numbers"]} == {"same"}
    assert any(n["interval"] for n in said["numbers"])
    assert said["environment"] == []
    assert after.spec.read_bytes() == run.spec.read_bytes()
    assert after.recipe.read_bytes() == run.recipe.read_bytes()
    assert world("diff", run.id, after.id, "--json").json["data"]["same"]


def test_what_lies_outside_the_recorded_interval_does_not_hold(world: World, run: RunPaths) -> None:
    for path in results(run):
        row = json.loads(path.read_text())
        if "accuracy" in row:
            path.write_text(json.dumps({**row, "accuracy": 0.99, "accuracy_ci": [0.98, 1.0]}))
    done = world("reproduce", run.id, "--verify", code=1)
    lines = [x for x in done.out.splitlines() if "accuracy" in x]
    assert lines
    assert all("0.98 to 1" in line and line.endswith("outside") for line in lines)
    assert "it does not hold" in done.err


def test_without_verify_it_is_submitted_and_the_next_commands_are_named(world: World, run: RunPaths) -> None:
    done = world("reproduce", "@last")
    assert f"submitted {run.id}-r2: spec and code of {run.id}" in done.err
    assert f"latentctl diff {run.id} {run.id}-r2" in done.err


def test_a_reproduction_that_fails_is_shown_as_a_failure(world: World, run: RunPaths) -> None:
    world.behave("fail")
    done = world("reproduce", run.id, "--verify", "--cluster", "here", code=1)
    assert "row 7 is broken" in done.err
    assert "missing" in done.out


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("code", "spec or code of the run are not what was submitted"),
        ("spec", "spec or code of the run are not what was submitted"),
        ("json", "cannot be read"),
    ],
)
def test_a_run_that_was_changed_is_refused(world: World, run: RunPaths, what: str, words: str) -> None:
    if what == "code":
        (run.code / "jobs" / "worker.py").write_text("changed")
    elif what == "spec":
        run.spec.write_text(run.spec.read_text().replace('"name": "tiny"', '"name": "tony"'))
    else:
        run.spec.write_text("{")
    done = world("reproduce", run.id, code=2)
    assert words in done.err
    assert world.run_names() == [run.id]


def test_a_run_that_is_not_there(world: World) -> None:
    assert "no run" in world("reproduce", "nosuch", code=3).err


@pytest.mark.parametrize(
    ("recorded", "interval", "now", "verdict", "good"),
    [
        (0.5, (0.4, 0.6), 0.5, "same", True),
        (0.5, (0.4, 0.6), 0.6, "within", True),
        (0.5, (0.4, 0.6), 0.61, "outside", False),
        (1.5, None, 1.4, "differs", True),
        (7, None, None, "missing", False),
    ],
)
def test_verdicts(recorded, interval, now, verdict: str, good: bool) -> None:
    row = Row("score.accuracy", recorded, interval, now)
    assert row.verdict == verdict
    assert holds([row]) is good
