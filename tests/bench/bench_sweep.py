"""CPU time and calls of Slurm's programs for a sweep of many points, and for the commands that look at it.

Slurm's programs are scripts that answer at once, so that what is measured is ours. Target: 1,000 points of a
recipe with two jobs in under 3 s of CPU and two calls of sbatch.

    python tests/bench/bench_sweep.py [--points 1000] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "latentctl.cli.main"]
TARGET_S, POINTS = 3.0, 1000
RECIPE = """\
name: bench
model: {init: {arch: gpt2, hidden: 32, layers: 1, heads: 2, max_len: 128}, tokenizer: {kind: word}}
dataset: {name: shell-game, limit: 256}
prompt: {template: plain, form: coconut}
train: {lr: 1e-3, steps: 8, batch: 16}
sampling: {max_new_tokens: 40}
jobs: per_stage
stages:
  - {name: sft, method: sft}
  - {name: score, method: eval}
"""
PROFILE = "name: fake\nexecutor: slurm\ntime: 1h\n"
PROGRAMS = {
    "sbatch": 'n=$(wc -l < "$LATENTCTL_CALLS"); echo $((1000 + n))',
    "squeue": "true",
    "sacct": "true",
    "scancel": "true",
    "scontrol": 'case "$*" in *ping*) echo "is UP" ;; *config*) echo "MaxArraySize = 1001" ;; esac',
    "sinfo": "true",
    "sacctmgr": "true",
}


def programs(folder: Path) -> None:
    """Each notes its name and answers."""
    for name, body in PROGRAMS.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\necho {name} >> "$LATENTCTL_CALLS"\n{body}\n')
        path.chmod(0o755)


def run(work: Path, *args: str) -> tuple[float, float, Counter[str]]:
    """CPU seconds, wall seconds, and how often each of Slurm's programs was called."""
    calls = work / "calls"
    calls.write_text("")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LATENTCTL_", "SLURM_"))}
    env |= {"PYTHONPATH": str(REPO), "LATENTCTL_CALLS": str(calls), "PATH": f"{work / 'bin'}:{env['PATH']}"}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*CLI, *args], cwd=work, env=env, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{args}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, time.monotonic() - begin, Counter(calls.read_text().split())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # else the disk's own time is in it
    work = Path(tempfile.mkdtemp(prefix="bench-sweep-", dir=memory))
    (work / "bin").mkdir()
    programs(work / "bin")
    (work / "recipe.yaml").write_text(RECIPE)
    (work / "fake.yaml").write_text(PROFILE)
    values = ",".join(f"{1e-5 + i * 1e-8:.10f}" for i in range(options.points))
    submit = ("sweep", "recipe.yaml", "--cluster", "fake.yaml", "--grid", f"train.lr={values}")
    seconds: list[float] = []
    rows: dict[str, object] = {}
    try:
        for number in range(options.rounds):
            shutil.rmtree(work / "runs", ignore_errors=True)
            cpu, wall, calls = run(work, *submit)
            seconds.append(cpu)
            print(f"sweep of {options.points} points, round {number + 1}: {cpu:.2f} s CPU, {wall:.1f} s wall")
        (sweep,) = (p.parent.name for p in (work / "runs" / "sweeps").glob("*/sweep.json"))
        rows["sweep"] = {"cpu_s": statistics.median(seconds), "calls": dict(calls)}
        for command in ("status", "cancel"):
            cpu, wall, counted = run(work, command, sweep)
            rows[command] = {"cpu_s": cpu, "calls": dict(counted)}
            print(f"{command} of the sweep: {cpu:.2f} s CPU, {wall:.1f} s wall")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for command, row in rows.items():
        print(f"{command:8} {row['cpu_s']:6.2f} s CPU   calls: {row['calls']}")
    median = statistics.median(seconds)
    spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
    print(f"median {median:.2f} s ({spread}), target {TARGET_S} s for {POINTS} points")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(median > TARGET_S)


if __name__ == "__main__":
    sys.exit(main())
