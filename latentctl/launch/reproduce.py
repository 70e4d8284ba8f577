"""A run once more: what was asked then, by the code that the run kept, as a run of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentctl.errors import UserError
from latentctl.launch.start import Started, start
from latentctl.record.atomic import read_json
from latentctl.record.hashes import code_bytes, code_files, content_hash
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.runs.create import Identity, Site
from latentctl.runs.snapshot import CodeFile

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.experiment import Experiment


@dataclass(frozen=True)
class Kept:
    """What a run kept of itself: `runs.create.Point`."""

    experiment: Experiment
    provenance: dict[str, str]


def reproduce(run: RunPaths, runs_dir: Path, *, profile: ClusterProfile | None = None) -> Started:
    """Submit it again, on the cluster of then unless `profile` says another. Raises UserError: the run is
    damaged, its code was changed, this latentctl reads its spec otherwise, or what `start` raises."""
    from latentctl.spec.cluster import ClusterProfile

    plan = Plan.load(run.plan)
    spec = _read(run.spec)
    site = _site(run)
    if content_hash(spec["experiment"], site.code) != plan.content_hash:
        raise UserError(
            "spec or code of the run are not what was submitted: a file was changed, added or lost",
            where=str(run.root),
            hint="`latentctl diff` with another run of the same shows which",
        )
    kept = Kept(_experiment(run, spec["experiment"]), dict(spec.get("provenance") or {}))
    profile = profile or ClusterProfile.model_validate(plan.cluster)
    identity = Identity(kept.experiment.name, plan.content_hash, site)
    recipe = run.recipe.read_bytes() if run.recipe.exists() else b""
    return start(kept, profile, runs_dir, recipe, rerun=True, identity=identity)


def _site(run: RunPaths) -> Site:
    files = [CodeFile(path, at) for at, path in code_files(run.code)]
    return Site(files, code_bytes((f.target, f.digest()) for f in files))


def _experiment(run: RunPaths, raw: dict[str, Any]) -> Experiment:
    """Read by the code that is installed now, which must understand it as the code of then did."""
    from pydantic import ValidationError

    from latentctl.spec import methods
    from latentctl.spec.experiment import Experiment
    from latentctl.spec.plugins import load_plugin

    for plugin in raw.get("plugins", []):
        load_plugin(run.code / "plugins" / Path(plugin).name)
    methods.load_entry_points()
    version = _read(run.lock).get("latentctl", "?")
    hint = f"it was made by latentctl {version}: install that to reproduce it"
    try:
        found = Experiment.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {first['msg']}", where=str(run.spec), hint=hint) from None
    if found.dump() != raw:
        raise UserError("this latentctl reads the spec of the run otherwise", where=str(run.spec), hint=hint)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from None
