"""Refusals and reasons name the field they are about and what is allowed."""

from __future__ import annotations

import pytest

from latentctl.errors import Exit
from latentctl.launch import slurm_words
from latentctl.launch.protocol import Handle
from latentctl.plan.facts import ClusterFacts, Partition
from latentctl.record.plan import JobPlan
from latentctl.spec.cluster import ClusterProfile

JOB = JobPlan("train", ["sft"], [], "train", 2, 4, 8, 12, 64000, 7230, "/usr/bin/python3")
PROFILE = ClusterProfile(
    name="big", executor="slurm", partition="gpu", account="lab", qos="high", gpu_type="h100"
)
FACTS = ClusterFacts(
    "big", "24.11",
    (
        Partition("gpu", True, True, 3600, 4, 10, ("lab", "other"), 64, 500_000, (("h100", 4), ("", 2))),
        Partition("old", False),
    ),
    accounts=("lab", "mine"), qos=("high", "normal"),
)  # fmt: skip
P = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("said", "field", "asked", "hint"),
    [
        (f"{P}Invalid partition name specified", "partition", "partition: gpu", "partitions: gpu"),
        (f"{P}Invalid account or account/partition combination specified", "account", "account: lab",
         "your accounts: lab, mine; partition gpu takes lab, other"),
        (f"{P}Invalid qos specification", "qos", "qos: high", "your qos: high, normal"),
        (f"error: QOSMaxWallDurationPerJobLimit\n{P}Job violates accounting/QOS policy (job submit limit)",
         "qos", "qos: high", "your qos"),
        (f"{P}Requested time limit is invalid (missing or exceeds some limit)", "time", "time: 121 min",
         "up to 60 min, 4 nodes a job"),
        (f"{P}Requested node configuration is not available", "resources",
         "2 nodes, per node 4 tasks, h100:8 GPUs, 64000 MiB", "GPUs h100:4 or 2"),
        (f"Memory specification can not be satisfied\n{P}Requested node configuration is not available",
         "mem", "64000 MiB", "500000 MiB"),
        (f"{P}More processors requested than permitted", "cpus", "4 tasks × 12 CPUs", "64 CPUs"),
        (f"{P}Node count specification invalid", "nodes", "nodes: 2", "10 nodes"),
        ("error: Invalid generic resource (gres) specification", "gpus", "gpus: h100:8", "GPUs h100:4"),
        (f"{P}Invalid feature specification", "constraint", "constraint: None", "nothing was left"),
        (f"{P}Invalid wckey specification", "sbatch.wckey", "", "nothing was left"),
        ("sbatch: unrecognized option '--nosuch'", "sbatch", "", "nothing was left"),
        ("something new in Slurm 30", None, "something new in Slurm 30", "nothing was left"),
        ("", None, "without a word", "nothing was left"),
    ],
)  # fmt: skip
def test_a_refusal_names_field_and_limits(said, field, asked, hint):
    error = slurm_words.refusal(said, job=JOB, profile=PROFILE, facts=FACTS)
    (problem,) = error.problems
    assert (error.code, error.kind, problem.key) == (Exit.CLUSTER, "cluster", field)
    assert asked in problem.message
    assert hint in (problem.hint or "")
    assert "\n" not in problem.message


def test_without_the_live_cluster_the_refusal_still_stands():
    error = slurm_words.refusal(f"{P}Invalid qos specification", job=JOB, profile=PROFILE, facts=None)
    assert error.problems[0].hint == "nothing was left in the queue"


@pytest.mark.parametrize(
    "reason", [None, "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit", "Licenses"]
)
def test_reasons_that_pass_are_no_findings(reason):
    assert slurm_words.never_runs(reason, Handle("slurm", "7", "train")) is None


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        ("PartitionTimeLimit", "time"),
        ("PartitionDown", "partition"),
        ("DependencyNeverSatisfied", "after"),
        ("ReqNodeNotAvail, UnavailableNodes:node1", "resources"),
        ("Job's account not permitted to use this partition (adm allows admin not lab)", "account"),
    ],
)
def test_reasons_that_never_pass_are_named(reason, key):
    found = slurm_words.never_runs(reason, Handle("slurm", "7", "train"), allowed="partition p has 1 node")
    assert found is not None
    assert found.key == key
    assert reason in found.message
    assert (found.hint or "").startswith("partition p has 1 node; ")
    assert "scancel 7" in (found.hint or "")
