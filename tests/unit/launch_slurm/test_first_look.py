"""Which partition is taken, and that the profile that follows is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentctl.launch.first_look import choose, look
from latentctl.plan.facts import ClusterFacts, Partition
from latentctl.spec.profiles import load_profile

CPU = Partition(
    "cpu", up=True, default=True, max_time_s=86400, nodes=40, cpus_per_node=64, mem_mb_per_node=256000
)
GPU = Partition(
    "gpu", up=True, max_time_s=2 * 86400, max_nodes=8, nodes=20, cpus_per_node=96, mem_mb_per_node=1_000_000,
    gpus=(("a100", 8), ("v100", 4)),
)  # fmt: skip
FEW = Partition("few", up=True, nodes=1, cpus_per_node=32, mem_mb_per_node=64000, gpus=(("", 2),))
THEIRS = Partition("theirs", up=True, nodes=99, accounts=("other",), gpus=(("h100", 8),))
DOWN = Partition("down", up=False, nodes=99, gpus=(("h100", 8),))


def facts(*partitions: Partition, accounts: tuple[str, ...] | None = ("lab", "side")) -> ClusterFacts:
    return ClusterFacts("Big Iron", "24.11.1", partitions, accounts, ("normal",))


@pytest.mark.parametrize(
    ("partitions", "wanted", "taken"),
    [
        ((CPU, FEW, GPU), None, "gpu"),  # the default has no GPUs
        ((CPU, FEW, GPU), "few", "few"),
        ((CPU, FEW, GPU), "nosuch", None),
        ((CPU, THEIRS, DOWN), None, "cpu"),  # not mine, and not up
        ((THEIRS, DOWN), None, None),
        ((), None, None),
    ],
)
def test_the_partition_with_most_gpus_that_one_may_use(partitions, wanted, taken) -> None:
    found = choose(facts(*partitions), wanted)
    assert (found and found.name) == taken


def test_a_default_partition_with_gpus_is_taken_though_another_has_more() -> None:
    first = Partition("first", up=True, default=True, nodes=1, gpus=(("t4", 1),))
    found = choose(facts(first, GPU))
    assert found is first


def test_without_accounting_every_open_partition_counts() -> None:
    assert choose(facts(CPU, GPU, accounts=None)) is GPU


@pytest.mark.parametrize("partition", [CPU, GPU, FEW])
@pytest.mark.parametrize("accounts", [("lab", "side"), (), None])
def test_the_profile_is_valid_and_says_what_was_found(partition: Partition, accounts, tmp_path: Path) -> None:
    found = look(facts(CPU, GPU, FEW, accounts=accounts), partition)
    assert found.name == "big-iron"
    path = tmp_path / f"{found.name}.yaml"
    path.write_text(found.text)
    profile = load_profile(str(path))
    assert (profile.name, profile.executor, profile.partition) == ("big-iron", "slurm", partition.name)
    assert profile.account == (accounts[0] if accounts else None)
    assert profile.gpus_per_node == partition.gpus_per_node
    assert profile.max_time == partition.max_time_s
    assert profile.time <= (partition.max_time_s or profile.time)
    assert all(len(line) <= 110 for line in found.text.splitlines())


def test_what_else_there_is_stands_beside() -> None:
    text = look(facts(CPU, GPU), GPU).text
    assert "gpu_type: a100            # types: a100:8, v100:4\n" in text
    assert "cpus: 12                  # per process; a node has 96\n" in text
    assert "account: lab              # accounts: lab, side\n" in text
    assert "partition: gpu            # partitions: cpu, gpu\n" in text
    assert "max_nodes: 8\n" in text


def test_a_named_account_and_name_win() -> None:
    found = look(facts(GPU), GPU, name="My Cluster!", account="side")
    assert (found.name, found.account) == ("my-cluster", "side")


def test_null_lets_a_job_stand_still_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "patient.yaml"
    path.write_text("executor: slurm\nhang_after: null\n")
    assert load_profile(str(path)).hang_after is None
