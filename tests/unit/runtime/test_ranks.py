"""Several processes: they stop together, the first error is told from its echoes, nothing is compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs_for_tests import stage, wait_for

from jobs.methods.protocol import World
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import read_json
from latentctl.record.paths import COMMITTED

pytestmark = pytest.mark.heavy


def test_a_signal_to_one_rank_stops_all_at_the_same_step_and_they_go_on_together(bench):
    b = bench([stage(steps=6, signal_rank=1)], size=2)
    first = b.work()
    assert [r.code for r in first] == [85, 85]
    assert all("at step 2" in r.err for r in first)
    checkpoint = b.job().stage("count").checkpoint(2)
    assert sorted(read_json(checkpoint / COMMITTED)["files"]) == [
        "model/config.json",
        "rank-0.json",
        "rank-1.json",
    ]
    assert [r.code for r in b.work()] == [0, 0]
    assert read_json(b.job().stage("count").result)["began"] == 2
    assert [row["step"] for row in b.metrics()] == [1, 2, 3, 4, 5, 6]


def test_the_first_error_is_told_from_its_echo(bench):
    """Rank 1 fails; rank 0 only sees its connection break. Both leave at once, without a time-out."""
    b = bench([stage(steps=50, pause=0.05, fail_at=5, fail_rank=1, collective=True)], size=2)
    begin = time.monotonic()
    done = b.work()
    assert [r.code for r in done] == [1, 1]
    assert time.monotonic() - begin < 60
    echo, first = b.failure(0), b.failure(1)
    assert (first["class"], first["primary"], first["message"]) == ("code", True, "ValueError: boom")
    assert (echo["class"], echo["primary"]) == ("nccl", False), echo
    assert not b.job().result.exists()


def test_a_killed_rank_does_not_hold_the_other(bench):
    b = bench([stage(steps=500, pause=0.02, collective=True)], size=2)
    ranks = b.spawn()
    wait_for(lambda: b.job().metrics.exists() and len(b.metrics()) > 2, timeout=60)
    ranks[1].kill()
    done = b.wait(ranks)
    assert [r.code for r in done] == [1, -9]
    assert (b.failure(0)["class"], b.failure(0)["primary"]) == ("nccl", False)


@pytest.mark.parametrize(
    ("visible", "gpus", "local_rank", "device"),
    [
        (0, 1, 0, "cpu"), (0, 1, 3, "cpu"), (4, 1, 0, "cuda:0"), (4, 1, 3, "cuda:3"), (1, 1, 0, "cuda:0"),
        (1, 1, 3, "cuda:0"), (2, 2, 3, "cuda:0"), (8, 2, 0, "cuda:0"), (8, 2, 3, "cuda:6"),
    ],
)  # fmt: skip
def test_each_process_has_its_own_device(monkeypatch, visible, gpus, local_rank, device):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert str(distributed.device(World(local_rank, 4, local_rank, 4, gpus))) == device


def test_more_processes_than_gpus_is_a_mistake_in_words(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(JobUserError, match="process 2 of this node finds 2 GPUs"):
        distributed.device(World(2, 4, 2, 4))


NO_COMPILER = """
import sys, torch
from jobs.methods.protocol import World
from jobs.runtime import distributed

torch.manual_seed(0)
world = World(0, 1, 0, 1)
distributed.init(world, deepspeed=True)
deepspeed = distributed.import_deepspeed()
engine, *_ = deepspeed.initialize(
    model=torch.nn.Linear(4, 1),
    config={
        "train_batch_size": 2,
        "zero_optimization": {"stage": int(sys.argv[1])},
        "optimizer": {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}},
    },
)
x, before = torch.ones(2, 4), None
for _ in range(3):
    loss = engine(x).square().mean()
    engine.backward(loss)
    engine.step()
    assert before is None or loss.item() < before
    before = loss.item()
assert distributed.all_max(3) == 3 and isinstance(distributed.all_max(3), int)
assert distributed.broadcast({"a": 1}) == {"a": 1}
distributed.barrier()
distributed.init(world, deepspeed=True)
distributed.shutdown()
print("trained")
"""


def test_deepspeed_trains_where_there_is_no_compiler_and_builds_nothing(tmp_path: Path):
    builds, empty = tmp_path / "extensions", tmp_path / "bin"
    builds.mkdir()
    empty.mkdir()
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("DS_ACCELERATOR", "CC", "CXX", "CUDA_HOME", "MASTER_ADDR")
    }
    env |= {"PATH": str(empty), "TORCH_EXTENSIONS_DIR": str(builds), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NO_COMPILER, "1"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained"
    assert list(builds.iterdir()) == []
    assert not (tmp_path / ".cache" / "torch_extensions").exists()
