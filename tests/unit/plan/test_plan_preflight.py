"""A plan against the limits of a cluster: one table row for each limit."""

from __future__ import annotations

from typing import Any

import pytest

from latentctl.plan.facts import ClusterFacts, Partition
from latentctl.plan.preflight import Finding, judge
from latentctl.record.plan import JobPlan, Plan
from latentctl.spec.cluster import ClusterProfile

GPU = Partition(
    "gpu", True, True, max_time_s=3600, max_nodes=4, nodes=8, cpus_per_node=32, mem_mb_per_node=64_000,
    gpus=(("a100", 4), ("h100", 2)),
)  # fmt: skip
FACTS = ClusterFacts("lab", "23.11", (GPU,), accounts=("phys", "lab"), qos=("normal",))
ASKED = {
    "nodes": 1,
    "tasks_per_node": 1,
    "gpus_per_node": 0,
    "cpus_per_task": 1,
    "mem_mb": 1000,
    "time_s": 60,
}


def judged(profile: dict[str, Any] | None = None, facts: ClusterFacts = FACTS, **asked: Any) -> list[Finding]:
    given = {**ASKED, **asked}
    job = JobPlan(name="sft", stages=["sft"], after=[], role="train", interpreter="python", **given)
    of = ClusterProfile.model_validate(
        {"name": "lab", "executor": "slurm", "partition": "gpu", **(profile or {})}
    )
    return list(judge(Plan("tiny", "", {}, [job]), facts, of))


def test_what_fits_is_said_with_what_it_asks() -> None:
    (found,) = judged(nodes=2, gpus_per_node=4, time_s=1800)
    assert (found.level, found.where) == ("ok", "job sft")
    assert found.message == "fits gpu: 2 nodes, 4 GPUs each, 30 min"


@pytest.mark.parametrize(
    ("asked", "words", "key"),
    [
        ({"time_s": 7200}, "asks for 2 h 00; gpu allows 1 h 00", "time"),
        ({"nodes": 5}, "asks for 5 nodes; gpu gives at most 4", "nodes"),
        ({"gpus_per_node": 5}, "asks for 5 GPUs per node; the largest node has 4", "gpus"),
        (
            {"tasks_per_node": 5, "cpus_per_task": 8},
            "asks for 40 CPUs per node; the largest node has 32",
            "cpus",
        ),
        ({"mem_mb": 70_000}, "asks for 70000 MB per node; the largest node has 64000 MB", "mem"),
    ],
)
def test_each_limit(asked: dict[str, Any], words: str, key: str) -> None:
    (found,) = judged(**asked)
    assert (found.level, found.message, found.hint) == ("error", words, f"resources.{key}")


def test_gpus_of_the_type_that_is_asked() -> None:
    (found,) = judged({"gpu_type": "h100"}, gpus_per_node=4)
    assert found.message == "asks for 4 h100 GPUs per node; the largest node has 2"


@pytest.mark.parametrize(
    ("profile", "words", "hint"),
    [
        ({"account": "nobody"}, "'nobody' is no account of yours", "yours: phys, lab"),
        ({"qos": "fast"}, "'fast' is no qos of yours", "yours: normal"),
    ],
)
def test_account_and_qos(profile: dict[str, Any], words: str, hint: str) -> None:
    found, fits = judged(profile)
    assert (found.level, found.message, found.hint) == ("error", words, hint)
    assert fits.level == "ok"


def test_accounting_that_did_not_answer_is_no_error() -> None:
    silent = ClusterFacts("lab", "23.11", (GPU,), accounts=None, qos=None)
    (found,) = judged({"account": "nobody", "qos": "fast"}, silent)
    assert found.level == "ok"


def test_a_partition_without_limits() -> None:
    open_ = ClusterFacts("lab", "23.11", (Partition("gpu", True, True, nodes=1),))
    (found,) = judged(facts=open_, time_s=10**6)
    assert found.level == "ok"
