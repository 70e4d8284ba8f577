"""A run directory comes into being: whole or not at all, and once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from latentctl import __version__
from latentctl.errors import UserError
from latentctl.faults.load import resolved
from latentctl.record.atomic import fsync_dir, write_bytes, write_json, write_text
from latentctl.record.hashes import code_bytes, content_hash, spec_hash
from latentctl.record.journal import Journal, now
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.runs import snapshot
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.experiment import Experiment

_RERUN = re.compile(r"-r(\d+)$")
_INSTALLED = re.compile(r"([^-]+)-([^-]+)\.(?:dist|egg)-info")
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
    code: bytes
    """What of the files goes into a content hash."""

    @staticmethod
    def of(plugins: Sequence[str]) -> Site:
        files = snapshot.code_files(plugins)
        return Site(files, code_bytes((f.target, f.digest()) for f in files))

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
    return Identity(experiment.name, content_hash(experiment.dump(), site.code), site)


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
        raise disk_error(error, runs_dir) from error
    try:
        _fill(RunPaths(building), point, identity, profile, recipe_bytes, command_line, pretty=code is None)
        if code is None:
            snapshot.copy_code(identity.site.files, RunPaths(building).code)
        else:
            RunPaths(building).code.symlink_to(Path("..", code.relative_to(runs_dir)))
        return _publish(building, plan, identity, runs_dir, make_plan, rerun=rerun)
    except OSError as error:
        raise disk_error(error, runs_dir) from error
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
    """The plan; the journal starts with one `planned` per job."""
    run = RunPaths(building)
    plan.save(run.plan)
    shutil.rmtree(run.journal, ignore_errors=True)
    Journal(run.journal).append_all([("planned", {"job": job.name}) for job in plan.jobs])


def _fill(
    run: RunPaths,
    point: Point,
    identity: Identity,
    profile: ClusterProfile,
    recipe_bytes: bytes,
    command_line: Sequence[str] | None,
    *,
    pretty: bool,
) -> None:
    """Everything that does not depend on the run's number. `pretty`: one key a line, for people; of a
    thousand points nobody reads each."""
    experiment = point.experiment.dump()
    digest = spec_hash(experiment)
    write_bytes(run.recipe, recipe_bytes)
    spec = {
        "schema_version": SPEC_VERSION,
        "experiment": experiment,
        "provenance": dict(point.provenance),
        "spec_hash": digest,
    }
    write_json(run.spec, spec, pretty=pretty)
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
    write_json(run.lock, lock, pretty=pretty)
    write_text(run.faults, _rules(profile.name, profile.faults.model_dump_json()))


@cache
def _rules(cluster: str, faults: str) -> str:
    """`faults.json`, the same for all runs on a cluster."""
    return resolved(json.loads(faults), source=f"cluster profile {cluster}").text()


def package_versions() -> dict[str, str]:
    """Installed distributions of this interpreter, by the names of their folders: ten times as fast as
    reading what is in them."""
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder or "."):
                if match := _INSTALLED.fullmatch(entry):
                    found.setdefault(match[1].replace("_", "-").lower(), match[2])
    return dict(sorted(found.items()))


def _read_plan(run: RunPaths) -> Plan:
    try:
        return Plan.load(run.plan)
    except FileNotFoundError:
        raise UserError(
            "this folder stands where the run would go, and it is no run",
            where=str(run.root),
            hint="move it away, or give another --runs-dir",
        ) from None


def disk_error(error: OSError, runs_dir: Path) -> UserError:
    """In words."""
    return UserError(
        f"the run directory cannot be written: {error.strerror or error}",
        where=str(runs_dir),
        hint="free some space, or choose another folder with --runs-dir",
    )
