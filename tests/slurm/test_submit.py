"""Jobs on real daemons: several nodes, chains, environment, logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import JOB, ROOT, profile

from latentctl.launch.slurm_client import SlurmClient
from latentctl.record.journal import read


def environment_of(run, rank: int = 0) -> dict[str, str]:
    return json.loads(run.job().attempt(1).stdout(rank).read_text())["env"]


def test_two_nodes_two_tasks_meet_and_each_rank_has_its_log(make_run):
    run = make_run({"train": {"do": "meet"}}, nodes=2, tasks_per_node=2, gpus_per_node=2)
    run.submit()
    run.wait(lambda: run.state() == "succeeded", what="success")
    attempt = run.job().attempt(1)
    places = []
    for rank in range(4):
        assert attempt.stderr(rank).read_text() == f"rank {rank} of 4 is done\n"
        said = json.loads(attempt.stdout(rank).read_text())
        assert said["module"] == str(run.paths.code / "jobs" / "worker.py")
        names = (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
            "MASTER_ADDR",
            "CUDA_VISIBLE_DEVICES",
        )
        places.append(tuple(said["env"][n] for n in names))
    master = places[0][4]
    assert master.startswith("node")
    assert places == [(str(r), "4", str(r % 2), "2", master, str(r % 2)) for r in range(4)]
    run.wait_until_over()
    assert [p.name for p in run.executor.scheduler_logs(run.paths, run.plan.jobs[0])]


def test_the_journal_has_the_intent_before_the_id(make_run):
    run = make_run({"train": {"do": "meet"}})
    (handle,) = run.submit()
    rows = [e for e in read(run.paths.journal) if e["event"] in ("submitting", "submitted")]
    assert [e["event"] for e in rows] == ["submitting", "submitted"]
    assert (rows[1]["executor"], rows[1]["id"], rows[1]["name"]) == (
        "slurm",
        handle.id,
        f"{run.paths.id}/train",
    )
    assert SlurmClient().live([handle.id])[handle.id].comment == f"{run.paths.id}/train"


def test_a_chain_runs_in_order(make_run):
    jobs = [replace(JOB, name="train"), replace(JOB, name="eval", after=["train"])]
    run = make_run({"train": {"do": "meet"}, "eval": {"do": "meet"}}, jobs=jobs)
    run.submit()
    run.wait(lambda: run.state("eval") == "succeeded", what="the end of the chain")
    began = [
        (e["job"], e["event"]) for e in read(run.paths.journal) if e["event"] in ("started", "succeeded")
    ]
    assert sorted(began) == sorted((j, e) for j in ("train", "eval") for e in ("started", "succeeded"))
    train_end = json.loads(run.job("train").attempt(1).end.read_text())["time"]
    eval_start = json.loads(run.job("eval").attempt(1).info.read_text())["time"]
    assert train_end <= eval_start


def test_a_child_of_a_failed_parent_never_runs(make_run):
    jobs = [replace(JOB, name="train"), replace(JOB, name="eval", after=["train"])]
    run = make_run({"train": {"do": "fail", "rank": 0}, "eval": {"do": "meet"}}, jobs=jobs)
    run.submit()
    run.wait_until_over()
    assert run.state("train") == "failed"
    assert run.job("eval").attempts() == []
    facts = {f.handle.job: f for f in run.executor.query(run.handles)}
    assert (facts["train"].state, facts["eval"].state) == ("FAILED", "CANCELLED")


def test_a_second_submission_takes_only_what_has_no_result(make_run):
    jobs = [replace(JOB, name="train"), replace(JOB, name="eval", after=["train"])]
    run = make_run({"train": {"do": "meet"}, "eval": {"do": "fail", "rank": 0}}, jobs=jobs)
    run.submit()
    run.wait(lambda: run.state("eval") == "failed", what="the failure")
    run.wait_until_over()
    (run.paths.root / "behave.json").write_text(json.dumps({"eval": {"do": "meet"}}))
    again = run.submit()
    assert [h.job for h in again] == ["eval"]
    run.wait(lambda: run.state("eval") == "succeeded", what="success of the second submission")
    assert len(run.job("eval").attempts()) == 2


def test_secrets_of_the_shell_stay_there_and_named_variables_arrive(make_run, monkeypatch):
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("HANDED_ON", "a value, with comma")
    monkeypatch.setenv("SBATCH_ACCOUNT", "nonsense")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    run = make_run(
        {"train": {"do": "meet"}}, on=profile(pass_env=["HANDED_ON"], env={"FROM_PROFILE": "it's $HOME"})
    )
    run.submit()
    run.wait(lambda: run.state() == "succeeded", what="success")
    env = environment_of(run)
    assert "MY_SECRET_TOKEN" not in env
    assert "SLURM_ARRAY_TASK_ID" not in env
    assert env["HANDED_ON"] == "a value, with comma"
    assert env["FROM_PROFILE"] == "it's $HOME"
    assert (env["HOME"], env["PATH"]) == (os.environ["HOME"], os.environ["PATH"])
    leaked = [p for p in run.paths.root.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]
    assert leaked == []
    written = [
        p for p in run.paths.root.rglob("*") if p.is_file() and b"a value, with comma" in p.read_bytes()
    ]
    assert written == [
        run.job().attempt(1).stdout(0)
    ]  # the stand-in prints its environment; latentctl wrote none


def test_setup_lines_run_before_the_job(make_run):
    run = make_run({"train": {"do": "meet"}}, on=profile(setup=["export FROM_SETUP=$((40 + 2))"]))
    run.submit()
    run.wait(lambda: run.state() == "succeeded", what="success")
    assert environment_of(run)["FROM_SETUP"] == "42"


def test_a_module_that_does_not_load_ends_the_job_with_its_name(make_run):
    run = make_run({"train": {"do": "meet"}}, on=profile(modules=["cuda/99"]))
    run.submit()
    run.wait_until_over()
    assert run.job().attempts() == []
    assert "latentctl: module load cuda/99 failed" in run.scheduler_text()
    assert run.executor.query(run.handles)[0].state == "FAILED"


def test_submission_works_from_inside_a_job(make_run):
    inner = make_run({"train": {"do": "meet"}})
    code = (
        "import sys, json; from pathlib import Path\n"
        "from latentctl.launch.slurm import SlurmExecutor\n"
        "from latentctl.record.paths import RunPaths; from latentctl.record.plan import Plan\n"
        "from latentctl.spec.cluster import ClusterProfile\n"
        "paths = RunPaths(Path(sys.argv[1])); plan = Plan.load(paths.plan)\n"
        "profile = ClusterProfile.model_validate(plan.cluster)\n"
        "print([h.id for h in SlurmExecutor(profile).submit(paths, plan)][0])"
    )
    out = inner.paths.root / "outer.txt"
    outer = subprocess.run(
        ["srun", "-n1", "--mem=1000", f"--output={out}", sys.executable, "-c", code, str(inner.paths.root)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert outer.returncode == 0, outer.stderr + out.read_text()
    inner.wait(lambda: inner.state() == "succeeded", what="success of the inner job")
    assert out.read_text().strip().isdigit()


def test_query_asks_once_for_all_and_falls_back_to_accounting(make_run, monkeypatch):
    run = make_run({"train": {"do": "meet"}})
    (handle,) = run.submit()
    run.wait_until_over()
    calls: list[list[str]] = []
    real = SlurmClient._run

    def forgetful(self, command, **options):
        calls.append(command)
        if command[0] == "squeue":
            return ""
        return real(self, command, **options)

    monkeypatch.setattr(SlurmClient, "_run", forgetful)
    unknown = replace(handle, id="99999999")
    found = run.wait(
        lambda: (f := run.executor.query([handle, unknown]))[0].state == "COMPLETED" and f,
        what="sacct",
    )
    assert [(f.state, f.source) for f in found] == [("COMPLETED", "sacct"), (None, "")]
    assert [c[0] for c in calls[:2]] == ["squeue", "sacct"]


@pytest.mark.parametrize("partition", ["down", "adm"])
def test_accepted_jobs_that_never_run_are_found_right_after_submission(make_run, partition):
    run = make_run({"train": {"do": "meet"}}, on=profile(partition=partition))
    handles = run.submit()
    (problem,) = run.executor.findings(handles)
    assert "was accepted but" in problem.message
    said = {"down": "partition down is down", "adm": "account not permitted"}[partition]
    assert said in problem.text()
    run.executor.cancel(run.paths, handles)
    assert run.state() == "cancelled"


def test_a_time_limit_above_the_partitions_is_found(make_run):
    run = make_run({"train": {"do": "meet"}}, time_s=7200)
    handles = run.submit()
    (problem,) = run.wait(lambda: run.executor.findings(handles), what="the finding")
    assert problem.key in (
        "time",
        "resources",
    )  # Slurm says PartitionConfig at first, then PartitionTimeLimit
    assert "up to 60 min" in (problem.hint or "")
