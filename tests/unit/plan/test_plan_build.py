"""Stage graphs become jobs; what a cluster cannot give is refused before anything is made."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from latentctl.errors import UserError
from latentctl.plan.build import build_plan, dependencies, gpu_hours
from latentctl.record.plan import Plan
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.experiment import Experiment

HASH = "ab" * 32


def stage(name: str, method: str = "sft", start: str = "model", **more: Any) -> dict[str, Any]:
    return {"name": name, "method": method, "from": start, "model": "m", "dataset": "gsm8k", **more}


def experiment(*stages: dict[str, Any], jobs: str = "auto") -> Experiment:
    return Experiment.model_validate({"name": "x", "jobs": jobs, "stages": list(stages)})


def profile(**more: Any) -> ClusterProfile:
    return ClusterProfile.model_validate({"name": "c", "executor": "slurm", "gpus_per_node": 8, **more})


def plan(*stages: dict[str, Any], jobs: str = "auto", debug: bool = False, **more: Any) -> Plan:
    return build_plan(experiment(*stages, jobs=jobs), profile(**more), "x-abababab", HASH, debug=debug)


def shape(p: Plan) -> list[tuple[str, list[str], list[str]]]:
    return [(j.name, j.stages, j.after) for j in p.jobs]


def test_equal_needs_share_a_job_across_roles_when_the_interpreters_are_one() -> None:
    p = plan(stage("sft"), stage("score", "eval", "sft"))
    assert shape(p) == [("sft+score", ["sft", "score"], [])]
    assert p.jobs[0].role == "train"
    assert p.jobs[0].interpreter == sys.executable


def test_different_interpreters_split_the_job() -> None:
    p = plan(
        stage("sft"), stage("score", "eval", "sft"), interpreter={"train": "/t/python", "eval": "/e/python"}
    )
    assert shape(p) == [("sft", ["sft"], []), ("score", ["score"], ["sft"])]
    assert [(j.role, j.interpreter) for j in p.jobs] == [("train", "/t/python"), ("eval", "/e/python")]


def test_different_resources_split_the_job() -> None:
    p = plan(stage("sft", resources={"gpus": 8}), stage("score", "eval", "sft", resources={"gpus": 1}))
    assert shape(p) == [("sft", ["sft"], []), ("score", ["score"], ["sft"])]


def test_a_profile_default_equal_to_what_is_said_does_not_split() -> None:
    p = plan(stage("sft", resources={"time": "2h"}), stage("score", "eval", "sft"), time=7200)
    assert len(p.jobs) == 1


def test_per_stage_jobs_depend_by_reference_not_by_order() -> None:
    p = plan(
        stage("a"),
        stage("a-score", "eval", "a@best"),
        stage("b"),
        stage("b-score", "eval", "b"),
        jobs="per_stage",
    )
    assert shape(p) == [
        ("a", ["a"], []),
        ("a-score", ["a-score"], ["a"]),
        ("b", ["b"], []),
        ("b-score", ["b-score"], ["b"]),
    ]


def test_a_shared_job_waits_for_every_parent_once() -> None:
    big, small = {"gpus": 8}, {"gpus": 1}
    p = plan(
        stage("a", resources=big),
        stage("b", "sft", "a", resources=small),
        stage("c", "sft", "b", resources=small),
        stage("d", "eval", "a", resources=small),
    )
    assert shape(p) == [("a", ["a"], []), ("b+c+d", ["b", "c", "d"], ["a"])]


def test_every_parent_stands_before_its_child() -> None:
    p = plan(stage("a"), stage("b", "sft", "a"), stage("c", "eval", "b"), jobs="per_stage")
    for i, job in enumerate(p.jobs):
        assert set(job.after) <= {j.name for j in p.jobs[:i]}


def test_long_job_names_are_cut_and_stay_unique() -> None:
    names = [f"stage-number-{i}" for i in range(8)]
    p = plan(*(stage(n) for n in names))
    assert [j.name for j in p.jobs] == ["stage-number-0+7"]


def test_directories_and_other_runs_are_no_dependencies() -> None:
    e = experiment(stage("a", start="/models/a"), stage("b", start="run:x-12345678/a@best"))
    assert dependencies(e) == {"a": [], "b": []}


def test_defaults_come_from_the_profile() -> None:
    job = plan(stage("a"), time="3h", cpus=7, mem="64G").jobs[0]
    assert (job.time_s, job.cpus_per_task, job.mem_mb) == (10800, 7, 65536)


def test_processes_follow_gpus() -> None:
    job = plan(stage("a", resources={"nodes": 2, "gpus": 4})).jobs[0]
    assert (job.tasks_per_node, job.world_size) == (4, 8)


JOINED = {"eval": {"tensor_parallel": 2}, "resources": {"nodes": 2, "gpus": 8}}


def test_processes_that_join_gpus_are_fewer() -> None:
    job = plan(stage("a", "eval", **JOINED)).jobs[0]
    assert (job.tasks_per_node, job.gpus_per_node, job.gpus_per_task, job.world_size) == (4, 8, 2, 8)


def test_stages_of_another_layout_have_a_job_of_their_own() -> None:
    apart = {**JOINED, "eval": {"tensor_parallel": 4}}
    same = {"resources": JOINED["resources"]}
    p = plan(stage("t", **same), stage("a", "eval", "t", **same), stage("b", "eval", "t", **JOINED),
             stage("c", "eval", "t", **JOINED), stage("d", "eval", "t", **apart))  # fmt: skip
    assert shape(p) == [("t+a", ["t", "a"], []), ("b+c", ["b", "c"], ["t+a"]), ("d", ["d"], ["t+a"])]
    assert [j.gpus_per_task for j in p.jobs] == [1, 2, 4]


def test_debug_takes_the_gpus_of_one_copy() -> None:
    jobs = plan(stage("t", resources={"gpus": 8}), stage("a", "eval", "t", **JOINED), debug=True).jobs
    assert [(j.nodes, j.tasks_per_node, j.gpus_per_node) for j in jobs] == [(1, 1, 1), (1, 1, 2)]


def test_gpu_hours_count_every_gpu_for_the_whole_limit() -> None:
    p = plan(
        stage("a", resources={"nodes": 2, "gpus": 4, "time": "3h"}),
        stage("b", resources={"gpus": 1, "time": "30m"}),
    )
    assert gpu_hours(p) == 2 * 4 * 3 + 0.5


def test_debug_is_one_process_whatever_is_asked() -> None:
    job = plan(stage("a", resources={"nodes": 4, "gpus": 8}), debug=True).jobs[0]
    assert (job.nodes, job.tasks_per_node, job.gpus_per_node) == (1, 1, 1)


def test_relative_interpreters_become_absolute_and_plain_names_stay() -> None:
    p = plan(
        stage("a"), stage("s", "eval", "a"), interpreter={"train": "env/bin/python", "eval": "python3.11"}
    )
    assert [j.interpreter for j in p.jobs] == [os.path.abspath("env/bin/python"), "python3.11"]


@pytest.mark.parametrize(
    ("asked", "given", "key", "words"),
    [
        ({"gpus": 9}, {}, "gpus", "9 GPUs per node asked, a node has 8"),
        ({"nodes": 5}, {"max_nodes": 4}, "nodes", "at most 4"),
        ({"time": "13h"}, {"max_time": "12h"}, "time", "13h asked, at most 12h"),
        ({"gpus": 2, "tasks": 4}, {}, "tasks", "4 processes for 2 GPUs"),
        ({}, {"time": "13h", "max_time": "12h"}, "time", "13h asked"),
    ],
)
def test_what_a_cluster_cannot_give_is_refused(asked: dict, given: dict, key: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(stage("a", resources=asked), **given)
    (problem,) = caught.value.problems
    assert problem.key == f"stages.a.resources.{key}"
    assert words in problem.message
    assert problem.hint
    assert caught.value.code == 2


def test_the_local_executor_refuses_several_nodes() -> None:
    local = ClusterProfile.model_validate({"name": "local", "executor": "local"})
    with pytest.raises(UserError, match="2 nodes asked") as caught:
        build_plan(experiment(stage("a", resources={"nodes": 2})), local, "x-1", HASH)
    assert "--cluster" in (caught.value.problems[0].hint or "")


def test_all_refusals_come_at_once() -> None:
    with pytest.raises(UserError) as caught:
        plan(
            stage("a", resources={"gpus": 9}), stage("b", resources={"gpus": 9, "time": "2d"}), max_time="1d"
        )
    assert [p.key for p in caught.value.problems] == [
        "stages.a.resources.gpus",
        "stages.b.resources.gpus",
        "stages.b.resources.time",
    ]


def test_a_plan_survives_its_file(tmp_path) -> None:
    p = plan(stage("a"), stage("b", "eval", "a"), jobs="per_stage")
    p.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == p
