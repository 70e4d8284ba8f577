"""Two hundred small jobs on real daemons while everything that can go wrong does, for a quarter of an hour.

make test-soak                              # prints its seed, and a report
LATENTCTL_SOAK_SEED=7 LATENTCTL_SOAK_SECONDS=120 python -m pytest -m slow -s tests/soak
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from latentctl.launch import devbox as box
from tests.e2e.conftest import Cli, make_cli
from tests.soak.noop import digest_of
from tests.soak.trouble import Trouble

SEED = int(os.environ.get("LATENTCTL_SOAK_SEED", "0")) or random.randrange(1 << 30)
SECONDS = float(os.environ.get("LATENTCTL_SOAK_SECONDS", "900"))
CHAINS, POINTS = (int(n) for n in os.environ.get("LATENTCTL_SOAK_JOBS", "33,100").split(","))
LONGER = max(1, round(SECONDS / 60))
STEPS, POINT_STEPS = {"a": 16 * LONGER, "b": 10 * LONGER, "c": 8 * LONGER}, 20 * LONGER
"""A quarter of a second each: enough for the whole time."""
LIVE = ("planned", "submitted", "pending", "running")
PROFILE = """\
name: soak
executor: slurm
partition: debug
account: lab
cpus: 1
mem: 500M
time: 20m
signal_lead: 20s
max_requeues: 1000
faults: {retries: 100}
"""
STAGE = "{{name: {name}, method: noop, noop: {{steps: {steps}, seconds: 0.25, save_every: 4}}}}"


def recipe(plugin: Path, stages: list[tuple[str, int]]) -> str:
    lines = [f"  - {STAGE.format(name=name, steps=steps)}" for name, steps in stages]
    head = [
        "name: soak",
        f"plugins: [{plugin}]",
        "model: {init: {arch: gpt2, hidden: 32, layers: 1, heads: 2}, tokenizer: {kind: word}}",
        "dataset: {name: shell-game}",
        "jobs: per_stage",
        "stages:",
    ]
    return "\n".join([*head, *lines]) + "\n"


@pytest.fixture
def cli(tmp_path: Path, devbox: box.Status, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("SLURM_CONF", str(devbox.conf))
    for name, value in {"POLL": "0.1", "WATCH": "0.5", "SETTLE": "2"}.items():
        monkeypatch.setenv(f"LATENTCTL_{name}_S", value)
    made = make_cli(tmp_path)
    (tmp_path / "soak.yaml").write_text(PROFILE)
    return made


def states(cli: Cli) -> dict[str, dict[str, Any]]:
    done = cli("status", "--all", "--json", code=None, timeout=120)
    return {r["run"]: r for r in json.loads(done.out)["data"]["runs"]}


def wait_until_over(cli: Cli, seconds: float) -> dict[str, dict[str, Any]]:
    end = time.monotonic() + seconds
    while True:
        seen = states(cli)
        if not any(r["state"] in LIVE for r in seen.values()):
            return seen
        assert time.monotonic() < end, Counter(r["state"] for r in seen.values())
        time.sleep(3)


def submit_all(cli: Cli, trouble: Trouble, rng: random.Random) -> None:
    plugin = Path(__file__).with_name("noop.py")
    cluster = ("--cluster", "soak.yaml")
    cli.recipe(recipe(plugin, [("a", POINT_STEPS)]), "points.yaml")
    seeds = ",".join(map(str, range(POINTS)))
    cli("submit", "points.yaml", "--set", f"seeds=[{seeds}]", "--name", "points", *cluster)
    cli.recipe(recipe(plugin, list(STEPS.items())), "chain.yaml")
    for number in range(CHAINS):
        cli("submit", "chain.yaml", "--set", f"seed={number}", "--name", f"chain-{number}", *cluster)
        if rng.random() < 0.5:
            trouble.jobs_only()


def test_every_run_ends_in_the_state_that_its_ledger_explains(
    cli: Cli, devbox: box.Status, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    trouble = Trouble(devbox.folder, cli.runs, rng)
    begin = time.monotonic()
    with capsys.disabled():
        print(f"\nLATENTCTL_SOAK_SEED={SEED} LATENTCTL_SOAK_SECONDS={SECONDS:g}", flush=True)
    submit_all(cli, trouble, rng)
    submitted, looks = time.monotonic() - begin, 0
    while time.monotonic() - begin < SECONDS:
        trouble.once()
        time.sleep(rng.uniform(0, 2))
        if rng.random() < 0.1:
            looks += 1
            if not any(r["state"] in LIVE for r in states(cli).values()):
                break
    trouble.mend()
    seen = wait_until_over(cli, 600)
    ended = Counter(r["state"] for r in seen.values())
    explained(cli, seen, trouble)
    if again := [run for run, row in seen.items() if row["state"] != "succeeded"]:
        cli("retry", *again, timeout=600)
        seen = wait_until_over(cli, 600)
    attempts = sum(exact(cli, run, seen[run]["state"]) for run in seen)
    left = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout
    assert not left.strip()
    with capsys.disabled():
        print(
            f"{len(seen)} runs, {CHAINS * 3 + POINTS} jobs, submitted in {submitted:.0f} s; "
            f"{attempts} attempts; looked at {looks} times; all over after {time.monotonic() - begin:.0f} s\n"
            f"done to them: {dict(sorted(trouble.counts.items()))}\n"
            f"ended at first: {dict(ended)}; after a retry all succeeded, none of them twice"
        )


def exact(cli: Cli, name: str, state: str) -> int:
    """Every job of the run came to what it must, and none was ever done by two at once. Returns attempts."""
    run = cli.runs / name
    assert state == "succeeded", cli("show", name).out
    seed = json.loads((run / "spec.json").read_text())["experiment"]["seed"]
    attempts = 0
    for job in sorted((run / "jobs").iterdir()):
        attempts += len(list((job / "attempts").iterdir()))
        steps = STEPS[job.name] if name.startswith("chain") else POINT_STEPS
        result = json.loads((job / "result.json").read_text())["stages"][job.name]
        assert result["digest"] == digest_of(job.name, steps, seed), (name, job.name)
        assert not list(job.glob("stages/*/twice-*")), (name, job.name)
    return attempts


def explained(cli: Cli, seen: dict[str, dict[str, Any]], trouble: Trouble) -> None:
    """Whatever did not succeed was cancelled by somebody, or follows something that was."""
    for run, row in seen.items():
        if row["state"] == "succeeded":
            continue
        jobs = {j["job"]: j for j in row["jobs"]}
        hit = [j for j in jobs.values() if j["scheduler_id"] in trouble.cancelled]
        assert row["state"] == "cancelled", cli("show", run).out
        assert hit, (run, row, sorted(trouble.cancelled))
        for job in jobs.values():
            assert job["state"] in ("succeeded", "cancelled", "skipped"), cli("show", run).out
