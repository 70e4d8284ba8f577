"""`check --cluster`: a recipe against the live cluster, finding by finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from latentctl.cli import output
from latentctl.errors import Exit, Problem, UserError

if TYPE_CHECKING:
    from latentctl.record.findings import Finding
    from latentctl.runs.view import RunView
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.load import LoadedRecipe

_WIDTH = 80


def run(
    recipe: LoadedRecipe, path: Path, profile: ClusterProfile, runs_dir: Path, *, deep: bool, as_json: bool
) -> None:
    """Print every finding as it becomes known. Exits with 1 where something is wrong, with 4 where Slurm
    cannot be reached or refuses."""
    from latentctl.launch import preflight

    found = _printed(preflight.whole(recipe, profile, runs_dir), quiet=as_json)
    unreachable = any(f.where == "controller" and f.level == "error" for f in found)
    if deep and not unreachable:
        from latentctl.launch.probing import run_probe

        found += _printed(run_probe(recipe, profile, runs_dir, _waiting(), found), quiet=as_json)
    wrong = [f for f in found if f.level == "error"]
    if as_json:
        rows = [{k: v for k, v in asdict(f).items() if k != "cluster"} for f in found]
        output.print_json(
            "preflight", {"recipe": str(path), "cluster": profile.name, "ok": not wrong, "findings": rows}
        )
    else:
        _sum_up(found, path, profile, deep=deep)
    if wrong:
        raise typer.Exit(Exit.CLUSTER if any(f.cluster for f in wrong) else Exit.NEGATIVE)


def quick(recipe: LoadedRecipe, profile: ClusterProfile, runs_dir: Path) -> None:
    """Before a submission: warnings are told, errors refuse it. Raises UserError."""
    from latentctl.launch import preflight

    found = list(preflight.quick((p.experiment for p in recipe.points), profile, runs_dir))
    wrong = [Problem(f.message, f.where, hint=f.hint) for f in found if f.level == "error"]
    if wrong:
        raise UserError(problems=wrong)
    for finding in found:
        output.note(f"warning: {finding.where}: {finding.message}")
        if finding.hint:
            output.note(f"hint: {finding.hint}")


def _printed(findings: Iterable[Finding], *, quiet: bool) -> list[Finding]:
    found: list[Finding] = []
    for finding in findings:
        found.append(finding)
        if not quiet:
            print("\n".join(_lines(finding)), flush=True)
    return found


def _lines(finding: Finding) -> Iterator[str]:
    from latentctl.report.text import wrap

    indent = " " * 9
    yield wrap(f"{finding.level:<9}{finding.where}: {finding.message}", indent)
    if finding.hint and finding.level != "ok":
        yield wrap(f"{indent}hint: {finding.hint}", indent)


def _sum_up(found: list[Finding], path: Path, profile: ClusterProfile, *, deep: bool) -> None:
    wrong = sum(f.level == "error" for f in found)
    warned = sum(f.level == "warning" for f in found)
    if wrong:
        output.note(
            f"{path} would not run on {profile.name}: {_count(wrong, 'error')}, {_count(warned, 'warning')}"
        )
        return
    output.note(f"{path} should run on {profile.name}" + (f"; {_count(warned, 'warning')}" if warned else ""))
    commands = [(f"latentctl submit {path} --cluster {profile.name}", "run it")]
    if not deep and profile.executor == "slurm":
        deeper = f"latentctl check {path} --cluster {profile.name} --deep"
        commands.insert(0, (deeper, "the same from a compute node"))
    output.next_commands(commands)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _waiting() -> Callable[[RunView], None]:
    """Says on stderr how the probe's job is, when that changes."""
    said: list[str] = []

    def say(view: RunView) -> None:
        job = view.jobs[-1]
        text = f"{job.state}" + (f" ({job.why})" if job.why and job.state == "pending" else "")
        if text not in said[-1:]:
            said.append(text)
            output.note(f"probe {view.run.id}: {text}")

    return say
