"""What Slurm refuses becomes one error with exit code 4, and nothing stays behind."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from conftest import JOB, profile

from latentctl.errors import Exit, UserError
from latentctl.launch import checks
from latentctl.record.journal import read


@pytest.mark.parametrize(
    ("changes", "job", "key", "said", "hint"),
    [
        (
            {"partition": "nosuch"},
            {},
            "partition",
            "Invalid partition name",
            "debug, gpu, high, scav, scavc, adm",
        ),
        ({"account": "nosuch"}, {}, "account", "Invalid account", "your accounts: lab"),
        ({"qos": "nosuch"}, {}, "qos", "Invalid qos", "your qos: limited, normal"),
        ({}, {"gpus_per_node": 9}, "resources", "Requested node configuration", "h100:4 or v100:2"),
        ({"gpu_type": "b300"}, {"gpus_per_node": 1}, "resources", "Requested node configuration", "h100:4"),
        ({}, {"mem_mb": 999_999}, "mem", "Memory specification", "16000 MiB"),
        ({"constraint": "nosuch"}, {}, "constraint", "Invalid feature", "nothing was left in the queue"),
        ({"qos": "limited"}, {"cpus_per_task": 8}, "qos", "QOSMaxCpuPerUserLimit", "limited, normal"),
        (
            {"sbatch": {"reservation": "x"}},
            {},
            "sbatch.reservation",
            "reservation is invalid",
            "nothing was left",
        ),
        ({"sbatch": {"nosuch-flag": 1}}, {}, "sbatch", "unrecognized option", "nothing was left"),
    ],
)
def test_one_error_names_the_field_and_what_is_allowed(make_run, queue, changes, job, key, said, hint):
    run = make_run({"train": {"do": "meet"}}, on=profile(**changes), **job)
    with pytest.raises(UserError) as caught:
        run.submit()
    (problem,) = caught.value.problems
    assert (caught.value.code, caught.value.kind) == (Exit.CLUSTER, "cluster")
    assert (problem.key, problem.where) == (key, "cluster profile devbox")
    assert said in problem.message
    assert hint in (problem.hint or "")
    assert "Traceback" not in str(caught.value)
    assert "\n" not in problem.message
    assert queue(run) == []
    assert run.state() == "planned"


def test_a_refused_second_job_takes_the_first_one_back(make_run, queue):
    jobs = [JOB, replace(JOB, name="eval", after=["train"], gpus_per_node=9)]
    run = make_run({"train": {"do": "hang"}, "eval": {"do": "meet"}}, jobs=jobs)
    with pytest.raises(UserError) as caught:
        run.submit()
    assert "'eval'" in str(caught.value)
    run.wait(lambda: queue(run) == [], what="the empty queue")
    assert (run.state("train"), run.state("eval")) == ("cancelled", "planned")
    (submitted,) = [e for e in read(run.paths.journal) if e["event"] == "submitted"]
    assert submitted["job"] == "train"


def test_flags_that_latentctl_sets_are_refused_before_anything_is_submitted(make_run, queue):
    run = make_run({"train": {"do": "meet"}}, on=profile(sbatch={"job_name": "mine"}))
    with pytest.raises(UserError, match="set by latentctl") as caught:
        run.submit()
    assert caught.value.code == Exit.USAGE
    assert queue(run) == []
    assert list(read(run.paths.journal)) == []


def test_slurm_down_is_code_4_at_once(make_run, devbox, monkeypatch, tmp_path):
    """A controller that is not there: the same programs, pointed at a port where nobody listens."""
    conf = tmp_path / "slurm.conf"
    text = devbox.conf.read_text()
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort="))
    conf.write_text(text.replace(port, "SlurmctldPort=1"))
    (tmp_path / "gres.conf").write_text((devbox.conf.parent / "gres.conf").read_text())
    down = profile(env={"SLURM_CONF": str(conf)})
    run = make_run({"train": {"do": "meet"}}, on=down)
    began = time.monotonic()
    with pytest.raises(UserError, match="Slurm cannot be reached") as caught:
        run.submit()
    assert time.monotonic() - began < 5
    assert caught.value.code == Exit.CLUSTER
    assert not run.paths.journal.exists()
    (check, *_) = checks.profile(down)
    assert (check.name, check.ok, check.cluster) == ("controller", False, True)


def test_a_configuration_that_is_not_there_is_said_at_once(make_run):
    run = make_run({"train": {"do": "meet"}}, on=profile(env={"SLURM_CONF": "/nonexistent/slurm.conf"}))
    began = time.monotonic()
    with pytest.raises(UserError, match="no Slurm configuration") as caught:
        run.submit()
    assert time.monotonic() - began < 2
    assert caught.value.code == Exit.CLUSTER


def test_the_shipped_devbox_profile_passes_its_test(devbox):
    from latentctl.spec.load import load_profile

    found = list(checks.profile(load_profile("devbox")))
    assert [c for c in found if c.ok is not True] == []
    assert [c.name for c in found][:4] == ["controller", "partition", "submission", "accounting"]


@pytest.mark.parametrize(
    ("changes", "name", "code_4"),
    [
        ({"partition": "nosuch"}, "partition", False),
        ({"partition": "down"}, "partition", False),
        ({"account": "nosuch"}, "submission", True),
        ({"partition": "adm"}, "submission", True),
        ({"time": "3h"}, "time", False),
        ({"gpus_per_node": 5}, "gpus", False),
        ({"interpreter": {"train": "/nonexistent/python"}}, "python train", False),
        ({"data_dir": "/nonexistent"}, "data_dir", False),
    ],
)
def test_a_wrong_profile_is_told_by_its_check(devbox, changes, name, code_4):
    wrong = {c.name: c for c in checks.profile(profile(**changes)) if c.ok is False}
    assert name in wrong
    assert any(c.cluster for c in wrong.values()) >= code_4
