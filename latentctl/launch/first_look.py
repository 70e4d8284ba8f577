"""A cluster that latentctl has never seen: what it offers, as a profile for a person to read and change."""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentctl.launch import slurm_words
from latentctl.plan.facts import ClusterFacts, Partition

_TIME_S = 4 * 3600
"""Asked for where a recipe is silent, if the partition allows as much."""


@dataclass(frozen=True)
class Look:
    """What was found, and the profile that follows."""

    name: str
    partition: Partition
    account: str | None
    text: str
    """The profile, YAML."""


def choose(facts: ClusterFacts, wanted: str | None = None) -> Partition | None:
    """The partition of that name; unsaid, the default one, or where that has no GPUs, the one with most of
    them that the user may use. None: there is none."""
    if wanted is not None:
        return facts.partition(wanted)
    mine = set(facts.accounts or ())
    usable = [
        p for p in facts.partitions if p.up and (p.accounts is None or not mine or mine & set(p.accounts))
    ]
    default = next((p for p in usable if p.default), None)
    if default is not None and default.gpus_per_node:
        return default
    gpus = max(usable, key=lambda p: (p.gpus_per_node * p.nodes, p.max_time_s or 10**9), default=None)
    return gpus if gpus is not None and gpus.gpus_per_node else default or gpus


def look(
    facts: ClusterFacts, partition: Partition, *, name: str | None = None, account: str | None = None
) -> Look:
    """The profile for one partition. `account` unsaid: the first that may use it."""
    name = re.sub(r"[^a-z0-9._-]+", "-", (name or facts.name).lower()).strip("-._")[:40] or "cluster"
    allowed = [a for a in facts.accounts or () if partition.accounts is None or a in partition.accounts]
    account = account or next(iter(allowed), None)
    kinds = sorted(partition.gpus, key=lambda kind: -kind[1])
    kind, gpus = kinds[0] if kinds else ("", 0)
    limit = partition.max_time_s
    time_s = min(_TIME_S, limit) if limit else _TIME_S
    cpus = max(1, partition.cpus_per_node // max(1, gpus))
    rows: list[tuple[str, object, str]] = [
        ("partition", partition.name, _others("partitions", [p.name for p in facts.partitions])),
        ("account", account, _others("accounts", allowed)),
        ("gpus_per_node", gpus, "the largest node has so many; a recipe asks for what it needs"),
        ("gpu_type", kind or None, _others("types", [f"{k}:{n}" for k, n in kinds if k])),
        ("cpus", cpus, f"per process; a node has {partition.cpus_per_node}"),
        ("time", f"{time_s // 60}m", "where a recipe is silent"),
        ("max_time", f"{limit // 60}m" if limit else None, "longer jobs are refused before they are queued"),
        ("max_nodes", partition.max_nodes or partition.nodes or None, ""),
        (
            "signal_lead",
            "2m",
            "so long before the limit a job checkpoints, at least",
        ),
    ]
    lines = [
        f"# Found on {facts.name} (Slurm {facts.version}):",
        f"# {slurm_words.describe(partition)}.",
        "# What else a profile may say: `latentctl schema cluster`, and the shipped example-*.yaml.",
        f"name: {name}",
        f'description: "{facts.name}, partition {partition.name}"',
        "executor: slurm",
    ]
    for key, value, why in rows:
        if value is not None:
            said = f"{key}: {value}"
            lines.append(f"{said:<25} # {why}" if why else said)
    mem = f"# mem: {partition.mem_mb_per_node // 1024}G"
    lines += [
        f"{mem:<25} # all of a node; unsaid: the cluster's default",
        "# modules: [cuda]         # `module load` before anything else",
        "# pass_env: [HF_TOKEN]    # variables that jobs may see; their values are never written to disk",
        "# data_dir: /shared/data  # named datasets are looked for in <data_dir>/<name>/",
    ]
    return Look(name, partition, account, "\n".join(lines) + "\n")


def _others(what: str, names: list[str]) -> str:
    return f"{what}: {', '.join(names)}" if len(names) > 1 else ""
