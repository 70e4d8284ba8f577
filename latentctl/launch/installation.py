"""What is installed here and what can be used: the findings of `latentctl doctor`. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from latentctl import __version__, shipped
from latentctl.errors import UserError
from latentctl.launch import devbox, gpus
from latentctl.launch.slurm_client import SlurmClient, SlurmError
from latentctl.launch.task import run_task

PROBE_S = 180.0
MIN_FREE_GB = 5.0
"""Below it a checkpoint of even a small model may not fit."""
SLURM_PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")


@dataclass(frozen=True)
class Finding:
    """`missing`: needed here, and not there."""

    name: str
    level: Literal["ok", "note", "missing"]
    text: str
    hint: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


def examine(runs_dir: Path) -> Iterator[Finding]:
    """Every finding, as each is known."""
    yield _python()
    yield _core()
    login_node = shutil.which("sbatch") is not None
    yield from _extra("train", needed=not login_node)
    for name in ("vllm", "wandb"):
        yield from _extra(name, needed=False)
    yield _gpus()
    yield _slurm()
    yield _devbox()
    yield _disk("runs", runs_dir)
    cache = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    yield _disk("model cache", Path(cache).expanduser())
    yield _wandb()


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")


def _requirements(extra: str | None) -> list[str]:
    """Names of what latentctl requires, of one extra or of the core, from its own metadata."""
    names: list[str] = []
    for line in metadata.requires("latentctl") or []:
        marker = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if (marker[1] if marker else None) == extra:
            names.append(re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0])
    return names


def _versions(names: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _core() -> Finding:
    try:
        versions = _versions(_requirements(None))
    except metadata.PackageNotFoundError:
        hint = f"pip install -c {shipped.constraints()} {_target()}"
        return Finding("latentctl", "missing", f"{__version__} runs from source, not installed", hint)
    return _packages("latentctl", f"{__version__} with ", versions, needed=True, install=_install(None))


def _extra(name: str, *, needed: bool) -> Iterator[Finding]:
    try:
        versions = _versions(_requirements(name))
    except metadata.PackageNotFoundError:
        return  # said by _core
    finding = _packages(name, "", versions, needed=needed, install=_install(name))
    yield finding
    if name == "train" and finding.level == "ok":
        yield _probe()


def _packages(
    name: str, prefix: str, versions: dict[str, str | None], *, needed: bool, install: str
) -> Finding:
    absent = [n for n, v in versions.items() if v is None]
    if absent:
        level = "missing" if needed else "note"
        return Finding(name, level, f"not installed: {', '.join(absent)}", install, {"versions": versions})
    text = prefix + ", ".join(f"{n} {v}" for n, v in versions.items())
    return Finding(name, "ok", text, data={"versions": versions})


def _install(extra: str | None) -> str:
    return f"pip install -c {shipped.constraints()} '{_target(extra)}'"


def _target(extra: str | None = None) -> str:
    """What pip installs: this checkout, or the package by name."""
    root = Path(__file__).resolve().parents[2]
    name = str(root) if (root / "pyproject.toml").exists() else "latentctl"
    return f"{name}[{extra}]" if extra else name


def _probe() -> Finding:
    """Imports what training needs, in a process of its own."""
    try:
        found = run_task("doctor", {}, timeout=PROBE_S)
    except UserError as error:
        return Finding("training", "missing", str(error.problems[0].message), error.problems[0].hint)
    problems = found.get("problems") or []
    if problems:
        return Finding("training", "missing", "; ".join(problems), _install("train"), found)
    torch, speed = found.get("torch") or {}, found.get("deepspeed") or {}
    text = f"torch and deepspeed import; accelerator {speed.get('accelerator')}"
    text += f", backends {', '.join(torch.get('backends') or [])}"
    return Finding("training", "ok", text, data=found)


def _gpus() -> Finding:
    try:
        found = gpus.visible()
    except ValueError as error:
        return Finding("gpus", "missing", str(error))
    if not found:
        return Finding("gpus", "note", "none found: jobs on this machine train on the CPU")
    return Finding("gpus", "ok", f"{len(found)}: {', '.join(map(str, found))}", data={"gpus": found})


def _slurm() -> Finding:
    absent = [p for p in SLURM_PROGRAMS if shutil.which(p) is None]
    if len(absent) == len(SLURM_PROGRAMS):
        hint = "for a Slurm on this machine: latentctl devbox up --install"
        return Finding("slurm", "note", "no Slurm programs here; profiles with executor: local work", hint)
    if absent:
        return Finding("slurm", "missing", f"some of Slurm's programs are missing: {', '.join(absent)}")
    try:
        SlurmClient().ping()
    except SlurmError as error:
        return Finding("slurm", "note", error.problems[0].message, error.problems[0].hint)
    return Finding("slurm", "ok", "programs are here, the controller answers")


def _devbox() -> Finding:
    found = devbox.status(devbox.DEFAULT_DIR)
    if not found.daemons:
        return Finding("devbox", "note", "none", "latentctl devbox up starts a real Slurm on this machine")
    if not found.up:
        down = ", ".join(n for n, alive in found.daemons.items() if not alive)
        return Finding("devbox", "note", f"at {found.folder}, down: {down}", "latentctl devbox up")
    return Finding("devbox", "ok", f"up, at {found.folder}")


def _disk(name: str, folder: Path) -> Finding:
    """Free space where `folder` is, or will be made."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    data = {"folder": str(folder), "free_gb": round(free, 1)}
    if not os.access(place, os.W_OK):
        return Finding(name, "missing", f"{folder}: {place} is not writable", data=data)
    text = f"{folder}, {free:.0f} GB free"
    if free < MIN_FREE_GB:
        return Finding(name, "missing", text, f"at least {MIN_FREE_GB:g} GB should be free there", data)
    return Finding(name, "ok", text, data=data)


def _wandb() -> Finding:
    """Whether curves would leave this machine; never needed."""
    if _versions(["wandb"])["wandb"] is None:
        return Finding("W&B", "note", "not installed; runs keep their own metrics all the same")
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled", "dryrun"):
        return Finding("W&B", "ok", f"{mode} (WANDB_MODE)")
    netrc = Path("~/.netrc").expanduser()
    logged_in = bool(os.environ.get("WANDB_API_KEY"))
    if not logged_in and netrc.is_file():
        logged_in = "api.wandb.ai" in netrc.read_text(errors="replace")
    if logged_in:
        return Finding("W&B", "ok", "logged in")
    return Finding("W&B", "note", "not logged in: runs log offline", "wandb login")
