"""Whose job is it, and is it there at all: commands that die between two lines, scripts submitted by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import JOB, Run

from latentctl.launch.observe import observe_one
from latentctl.launch.stopping import cancel_run
from latentctl.record.journal import read

SUBMIT = """
import sys
from pathlib import Path
from latentctl.launch.slurm import SlurmExecutor
from latentctl.launch.protocol import Batch
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.spec.cluster import ClusterProfile
runs = [RunPaths(Path(p)) for p in sys.argv[2:]]
plans = [Plan.load(r.plan) for r in runs]
executor = SlurmExecutor(ClusterProfile.model_validate(plans[0].cluster))
if sys.argv[1] == "-":
    executor.submit(runs[0], plans[0])
else:
    executor.submit_all(list(zip(runs, plans)), Batch("sweep", Path(sys.argv[1])))
"""


@pytest.fixture
def dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """dies("after" | "before", call=2): at the second sbatch the command that calls it is killed, with or
    without the job being submitted first."""

    def arm(when: str, *, call: int = 1) -> None:
        real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
        script = tmp_path / "bin" / "sbatch"
        script.parent.mkdir()
        submit = f'out=$({real} "$@")' if when == "after" else "true"
        calls = tmp_path / "calls"
        script.write_text(
            f"#!/bin/bash\necho >> {calls}\n"
            f'[ $(wc -l < {calls}) = {call} ] || exec {real} "$@"\n{submit}; kill -9 $PPID\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    return arm


def submit_and_die(*runs: Run, folder: Path | None = None) -> None:
    words = [sys.executable, "-c", SUBMIT, str(folder or "-"), *(str(r.paths.root) for r in runs)]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    os.environ["PATH"] = os.environ["PATH"].partition(":")[2]


def submitted(run: Run, job: str = "train") -> list[dict]:
    return [e for e in read(run.paths.journal) if e["event"] == "submitted" and e["job"] == job]


def ids_at_slurm(name: str) -> list[str]:
    out = subprocess.run(["squeue", "-h", "-o", "%i %j"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in out.splitlines() if line.split()[1] == name]


def test_killed_after_sbatch_the_next_command_finds_the_job(make_run, dies) -> None:
    run = make_run({"train": {"do": "hang"}})
    dies("after")
    submit_and_die(run)
    assert not submitted(run)
    (there,) = ids_at_slurm(f"{run.paths.id}/train")
    seen = observe_one(run.paths)
    assert seen.state in ("pending", "running")
    (event,) = submitted(run)
    assert (event["id"], event["found"]) == (there, True)
    assert observe_one(run.paths).jobs[0].handle == event  # found once
    assert cancel_run(observe_one(run.paths)) == ["train"]
    run.wait(lambda: not ids_at_slurm(f"{run.paths.id}/train"), what="its end")
    assert observe_one(run.paths).state == "cancelled"


def test_killed_before_sbatch_there_is_nothing_and_a_retry_submits_it(make_run, dies) -> None:
    run = make_run({"train": {"do": "meet"}})
    dies("before")
    submit_and_die(run)
    seen = observe_one(run.paths)
    assert (seen.state, seen.jobs[0].why) == ("planned", "not submitted")
    run.submit()
    run.wait(lambda: observe_one(run.paths).state == "succeeded", what="success")
    assert len(run.job().attempts()) == 1


def test_a_job_that_ran_and_ended_meanwhile_is_found_in_accounting(make_run, dies) -> None:
    run = make_run({"train": {"do": "fail", "rank": 0}})
    dies("after")
    submit_and_die(run)
    run.wait(lambda: run.state() == "failed", what="its end")
    assert observe_one(run.paths).state == "failed"


def test_killed_in_the_middle_of_a_chain_the_rest_is_said_not_to_be_there(make_run, dies) -> None:
    child = replace(JOB, name="score", stages=["score"], after=["train"])
    run = make_run({"train": {"do": "hang"}, "score": {"do": "meet"}}, jobs=[JOB, child])
    dies("before", call=2)
    submit_and_die(run)
    states = {j.name: j.state for j in observe_one(run.paths).jobs}
    assert states["train"] in ("pending", "running")
    assert states["score"] == "planned"
    assert set(cancel_run(observe_one(run.paths))) == {"train", "score"}


def test_an_array_whose_answer_was_lost_is_found_for_each_of_its_runs(make_run, dies, tmp_path: Path) -> None:
    runs = [make_run({"train": {"do": "meet"}}) for _ in range(3)]
    for run in runs[1:]:
        subprocess.run(["rm", "-r", str(run.paths.code)], check=True)
        run.paths.code.symlink_to(runs[0].paths.code)
    folder = runs[0].paths.root.parent / "sweeps" / "sweep"
    dies("after")
    submit_and_die(*runs, folder=folder)
    for number, run in enumerate(runs):
        run.wait(lambda r=run: observe_one(r.paths).state == "succeeded", what="success")
        assert all(e["id"].endswith(f"_{number}") for e in submitted(run))


def test_a_script_submitted_by_hand_is_the_run_that_it_names(make_run) -> None:
    """As people do after an scancel: the new id is taken over, and the attempt is the next one."""
    run = make_run({"train": {"do": "checkpoint"}})
    run.submit()
    run.wait(lambda: (run.job().root / "waiting-0").exists(), what="the first attempt")
    subprocess.run(["scancel", run.handles[0].id], check=True)
    run.wait_until_over()
    script = next(run.job().scheduler.glob("*_submission.sh"))
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=True)
    new = done.stdout.strip()
    run.wait(lambda: observe_one(run.paths).state == "succeeded", what="success")
    seen = observe_one(run.paths)
    assert [a.number for a in seen.jobs[0].attempts] == [1, 2]
    assert json.loads(run.job().attempt(2).info.read_text())["id"] == new
    assert seen.jobs[0].handle["id"] == new
