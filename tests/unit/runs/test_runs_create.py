"""A run directory appears whole, once, and holds everything that the run needs."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
from pathlib import Path

import pytest
from runs_world import PROFILE, RECIPE, HandMade, plans, point

from latentctl.errors import UserError
from latentctl.record import ledger
from latentctl.record.hashes import spec_hash
from latentctl.record.journal import read
from latentctl.record.plan import Plan
from latentctl.runs import create, snapshot
from latentctl.runs.create import Prepared, discard, existing, identify, prepare


def make(root: Path, of: HandMade | None = None, **more: object) -> Prepared:
    of = of or point()
    return prepare(of, PROFILE, root, RECIPE, plans(of), **more)  # type: ignore[arg-type]


def test_everything_is_in_it(tmp_path: Path) -> None:
    prepared = make(tmp_path)
    run = prepared.run
    assert prepared.created
    assert run.id == f"tiny-{prepared.plan.content_hash[:8]}"
    assert run.recipe.read_bytes() == RECIPE
    spec = json.loads(run.spec.read_text())
    assert spec["experiment"] == point().experiment.dump()
    assert spec["spec_hash"] == spec_hash(point().experiment.dump())
    assert spec["provenance"] == {"name": "tiny.yaml:1:7"}
    lock = json.loads(run.lock.read_text())
    assert lock["content_hash"] == prepared.plan.content_hash
    assert lock["packages"]["pydantic"]
    assert lock["cluster"] == "local"
    assert Plan.load(run.plan) == prepared.plan
    assert (run.code / "latentctl" / "errors.py").is_file()
    assert (run.code / "jobs" / "__init__.py").is_file()
    assert [e["job"] for e in read(run.journal)] == [j.name for j in prepared.plan.jobs]


def test_the_snapshot_imports_by_itself(tmp_path: Path) -> None:
    run = make(tmp_path).run
    code = "import latentctl, latentctl.runs.create, latentctl.cli.main; print(latentctl.__file__)"
    env = {**os.environ, "PYTHONPATH": str(run.code), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [create.sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(run.code)


def test_the_same_again_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    first = make(tmp_path)
    second = make(tmp_path)
    assert not second.created
    assert second.run == first.run
    assert [p.name for p in tmp_path.iterdir()] == [first.run.id]


def test_reruns_are_counted(tmp_path: Path) -> None:
    base = make(tmp_path).run.id
    again = [make(tmp_path, rerun=True) for _ in range(2)]
    assert [p.run.id for p in again] == [f"{base}-r2", f"{base}-r3"]
    assert [Plan.load(p.run.plan).run_id for p in again] == [f"{base}-r2", f"{base}-r3"]
    assert [r.id for r in existing(identify(point()), tmp_path)] == [base, f"{base}-r2", f"{base}-r3"]


def test_another_experiment_is_another_run(tmp_path: Path) -> None:
    assert make(tmp_path).run != make(tmp_path, point(seed=1)).run


def _race(root: str, gate: object, results: object, rerun: bool) -> None:
    of = point()
    identity = identify(of)
    gate.wait()  # type: ignore[attr-defined]
    prepared = prepare(of, PROFILE, Path(root), RECIPE, plans(of), identity=identity, rerun=rerun)
    results.put((prepared.created, prepared.run.id, prepared.plan.run_id))  # type: ignore[attr-defined]


@pytest.mark.parametrize("rerun", [False, True])
def test_of_many_processes_at_once_exactly_one_makes_each_run(tmp_path: Path, rerun: bool) -> None:
    context = multiprocessing.get_context("fork")
    count = 6
    gate, results = context.Barrier(count), context.Queue()
    args = (str(tmp_path), gate, results, rerun)
    processes = [context.Process(target=_race, args=args) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    made = [run for created, run, _ in found if created]
    assert len(made) == len(set(made)) == (count if rerun else 1)
    assert {run for _, run, _ in found} == set(made)
    assert all(run == plan for _, run, plan in found)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(made)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(snapshot, "copy_code", full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        make(tmp_path)
    assert caught.value.problems[0].hint
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot, "copy_code", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runs_dir_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make(tmp_path / "runs")


def test_a_foreign_folder_in_the_way_is_told(tmp_path: Path) -> None:
    name = identify(point()).run_id
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="it is no run"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_discarded_run_is_gone(tmp_path: Path) -> None:
    run = make(tmp_path).run
    discard(run)
    assert list(tmp_path.iterdir()) == []


def test_the_first_submission_carries_no_attempt_and_a_retry_the_next(tmp_path: Path) -> None:
    run = make(tmp_path).run
    job = Plan.load(run.plan).jobs[0].name
    assert ledger.coming_attempt(run, job) is None
    from latentctl.record.journal import Journal

    journal = Journal(run.journal)
    ledger.submitted(journal, job, None, executor="local", id="1")
    run.job(job).attempt(1).root.mkdir(parents=True)
    journal.append("failed", job=job, attempt=1)
    assert ledger.submitting(run, {job: {}}) == {job: 2}
    ledger.submitted(journal, job, 2, executor="local", id="2")
    last = ledger.last_submission(read(run.journal), job)
    assert last is not None
    assert last["id"] == "2"
