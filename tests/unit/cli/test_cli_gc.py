"""`latentctl gc`: what goes, and all that must stay."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.runtime.checkpoints import commit, prepare, steps
from latentctl.cli.main import app
from latentctl.launch.profile import profile_named
from latentctl.plan.build import build_plan
from latentctl.record.atomic import write_json
from latentctl.record.journal import Journal
from latentctl.record.paths import RunPaths, StagePaths
from latentctl.runs.create import prepare as make_run
from latentctl.spec.experiment import Experiment
from tests.answers import checked

SPEC, OTHER = "a" * 64, "b" * 64
SHARD = 1000


class Point:
    def __init__(self, name: str, **stage: Any) -> None:
        self.provenance: dict[str, str] = {}
        of = {"name": "sft", "method": "sft", "from": "model", "model": "m", "dataset": "gsm8k", **stage}
        self.experiment = Experiment.model_validate({"name": name, "stages": [of]})


def run_of(root: Path, name: str, *, word: str = "failed", **stage: Any) -> RunPaths:
    """A run of one job, whose journal ends with `word`."""
    point, profile = Point(name, **stage), profile_named("local")
    made = make_run(
        point, profile, root, b"", lambda run, digest: build_plan(point.experiment, profile, run, digest)
    )
    (job,) = made.plan.jobs
    made.run.job(job.name).attempt(1).root.mkdir(parents=True)
    Journal(made.run.journal).append(word, job=job.name, attempt=1)
    return made.run


def stage_of(run: RunPaths) -> StagePaths:
    (job,) = [p.name for p in run.jobs_dir.iterdir()]
    return run.job(job).stage("sft")


def save(stage: StagePaths, *numbers: int, spec: str = SPEC) -> None:
    for step in numbers:
        commit(stage, step, 1, spec, lambda folder: (folder / "shard").write_bytes(b"x" * SHARD) and None)


def gc(root: Path, *args: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["gc", "--runs-dir", str(root), "--json", *args])
    assert done.exit_code == 0, done.output
    return checked(done.stdout)["data"]


def gone(root: Path, *args: str) -> list[int]:
    return [row["step"] for row in gc(root, *args)["checkpoints"]]


def test_all_but_the_newest_goes_and_the_bytes_are_told_before(tmp_path: Path) -> None:
    stage = stage_of(run_of(tmp_path, "one"))
    save(stage, 1, 2, 3)
    said = gc(tmp_path, "--dry-run")
    assert (said["deleted"], [r["step"] for r in said["checkpoints"]]) == (False, [1, 2])
    marker = (stage.checkpoint(1) / "COMMITTED").stat().st_size
    assert said["checkpoints"][0]["bytes"] == SHARD + marker
    assert steps(stage) == [1, 2, 3]
    assert gc(tmp_path)["deleted"]
    assert steps(stage) == [3]
    assert gone(tmp_path) == []


def test_what_is_said_to_people(tmp_path: Path) -> None:
    run = run_of(tmp_path, "one")
    save(stage_of(run), 1, 2, 3)
    dry = CliRunner().invoke(app, ["gc", "--runs-dir", str(tmp_path), "--dry-run"])
    assert f"{run.id}/sft: steps 1, 2  2." in dry.stdout
    assert "2 checkpoints, 2." in dry.stderr
    assert "would be deleted" in dry.stderr
    done = CliRunner().invoke(app, ["gc", "--runs-dir", str(tmp_path)])
    assert "deleted 2 checkpoints" in done.stderr
    again = CliRunner().invoke(app, ["gc", "--runs-dir", str(tmp_path)])
    assert "nothing to delete" in again.stderr


def test_a_damaged_newest_replaces_nothing(tmp_path: Path) -> None:
    stage = stage_of(run_of(tmp_path, "one"))
    save(stage, 1, 2, 3)
    (stage.checkpoint(3) / "shard").write_bytes(b"half")
    assert gone(tmp_path) == [1]
    assert steps(stage) == [2]


def test_another_spec_and_a_half_written_one_replace_nothing(tmp_path: Path) -> None:
    stage = stage_of(run_of(tmp_path, "one"))
    save(stage, 1)
    save(stage, 2, spec=OTHER)
    (prepare(stage, 3, 1) / "shard").write_bytes(b"x")
    assert gone(tmp_path) == []


@pytest.mark.parametrize("word", ["started", "requeued", "submitted"])
def test_a_job_that_goes_on_is_left_alone(tmp_path: Path, word: str) -> None:
    stage = stage_of(run_of(tmp_path, "one", word=word))
    save(stage, 1, 2)
    assert gone(tmp_path) == []


@pytest.mark.parametrize("folder", ["best", "model"])
def test_the_best_and_the_published_one_stay(tmp_path: Path, folder: str) -> None:
    stage = stage_of(run_of(tmp_path, "one"))
    save(stage, 1, 2, 3)
    write_json(stage.root / folder / "latent.json", {"step": 1})
    assert gone(tmp_path) == [2]


def test_what_another_run_names_stays(tmp_path: Path) -> None:
    first = run_of(tmp_path, "one")
    save(stage_of(first), 1, 2, 3, 4, 5)
    run_of(tmp_path, "two", **{"from": f"run:{first.id}/sft@2"})
    run_of(tmp_path, "three", **{"from": str(stage_of(first).checkpoint(3) / "model")})
    run_of(tmp_path, "four", **{"from": f"run:{first.id}@4"})
    assert gone(tmp_path) == [1]


def test_what_another_setting_than_from_names_stays(tmp_path: Path) -> None:
    """A divergence model, a data set: any setting may name a stage's checkpoint."""
    first, second = run_of(tmp_path, "one"), run_of(tmp_path, "two")
    save(stage_of(first), 1, 2, 3)
    spec = json.loads(second.spec.read_text())
    spec["experiment"]["stages"][0]["tree"] = {"divergence": f"run:{first.id}/sft@2"}
    write_json(second.spec, spec)
    assert gone(tmp_path) == [1]


def test_only_the_runs_that_are_named_are_looked_at(tmp_path: Path) -> None:
    first, second = run_of(tmp_path, "one"), run_of(tmp_path, "two")
    for run in (first, second):
        save(stage_of(run), 1, 2)
    assert gone(tmp_path, second.id) == [1]
    assert steps(stage_of(first)) == [1, 2]


def test_files_that_the_model_shares_are_not_counted(tmp_path: Path) -> None:
    stage = stage_of(run_of(tmp_path, "one"))
    save(stage, 1, 2)
    os.link(stage.checkpoint(1) / "shard", tmp_path / "shared")
    (row,) = gc(tmp_path, "--dry-run")["checkpoints"]
    assert row["bytes"] == (stage.checkpoint(1) / "COMMITTED").stat().st_size


def test_a_run_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    run_of(tmp_path, "one")
    done = CliRunner().invoke(app, ["gc", "nothing", "--runs-dir", str(tmp_path)])
    assert done.exit_code != 0
