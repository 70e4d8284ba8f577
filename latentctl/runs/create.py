"""A run directory comes into being: whole or not at all, and once."""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from latentctl import __version__
from latentctl.errors import UserError
from latentctl.faults.load import resolved
from latentctl.record.atomic import fsync_dir, write_bytes, write_json
from latentctl.record.hashes import content_hash, spec_hash
from latentctl.record.journal import Journal, now
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.runs import snapshot
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.experiment import Experiment

_RERUN = re.compile(r"-r(\d+)$")
SPEC_VERSION = 1
LOCK_VERSION = 1

PlanMaker = Callable[[str, str], Plan]
"""(run id, content hash) -> plan: `plan.build.build_plan` with its other arguments bound."""


class Point(Protocol):
    """One experiment as the loader gives it: `spec.load.Point`."""

    @property
    def experiment(self) -> Experiment: ...
    @property
    def provenance(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Site:
    """What all points that one command starts have in common, looked at once."""

    files: list[snapshot.CodeFile]
    digests: list[tuple[PurePosixPath, str]]
    """Of the files: where each goes below `code/`, and its SHA-256."""

    @staticmethod
    def of(plugins: Sequence[str]) -> Site:
        files = snapshot.code_files(plugins)
        return Site(files, [(f.target, f.digest()) for f in files])

    @cached_property
    def packages(self) -> dict[str, str]:
        return package_versions()

    @cached_property
    def git(self) -> dict[str, Any] | None:
        return snapshot.git_state()


@dataclass(frozen=True)
class Identity:
    """What a point is, before anything is written."""

    name: str
    content_hash: str
    site: Site

    @property
    def run_id(self) -> str:
        return f"{self.name}-{self.content_hash[:8]}"


@dataclass(frozen=True)
class Prepared:
    """The outcome of `prepare`: a new run directory, or the one that was there."""

    run: RunPaths
    plan: Plan
    created: bool


def identify(point: Point, site: Site | None = None) -> Identity:
    """Name and content hash of a point: the same experiment and the same code are the same run. `site`: that
    of an earlier point of the same recipe."""
    experiment = point.experiment
    site = site or Site.of(experiment.plugins)
    return Identity(experiment.name, content_hash(experiment.dump(), site.digests), site)


Listing = Mapping[str, Sequence[tuple[int, str]]]
"""Run id without the `-r2` of a rerun -> (number, name) of each folder, oldest first."""


def listing(runs_dir: Path) -> Listing:
    """What there is: for many points, one look."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in os.listdir(runs_dir) if runs_dir.is_dir() else []:
        match = _RERUN.search(name)
        base, number = (name[: match.start()], int(match[1])) if match else (name, 1)
        found.setdefault(base, []).append((number, name))
    return {base: sorted(names) for base, names in found.items()}


def existing(identity: Identity, runs_dir: Path, seen: Listing | None = None) -> list[RunPaths]:
    """The run of this content hash and its reruns, oldest first."""
    names = (listing(runs_dir) if seen is None else seen).get(identity.run_id, ())
    return [RunPaths(runs_dir / name) for _, name in names if (runs_dir / name / "plan.json").is_file()]


def prepare(
    point: Point,
    profile: ClusterProfile,
    runs_dir: Path,
    recipe_bytes: bytes,
    make_plan: PlanMaker,
    *,
    identity: Identity | None = None,
    rerun: bool = False,
    command_line: Sequence[str] | None = None,
    code: Path | None = None,
) -> Prepared:
    """Make the run directory: built in a folder beside and renamed, so that it appears whole.

    Of two callers with the same thing exactly one gets `created`; the other gets the existing run. With
    `rerun` each gets a directory of its own: `-r2`, `-r3`. `code`: a snapshot below `runs_dir` that it shares
    with others. Raises UserError where the plan is refused or
    the disk refuses; then nothing is left behind.
    """
    identity = identity or identify(point)
    plan = make_plan(identity.run_id, identity.content_hash)
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        building = runs_dir / f".new-{identity.run_id}-{secrets.token_hex(4)}"
        building.mkdir()
    except OSError as error:
        raise _disk(error, runs_dir) from error
    try:
        _fill(RunPaths(building), point, identity, profile, recipe_bytes, command_line)
        if code is None:
            snapshot.copy_code(identity.site.files, RunPaths(building).code)
        else:
            RunPaths(building).code.symlink_to(Path("..", code.relative_to(runs_dir)))
        return _publish(building, plan, identity, runs_dir, make_plan, rerun=rerun)
    except OSError as error:
        raise _disk(error, runs_dir) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def discard(run: RunPaths) -> None:
    """Take back a run whose submission failed. Renamed first, so that it vanishes at once."""
    gone = run.root.with_name(f".gone-{run.id}-{secrets.token_hex(4)}")
    os.rename(run.root, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _publish(
    building: Path, plan: Plan, identity: Identity, runs_dir: Path, make_plan: PlanMaker, *, rerun: bool
) -> Prepared:
    """Rename into place. The rename of a folder onto a filled one fails: that is what decides between two."""
    number = 1
    while True:
        run_id = identity.run_id if number == 1 else f"{identity.run_id}-r{number}"
        if plan.run_id != run_id:
            plan = make_plan(run_id, identity.content_hash)
        target = RunPaths(runs_dir / run_id)
        if not target.root.exists():
            _write_plan(building, plan)
            try:
                os.rename(building, target.root)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                fsync_dir(runs_dir)
                return Prepared(target, plan, created=True)
        if not rerun:
            return Prepared(target, _read_plan(target), created=False)
        number += 1


def _write_plan(building: Path, plan: Plan) -> None:
    """The plan and its jobs' folders; the journal starts with one `planned` per job."""
    run = RunPaths(building)
    plan.save(run.plan)
    shutil.rmtree(run.journal, ignore_errors=True)
    journal = Journal(run.journal)
    for job in plan.jobs:
        run.job(job.name).scheduler.mkdir(parents=True, exist_ok=True)
        journal.append("planned", job=job.name)


def _fill(
    run: RunPaths,
    point: Point,
    identity: Identity,
    profile: ClusterProfile,
    recipe_bytes: bytes,
    command_line: Sequence[str] | None,
) -> None:
    """Everything that does not depend on the run's number."""
    experiment = point.experiment.dump()
    digest = spec_hash(experiment)
    write_bytes(run.recipe, recipe_bytes)
    spec = {
        "schema_version": SPEC_VERSION,
        "experiment": experiment,
        "provenance": dict(point.provenance),
        "spec_hash": digest,
    }
    write_json(run.spec, spec)
    lock = {
        "version": LOCK_VERSION,
        "content_hash": identity.content_hash,
        "spec_hash": digest,
        "created": now(),
        "latentctl": __version__,
        "git": identity.site.git,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "packages": identity.site.packages,
        "cluster": profile.name,
        "host": socket.gethostname(),
        "command_line": list(sys.argv if command_line is None else command_line),
        "cwd": os.getcwd(),
    }
    write_json(run.lock, lock)
    resolved(profile.faults.model_dump(), source=f"cluster profile {profile.name}").save(run.faults)


def package_versions() -> dict[str, str]:
    """Installed distributions of this interpreter, none of them imported."""
    found: dict[str, Any] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _read_plan(run: RunPaths) -> Plan:
    try:
        return Plan.load(run.plan)
    except FileNotFoundError:
        raise UserError(
            "this folder stands where the run would go, and it is no run",
            where=str(run.root),
            hint="move it away, or give another --runs-dir",
        ) from None


def _disk(error: OSError, runs_dir: Path) -> UserError:
    return UserError(
        f"the run directory cannot be written: {error.strerror or error}",
        where=str(runs_dir),
        hint="free some space, or choose another folder with --runs-dir",
    )
