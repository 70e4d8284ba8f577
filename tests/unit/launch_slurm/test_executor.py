"""The executor without daemons: facts from two sources, nothing half-submitted, interrupted submissions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fakes import calls, program
from test_client import squeue_row

from latentctl.errors import Exit, UserError
from latentctl.launch.protocol import Handle
from latentctl.launch.slurm import SlurmExecutor
from latentctl.record.journal import read
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.spec.cluster import ClusterProfile

PROFILE = ClusterProfile(name="c", executor="slurm")


@pytest.fixture
def bin_dir(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    program(folder, "scontrol", "echo 'is UP'")
    program(folder, "squeue", "true")
    program(folder, "sacct", "true")
    program(folder, "scancel", "true")
    return folder


@pytest.fixture
def chain(tmp_path) -> tuple[RunPaths, Plan]:
    """Three jobs, each after the one before."""
    run = RunPaths(tmp_path / "runs" / "demo-12345678")
    run.root.mkdir(parents=True)
    jobs = [
        JobPlan(name, [name], after, "train", 1, 1, 0, 1, None, 600, sys.executable)
        for name, after in (("a", []), ("b", ["a"]), ("c", ["a", "b"]))
    ]
    return run, Plan(run.id, "0" * 64, PROFILE.model_dump(mode="json"), jobs)


def numbered(folder: Path, then: str = "true") -> None:
    """sbatch that hands out 101, 102, ... and keeps each script; `then` runs before the answer."""
    program(
        folder, "sbatch",
        f"n=$(wc -l < {folder}/sbatch.log); cp \"${{@: -1}}\" {folder}/script-$n; {then}; echo $((100 + n))",
    )  # fmt: skip


def events(run: RunPaths) -> list[tuple[str, str]]:
    return [(e["event"], e["job"]) for e in read(run.journal)]


def test_a_chain_names_the_ids_of_its_parents(bin_dir, chain):
    numbered(bin_dir)
    run, plan = chain
    handles = SlurmExecutor(PROFILE).submit(run, plan)
    assert [(h.job, h.id, h.name) for h in handles] == [
        ("a", "101", f"{run.id}/a"), ("b", "102", f"{run.id}/b"), ("c", "103", f"{run.id}/c"),
    ]  # fmt: skip
    scripts = [(bin_dir / f"script-{n}").read_text() for n in (1, 2, 3)]
    assert "--dependency" not in scripts[0]
    assert "--dependency=afterok:101\n" in scripts[1]
    assert "--dependency=afterok:101:102\n" in scripts[2]
    assert events(run) == [(e, j) for j in "abc" for e in ("submitting", "submitted")]
    for job in "abc":  # for a person; the entry needs no file
        names = sorted(p.name.split("_", 1)[1] for p in run.job(job).scheduler.iterdir())
        assert names == ["submission.sh"]


def test_only_unfinished_jobs_are_submitted_and_finished_parents_are_no_dependency(bin_dir, chain):
    numbered(bin_dir)
    run, plan = chain
    run.job("a").root.mkdir(parents=True)
    run.job("a").result.write_text("{}")
    assert [h.job for h in SlurmExecutor(PROFILE).submit(run, plan)] == ["b", "c"]
    assert "--dependency" not in (bin_dir / "script-1").read_text()
    assert "--dependency=afterok:101\n" in (bin_dir / "script-2").read_text()


def test_a_refusal_in_the_middle_takes_back_what_was_accepted(bin_dir, chain):
    numbered(bin_dir, "[ $n -lt 3 ] || { echo 'sbatch: error: Invalid qos specification' >&2; exit 1; }")
    run, plan = chain
    with pytest.raises(UserError, match="Slurm refused job 'c': Invalid qos") as caught:
        SlurmExecutor(PROFILE).submit(run, plan)
    assert caught.value.code == Exit.CLUSTER
    assert calls(bin_dir, "scancel") == ["101 102"]
    assert [e for e in events(run) if e[0] == "cancelled"] == [("cancelled", "a"), ("cancelled", "b")]


def test_when_the_earlier_jobs_cannot_be_cancelled_both_facts_are_told(bin_dir, chain):
    numbered(bin_dir, "[ $n -lt 2 ] || { echo 'sbatch: error: Invalid qos specification' >&2; exit 1; }")
    program(bin_dir, "scancel", "echo 'scancel: error: Unable to contact slurm controller' >&2; exit 8")
    run, plan = chain
    with pytest.raises(UserError) as caught:
        SlurmExecutor(PROFILE).submit(run, plan)
    assert "Invalid qos" in str(caught.value)
    assert "hint: scancel 101" in str(caught.value)
    assert caught.value.code == Exit.CLUSTER


def test_an_interrupted_submission_leaves_no_job_that_slurm_took_unheard(bin_dir, chain, monkeypatch):
    numbered(bin_dir)
    run, plan = chain
    row = squeue_row("777", "PENDING", comment=f"{run.id}/a")
    program(bin_dir, "squeue", f"echo '{row}'")
    executor = SlurmExecutor(PROFILE)

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(executor.client), "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(run, plan)
    assert calls(bin_dir, "scancel") == ["777"]
    assert events(run) == [("submitting", "a")]


def test_a_controller_that_is_down_is_told_before_anything_is_written(bin_dir, chain):
    program(bin_dir, "scontrol", "echo 'Slurmctld(primary) at x is DOWN'; exit 1")
    run, plan = chain
    with pytest.raises(UserError, match="Slurm cannot be reached"):
        SlurmExecutor(PROFILE).submit(run, plan)
    assert list(run.root.iterdir()) == []


def test_facts_come_from_squeue_then_from_accounting_and_reused_ids_are_not_ours(bin_dir):
    live = [squeue_row("1", "RUNNING", name="r/a"), squeue_row("2", "RUNNING", name="other/a")]
    program(bin_dir, "squeue", "cat << 'X'\n" + "\n".join(live) + "\nX")
    past = ["2|COMPLETED|0:0|x|n1|r/a", "4|FAILED|1:0|x|n1|other/a", "5|FAILED|9:0|x|n2|allocation"]
    program(bin_dir, "sacct", "cat << 'X'\n" + "\n".join(past) + "\nX")
    handles = [Handle("slurm", str(i), "a", "r/a") for i in (1, 2, 3, 4, 5)]
    found = SlurmExecutor(PROFILE).query(handles)
    assert [(f.state, f.source) for f in found] == [
        ("RUNNING", "squeue"), ("COMPLETED", "sacct"), (None, ""), (None, ""), ("FAILED", "sacct"),
    ]  # fmt: skip
    assert (found[2].reason, found[3].reason) == (None, "job 4 is now other/a")
    assert [len(calls(bin_dir, p)) for p in ("squeue", "sacct")] == [1, 1]


def test_without_accounting_a_forgotten_job_is_unknown_with_the_reason(bin_dir):
    program(bin_dir, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    (fact,) = SlurmExecutor(PROFILE).query([Handle("slurm", "9", "a", "r/a")])
    assert fact.state is None
    assert "Slurm accounting storage is disabled" in (fact.reason or "")


def test_a_pending_job_that_can_never_run_says_so_in_its_fact(bin_dir):
    row = squeue_row("9", "PENDING", name="r/a").rstrip().ljust(816) + "PartitionDown"
    program(bin_dir, "squeue", f"echo '{row}'")
    (fact,) = SlurmExecutor(PROFILE).query([Handle("slurm", "9", "a", "r/a")])
    assert fact.state == "PENDING"
    assert "waits in a partition that is down" in (fact.reason or "")
