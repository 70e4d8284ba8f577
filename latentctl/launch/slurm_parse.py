"""What Slurm's programs print, made into records. Pure functions; a line that cannot be read is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from latentctl.plan.facts import ClusterFacts, Partition

FINAL: frozenset[str] = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
)
"""States that Slurm does not leave by itself. Not PREEMPTED: with PreemptMode=REQUEUE the job comes back."""

_SQUEUE_WIDTHS = {
    "JobArrayID": 24,
    "State": 24,
    "RestartCnt": 12,
    "exit_code": 12,
    "SubmitTime": 24,
    "Name": 160,
    "Comment": 160,
    "NodeList": 400,
    "Reason": 300,
}
SQUEUE = ",".join(f"{name}:{width}" for name, width in _SQUEUE_WIDTHS.items())
"""For `squeue -O`: columns of fixed width, because names, comments and reasons may hold any separator."""
SACCT = "JobID,State,ExitCode,Submit,NodeList,JobName"
"""For `sacct --format`; the name, which may hold a `|`, stands last."""
_ID = re.compile(r"\d+(_\d+)?")
"""Of a job, or of one element of an array."""
SINFO = "%R|%D|%c|%m|%G"


@dataclass(frozen=True)
class JobRow:
    """One job, as squeue or sacct tells it. `state` is Slurm's own word in full: PENDING, RUNNING, ..."""

    id: str
    state: str
    source: str
    reason: str | None = None
    nodes: str | None = None
    restarts: int | None = None
    exit: str | None = None
    """`code:signal` from accounting, the raw wait status from squeue."""
    submitted: str | None = None
    name: str | None = None
    comment: str | None = None


def squeue(text: str) -> list[JobRow]:
    """Rows of `squeue -h -r -O SQUEUE`: of an array, one for each element."""
    rows: list[JobRow] = []
    for line in text.splitlines():
        cells: list[str] = []
        at = 0
        for width in _SQUEUE_WIDTHS.values():
            cells.append(line[at : at + width].strip())
            at += width
        if not _ID.fullmatch(cells[0]) or not cells[1]:
            continue
        restarts = int(cells[2]) if cells[2].isdigit() else None
        name, comment, nodes, reason = (_said(c) for c in cells[5:9])
        rows.append(
            JobRow(
                id=cells[0],
                state=cells[1].split()[0],
                source="squeue",
                reason=reason,
                nodes=nodes,
                restarts=restarts,
                exit=_said(cells[3]),
                submitted=_said(cells[4]),
                name=name,
                comment=comment,
            )
        )
    return rows


def sacct(text: str) -> list[JobRow]:
    """Rows of `sacct -nPX --format SACCT`; `CANCELLED by 1001` is state and reason. `12_[4-6%2]`, elements
    that wait, is one for each."""
    rows: list[JobRow] = []
    for line in text.splitlines():
        cells = [c.strip() for c in line.split("|", 5)]
        if len(cells) < 6 or not cells[1]:
            continue
        state, _, rest = cells[1].partition(" ")
        rows += [
            JobRow(
                id=job_id,
                state=state.rstrip("+"),
                source="sacct",
                reason=rest or None,
                nodes=None if cells[4] == "None assigned" else _said(cells[4]),
                exit=_said(cells[2]),
                submitted=_said(cells[3]),
                name=_said(cells[5]),
            )
            for job_id in _ids(cells[0])
        ]
    return rows


def _ids(cell: str) -> list[str]:
    if _ID.fullmatch(cell):
        return [cell]
    found = re.fullmatch(r"(\d+_)(\[[\d,-]+)(?:%\d+)?\]", cell)
    return nodes(f"{found[1]}{found[2]}]") if found else []


def base(job_id: str) -> str:
    """The array's id of `12_3`; of a plain job its own."""
    return job_id.partition("_")[0]


def _said(cell: str) -> str | None:
    return None if cell in ("", "None", "(null)", "N/A", "Unknown") else cell


def words(said: str) -> str:
    """Slurm's message on one line, without the name of the program and its `error:`, each sentence once."""
    lines: list[str] = []
    for line in said.splitlines():
        text = re.sub(r"^\s*\w+: (?:error|fatal): ", "", line).strip()
        text = re.sub(r"^(Batch job submission failed|allocation failure): ", "", text)
        if text and text not in lines:
            lines.append(text)
    return "; ".join(lines)


