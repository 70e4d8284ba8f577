"""Real daemons: DeepSpeed on 2 nodes × 2 tasks, a data-parallel evaluation, a requeue in between."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Cli, losses, make_cli, wait_until

pytestmark = [pytest.mark.heavy]

WIDE = TINY.replace(
    "micro_batch: 8, save_every: 4}",
    "micro_batch: 4, save_every: 4, zero_stage: 2}\nresources: {nodes: 2, tasks: 2, time: 10m}",
)


@pytest.fixture
def cli(tmp_path: Path, devbox) -> Cli:
    made = make_cli(tmp_path)
    made.env["SLURM_CONF"] = str(devbox.conf)
    return made


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
    (entry,) = [r for r in cli("status", run.name, "--json").json["data"]["runs"]]
    slurm_id = json.loads(next(run.glob("jobs/*/attempts/1/attempt.json")).read_text())["id"]
    assert entry["state"] == "running"
    subprocess.run(["scancel", "--signal=USR2", str(slurm_id)], env=cli.env, check=True)
    end = time.monotonic() + 200
    while cli("status", run.name, "--exit-code", code=None).code != 0:
        assert time.monotonic() < end, cli("show", run.name).out
        time.sleep(1)
    ends = [json.loads(p.read_text())["exit"] for p in sorted(run.glob("jobs/*/attempts/*/end.json"))]
    assert ends == ["requeued", "succeeded"]
    assert losses(cli, "broken-*") == losses(cli, "whole-*")
