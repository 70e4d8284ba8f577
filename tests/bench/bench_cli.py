"""CPU time of starting the CLI, against the bare imports of its libraries. Run it: `python
tests/bench/bench_cli.py`.

Whole processes, user + system time of the children, interleaved so that a busy machine weighs on all alike;
medians of the ratios formed inside each round. Budgets: `--help` 1.35, `status` on a few runs 1.5.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))
BASE = [sys.executable, "-c", "import typer, rich, pydantic, yaml"]
CLI = [sys.executable, "-m", "latentctl.cli.main"]
BUDGETS = {"--help": 1.35, "status": 1.5, "status --json": 1.5, "show @last": 1.5}


def cpu_seconds(command: list[str], cwd: Path) -> float:
    """User and system time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {k: v for k, v in os.environ.items() if not k.startswith("LATENTCTL_")} | {"PYTHONPATH": str(REPO)}
    subprocess.run(
        command, cwd=cwd, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def make_runs(folder: Path, count: int) -> None:
    """Finished runs of two jobs, written as a submission and two attempts would."""
    from latentctl.record import ledger
    from latentctl.record.atomic import write_json
    from latentctl.record.journal import Journal, now
    from latentctl.record.paths import RunPaths
    from latentctl.record.plan import JobPlan, Plan

    for i in range(count):
        run = RunPaths(folder / f"bench-{i:08x}")
        jobs = [
            JobPlan(name, [name], after, "train", 1, 1, 0, None, None, 3600, "python")
            for name, after in (("sft", []), ("score", ["sft"]))
        ]
        cluster = {"name": "local", "executor": "local", "interpreter": {}, "env": {}, "pass_env": []}
        run.root.mkdir(parents=True)
        Plan(run.id, "0" * 64, cluster, jobs).save(run.plan)
        journal = Journal(run.journal)
        for job in jobs:
            journal.append("planned", job=job.name)
            ledger.submitted(journal, job.name, None, executor="local", id="1:1:none:nowhere")
            attempt = run.job(job.name).attempt(1)
            write_json(attempt.info, {"host": "nowhere", "time": now()})
            journal.append("started", job=job.name, attempt=1)
            beat = {
                "stage": job.name,
                "step": 5,
                "total": 9,
                "time": now(),
                "attempt": 1,
                "metrics": {"loss": 0.1},
            }
            write_json(run.job(job.name).heartbeat, beat)
            journal.append("succeeded", job=job.name, attempt=1)
            write_json(attempt.end, {"exit": "succeeded", "time": now()})
            result = {"attempt": 1, "stages": {job.name: {"accuracy": 0.5}}}
            write_json(run.job(job.name).result, result)


def measure(rounds: int, runs: int) -> dict[str, float]:
    """Command -> median ratio to the bare imports; prints each."""
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder) / "runs", runs)
        where = Path(folder)
        for command in (
            BASE,
            *([*CLI, *c.split()] for c in BUDGETS),
        ):  # byte code is written once, unmeasured
            cpu_seconds(command, where)
        base: list[float] = []
        seconds: dict[str, list[float]] = {c: [] for c in BUDGETS}
        for _ in range(rounds):
            base.append(cpu_seconds(BASE, where))
            for command, found in seconds.items():
                found.append(cpu_seconds([*CLI, *command.split()], where))
    print(f"{'bare imports':<16} {1000 * statistics.median(base):6.0f} ms")
    ratios = {}
    for command, found in seconds.items():
        ratios[command] = statistics.median(s / b for s, b in zip(found, base, strict=True))
        verdict = "within" if ratios[command] <= BUDGETS[command] else "OVER"
        print(
            f"{command:<16} {1000 * statistics.median(found):6.0f} ms  ratio {ratios[command]:.2f}"
            f"  budget {BUDGETS[command]:.2f}  {verdict}"
        )
    return ratios


def main() -> int:
    """Exit code 1 where a budget is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    ratios = measure(args.rounds, args.runs)
    return int(any(ratio > BUDGETS[command] for command, ratio in ratios.items()))


if __name__ == "__main__":
    sys.exit(main())