def nodes(nodelist: str) -> list[str]:
    """`n[1-2,07],gpu3` -> n1, n2, n07, gpu3. Raises ValueError for what is no node list."""
    names: list[str] = []
    for part in re.findall(r"[^,\[\]]+(?:\[[^\]]*\][^,\[\]]*)*", nodelist):
        names += _expand(part)
    if not names and nodelist.strip():
        raise ValueError(f"not a node list: {nodelist!r}")
    return names


def _expand(part: str) -> Iterable[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if not found:
        return [part]
    out: list[str] = []
    for piece in found[1].split(","):
        low, dash, high = piece.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise ValueError(f"not a node list: {part!r}")
        numbers = range(int(low), int(high) + 1) if dash else [int(low)]
        for n in numbers:
            out += _expand(f"{part[: found.start()]}{n:0{len(low)}d}{part[found.end() :]}")
    return out


def seconds(limit: str) -> int | None:
    """Seconds of `1-02:00:00`, `04:00:00`, `30:00`, `30` (minutes); None for UNLIMITED and the unreadable."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit.strip())
    if not found:
        return None
    days = int(found[1] or 0)
    numbers = [int(g) for g in found.groups()[1:] if g is not None]
    if found[1] is not None:  # D-HH[:MM[:SS]]
        hours, minutes, secs = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, secs = numbers
    else:  # MM[:SS]
        hours, minutes, secs = 0, numbers[0], numbers[1] if len(numbers) > 1 else 0
    return days * 86400 + hours * 3600 + minutes * 60 + secs


def gpus(gres: str) -> list[tuple[str, int]]:
    """`gpu:h100:4(S:0-1),gpu:2` -> ("h100", 4), ("", 2)."""
    found = re.findall(r"(?:^|,)gpu(?::([^:,()]+))?:(\d+)(?=[(,]|$)", gres)
    return [(kind, int(count)) for kind, count in found]


def configured(config: str) -> dict[str, str]:
    """`scontrol show config`, by its names."""
    return dict(re.findall(r"^(\S+)\s*= (.*?)\s*$", config, re.MULTILINE))


def max_array_size(settings: Mapping[str, str]) -> int | None:
    """None where the cluster does not say."""
    said = settings.get("MaxArraySize", "")
    return int(said) if said.isdigit() else None


def facts(partitions: str, sinfo: str, config: str, assoc: str | None) -> ClusterFacts:
    """From `scontrol -o show partition`, `sinfo -o SINFO`, `scontrol show config`, `sacctmgr show assoc`."""
    settings = configured(config)
    accounts: set[str] = set()
    qos: set[str] = set()
    for line in (assoc or "").splitlines():
        account, _, names = line.partition("|")
        accounts.update(filter(None, [account]))
        qos.update(filter(None, names.split(",")))
    return ClusterFacts(
        name=settings.get("ClusterName", ""),
        version=settings.get("SLURM_VERSION", ""),
        partitions=tuple(
            _partition(line, sinfo) for line in partitions.splitlines() if "PartitionName=" in line
        ),
        accounts=None if assoc is None else tuple(sorted(accounts)),
        qos=None if assoc is None else tuple(sorted(qos)),
        max_array_size=max_array_size(settings),
        config=settings,
    )


def _partition(line: str, sinfo: str) -> Partition:
    said = dict(re.findall(r"(\w+)=(\S*)", line))
    name = said.get("PartitionName", "")
    kinds = [cells for row in sinfo.splitlines() if len(cells := row.split("|", 4)) == 5 and cells[0] == name]
    allowed = said.get("AllowAccounts", "ALL")
    return Partition(
        name=name,
        up=said.get("State") == "UP",
        default=said.get("Default") == "YES",
        max_time_s=seconds(said.get("MaxTime", "")),
        max_nodes=_number(said.get("MaxNodes", "")),
        nodes=_number(said.get("TotalNodes", "")) or 0,
        accounts=None if allowed == "ALL" else tuple(allowed.split(",")),
        cpus_per_node=max((_number(k[2]) or 0 for k in kinds), default=0),
        mem_mb_per_node=max((_number(k[3]) or 0 for k in kinds), default=0),
        gpus=tuple(dict.fromkeys(g for k in kinds for g in gpus(k[4]))),
    )


def _number(text: str) -> int | None:
    """`8`, or the 8 of sinfo's `8+`."""
    digits = text.rstrip("+")
    return int(digits) if digits.isdigit() else None
