"""`status` beside 10,000 jobs in 200 runs: CPU time over the bare imports of its libraries, and peak memory.

    python tests/bench/bench_status.py [--rounds 5] [--runs 200] [--jobs 50]

Target: 3.0 for `status --all`, finished runs being remembered; `first` is the time without that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))
sys.path.insert(0, str(Path(__file__).parent))

from bench_cli import BASE, CLI  # noqa: E402

TARGET = 3.0
COMMANDS = ("status", "status --all", "status --all --json")


def measured(command: list[str], cwd: Path) -> tuple[float, int]:
    """CPU seconds and peak resident KiB of one process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LATENTCTL_")} | {"PYTHONPATH": str(REPO)}
    with open(os.devnull, "w") as null:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=null, stderr=null)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command}: exit {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss


def make_runs(folder: Path, runs: int, jobs: int) -> None:
    """Finished runs, each a chain of jobs, as a submission and one attempt of each would leave them."""
    from latentctl.record import ledger
    from latentctl.record.atomic import together, write_json
    from latentctl.record.journal import Journal, now
    from latentctl.record.paths import RunPaths
    from latentctl.record.plan import JobPlan, Plan

    cluster = {"name": "local", "executor": "local", "interpreter": {}, "env": {}, "pass_env": []}
    folder.mkdir(parents=True)
    with together(folder):
        for i in range(runs):
            run = RunPaths(folder / f"bench-{i:08x}")
            names = [f"stage-{j}" for j in range(jobs)]
            plans = [
                JobPlan(n, [n], names[j - 1 : j], "train", 1, 1, 0, None, None, 3600, "python")
                for j, n in enumerate(names)
            ]
            run.root.mkdir()
            Plan(run.id, "0" * 64, cluster, plans).save(run.plan)
            journal = Journal(run.journal)
            for name in names:
                ledger.submitted(journal, name, None, executor="local", id="1:1:none:nowhere")
                attempt = run.job(name).attempt(1)
                write_json(attempt.info, {"host": "nowhere", "time": now()})
                journal.append("started", job=name, attempt=1)
                beat = {
                    "stage": name,
                    "step": 9,
                    "total": 9,
                    "time": now(),
                    "attempt": 1,
                    "metrics": {"loss": 0.1},
                }
                write_json(run.job(name).heartbeat, beat)
                journal.append("succeeded", job=name, attempt=1)
                write_json(attempt.end, {"exit": "succeeded", "time": now()})
                write_json(run.job(name).result, {"attempt": 1, "stages": {name: {"accuracy": 0.5}}})
            os.utime(run.journal, (time.time() - 3600,) * 2)  # ended an hour ago


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        make_runs(where / "runs", options.runs, options.jobs)
        cold = {}
        for command in COMMANDS:
            (where / "runs" / ".settled").unlink(missing_ok=True)
            cold[command] = measured([*CLI, *command.split()], where)
        ratios: dict[str, list[float]] = {c: [] for c in COMMANDS}
        peak: dict[str, int] = {}
        for _ in range(options.rounds):
            base, _ = measured(BASE, where)
            for command, found in ratios.items():
                seconds, peak[command] = measured([*CLI, *command.split()], where)
                found.append(seconds / base)
    for command, found in ratios.items():
        spread = f"({min(found):.2f}-{max(found):.2f})"
        print(
            f"{command:<20} {statistics.median(found):6.2f} {spread} of bare imports  "
            f"peak {peak[command] / 1024:3.0f} MiB  "
            f"first {cold[command][0]:5.2f} s, {cold[command][1] / 1024:3.0f} MiB"
        )
    median = statistics.median(ratios["status --all"])
    count = f"{options.runs * options.jobs:,} jobs in {options.runs} runs"
    print(f"{count}; status --all {median:.2f}, target {TARGET}")
    return int(median > TARGET)


if __name__ == "__main__":
    sys.exit(main())
