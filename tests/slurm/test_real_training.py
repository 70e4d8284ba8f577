"""Real daemons: DeepSpeed on 2 nodes × 2 tasks, a data-parallel evaluation, a requeue in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import REPO, TINY, Cli, losses, wait_until, worker_of

pytestmark = [pytest.mark.heavy]

WIDE = TINY.replace(
    "micro_batch: 8, save_every: 4}",
    "micro_batch: 4, save_every: 4, zero_stage: 2}\nresources: {nodes: 2, tasks: 2, time: 10m}",
)


def test_a_recipe_trains_and_evaluates_on_two_nodes_with_two_tasks_each(cli: Cli) -> None:
    done = cli("submit", cli.recipe(WIDE), "--cluster", "devbox", "--wait", timeout=280)
    assert "ACCURACY" in done.out
    run = cli.run_dir()
    (job,) = (run / "jobs").iterdir()
    assert sorted(p.name for p in (job / "attempts" / "1").glob("rank-*.out")) == [
        f"rank-{r:05d}.out" for r in range(4)
    ]
    rows = [json.loads(x) for x in (job / "stages/score/samples.jsonl").read_text().splitlines()]
    assert len({r["id"] for r in rows}) == len(rows) == 12
    result = json.loads((job / "result.json").read_text())["stages"]
    assert result["sft"]["world_size"] == 4
    assert result["score"]["n"] == 12
    nodes = json.loads((job / "attempts/1/attempt.json").read_text())["nodes"]
    assert "node" in nodes


def test_usr2_requeues_a_training_that_resumes_with_the_same_losses(cli: Cli) -> None:
    args = ("--cluster", "devbox", "--set", "train.steps=40", "--set", "train.save_every=10")
    cli("submit", cli.recipe(WIDE), "--name", "whole", "--wait", *args, timeout=280)
    cli("submit", "tiny.yaml", "--name", "broken", *args)
    metrics = "broken-*/jobs/*/metrics.jsonl"
    wait_until(
        lambda: any(len(p.read_text().splitlines()) > 5 for p in cli.runs.glob(metrics)), 120, every=0.02
    )
    run = next(cli.runs.glob("broken-*"))
    held = worker_of(run, 0)
    os.kill(held, signal.SIGSTOP)  # it takes seconds in all: it waits here for what is asked about it
    (entry,) = [r for r in cli("status", run.name, "--json").json["data"]["runs"]]
    slurm_id = json.loads(next(run.glob("jobs/*/attempts/1/attempt.json")).read_text())["id"]
    assert entry["state"] == "running"
    subprocess.run(["scancel", "--signal=USR2", str(slurm_id)], env=cli.env, check=True)
    os.kill(held, signal.SIGCONT)
    end = time.monotonic() + 200
    while cli("status", run.name, "--exit-code", code=None).code != 0:
        assert time.monotonic() < end, cli("show", run.name).out
        time.sleep(1)
    assert [one["exit"] for one in two_ends(run)] == ["requeued", "succeeded"]
    assert losses(cli, "broken-*") == losses(cli, "whole-*")


@pytest.mark.slow
def test_a_stopped_rank_is_named_and_the_next_attempt_has_the_same_losses(cli: Cli, tmp_path: Path) -> None:
    """One of four processes is stopped by a signal; the others wait for it in a collective, without end."""
    profile = (REPO / "cluster" / "devbox.yaml").read_text().replace("signal_lead: 20s", "hang_after: 25s")
    (tmp_path / "impatient.yaml").write_text(profile.replace("name: devbox", "name: impatient"))
    args = ("--set", "train.steps=40", "--set", "train.save_every=10")
    cli("submit", cli.recipe(WIDE), "--name", "whole", "--wait", "--cluster", "devbox", *args, timeout=280)
    cli("submit", "tiny.yaml", "--name", "stuck", "--cluster", str(tmp_path / "impatient.yaml"), *args)
    metrics = "stuck-*/jobs/*/metrics.jsonl"
    wait_until(
        lambda: any(len(p.read_text().splitlines()) > 12 for p in cli.runs.glob(metrics)), 120, every=0.02
    )
    run = next(cli.runs.glob("stuck-*"))
    os.kill(worker_of(run, 2), signal.SIGSTOP)
    wait_until(lambda: cli("status", run.name, "--exit-code", code=None).code == 0, 240, every=1)
    first, second = two_ends(run)
    assert (first["exit"], first["class"], first["rank"], second["exit"]) == (
        "retried",
        "hang",
        2,
        "succeeded",
    )
    assert "rank 2 is stuck in no answer: it was stopped by a signal, the others wait" in first["message"]
    waiting = [json.loads(p.read_text()) for p in sorted(run.glob("jobs/*/attempts/1/still-*.json"))]
    assert [w["waits"] for w in waiting] == [True, True, False, True]
    assert losses(cli, "stuck-*") == losses(cli, "whole-*")


def two_ends(run: Path) -> list[dict[str, Any]]:
    """How two attempts ended. The result of the last one is there a little before its end is written."""

    def found() -> list[Path]:
        return sorted(run.glob("jobs/*/attempts/*/end.json"))

    wait_until(lambda: len(found()) == 2, 30)
    return [json.loads(path.read_text()) for path in found()]
