"""A plan in words: what `submit --dry-run` shows."""

from __future__ import annotations

from collections.abc import Mapping

from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.report.text import duration


def stage_graph(sources: Mapping[str, str], plan: Plan) -> str:
    """One line per stage: where it starts, and the job that runs it. `sources`: stage -> its `from`."""
    width, wide = max(map(len, sources)), max(map(len, sources.values()))
    lines = ["stages:"]
    for stage, source in sources.items():
        lines.append(f"  {stage:<{width}}  from {source:<{wide}}  in job {plan.job_of(stage).name}")
    return "\n".join(lines)


def resources(job: JobPlan) -> str:
    """`1 node × 2 processes, 2 GPUs per node, 4 CPUs per process, 16 GiB per node, at most 12h00m`."""
    joined = f" ({job.gpus_per_task} per process)" if job.gpus_per_task > 1 else ""
    parts = [
        f"{_count(job.nodes, 'node')} × {_count(job.tasks_per_node, 'process')}",
        f"{_count(job.gpus_per_node, 'GPU')} per node{joined}" if job.gpus_per_node else "no GPU",
        f"{_count(job.cpus_per_task, 'CPU')} per process" if job.cpus_per_task else "",
        f"{_memory(job.mem_mb)} per node" if job.mem_mb else "",
        f"at most {duration(job.time_s)}",
    ]
    return ", ".join(p for p in parts if p)


def _memory(mib: int) -> str:
    return f"{mib // 1024:,} GiB" if mib % 1024 == 0 else f"{mib:,} MiB"


def _count(n: int, word: str) -> str:
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{n} {word if n == 1 else plural}"


def dry_run(run: RunPaths, plan: Plan, sources: Mapping[str, str], previews: Mapping[str, str]) -> str:
    """Stage graph, jobs with their resources and exact commands, paths, GPU-hours."""
    hours = sum(j.gpu_hours for j in plan.jobs)
    lines = [
        f"run {run.id} on {plan.cluster['name']} ({plan.cluster['executor']})",
        f"path {run.root}",
        "",
        stage_graph(sources, plan),
        "",
        f"jobs: {len(plan.jobs)}, {hours:g} GPU-hours asked for at most",
    ]
    for job in plan.jobs:
        after = f", after {', '.join(job.after)}" if job.after else ""
        lines += [
            "",
            f"job {job.name}{after}",
            f"  stages     {', '.join(job.stages)}",
            f"  resources  {resources(job)}",
            f"  GPU-hours  {job.gpu_hours:g}",
            f"  python     {job.interpreter}",
            f"  path       {run.job(job.name).root}",
            "  command",
            *(f"    {line}".rstrip() for line in previews[job.name].splitlines()),
        ]
    return "\n".join(lines)
