"""`latentctl grade`: judge answers again, or anybody's, without generating."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import output
from latentctl.errors import Exit, UserError

if TYPE_CHECKING:
    from latentctl.record.paths import RunPaths

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_SHOWN = 10


@app.command()
def grade(
    target: Annotated[str, typer.Argument(metavar="RUN|FILE.jsonl", help="A run, or a file of outputs.")],
    stage: Annotated[
        str | None, typer.Option("--stage", help="Of a run: this eval stage. [default: all]")
    ] = None,
    grader: Annotated[
        str | None,
        typer.Option(
            "--grader",
            help="math, numeric, countdown, choice, exact, prosqa, or a plugin's. [default: the run's]",
        ),
    ] = None,
    gold: Annotated[str, typer.Option("--gold", help="Of a file: the field of the gold answer.")] = "gold",
    prediction: Annotated[
        str, typer.Option("--prediction", help="Of a file: the field of what a model wrote (or a list).")
    ] = "prediction",
    out: Annotated[Path | None, typer.Option("--out", help="Of a file: write the verdicts here.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.1, help="Seconds per answer. [default: the run's, or 10]"),
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="A Python file with own graders.")
    ] = None,
    cluster: Annotated[str, typer.Option("--cluster", help="Of a file: whose Python grades.")] = "local",
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Grade a run's samples again, or any JSONL of outputs: one verdict per row, on stdout or --out."""
    plugins = [str(Path(p).expanduser().absolute()) for p in plugin or []]
    missing = next((p for p in plugins if not Path(p).is_file()), None)
    if missing:
        raise UserError("no such plugin file", where=missing)
    path = Path(target).expanduser()
    if path.is_file() or (path.suffix in (".jsonl", ".json", ".gz") and not (path / "plan.json").exists()):
        if stage is not None:
            raise UserError("--stage goes with a run, not with a file")
        _file(
            path,
            {"grader": grader, "gold": gold, "prediction": prediction, "timeout": timeout or 10.0},
            plugins=plugins,
            out=out,
            cluster=cluster,
            as_json=as_json,
        )
        return
    if out is not None:
        raise UserError("--out goes with a file: a run's samples are graded in place")
    _run(target, stage, grader, timeout, plugins=plugins, runs_dir=runs_dir, as_json=as_json)


def _file(
    path: Path, asked: dict[str, Any], *, plugins: list[str], out: Path | None, cluster: str, as_json: bool
) -> None:
    from latentctl.launch.task import run_task
    from latentctl.spec.load import load_profile

    if not path.is_file():
        raise UserError("no such file", where=str(path), code=Exit.NOT_FOUND, kind="not_found")
    if asked["grader"] is None:
        raise UserError("say how to judge: --grader math (or numeric, countdown, choice, exact, prosqa)")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError("no such folder", where=str(out.absolute().parent))
    if out is not None and out.exists() and out.samefile(path):
        raise UserError("--out is the file that is read", hint="write the verdicts somewhere else")
    with tempfile.TemporaryDirectory(prefix="latentctl-") as folder:
        written = (out or Path(folder) / "verdicts.jsonl").absolute()
        request = {**asked, "path": str(path.absolute()), "out": str(written), "plugins": plugins}
        found = run_task("grade", {"file": request}, python=load_profile(cluster).interpreter.eval)
        if as_json:
            output.print_json("grade", found | {"out": str(written) if out else None})
        elif out is None:
            with open(written, encoding="utf-8") as rows:
                shutil.copyfileobj(rows, sys.stdout)
    for row in found["malformed"][:_SHOWN]:
        output.note(f"{row['where']}: {row['reason']}")
    if len(found["malformed"]) > _SHOWN:
        output.note(f"... and {len(found['malformed']) - _SHOWN} more malformed lines")
    output.note(_counts(found))
    if found["malformed"]:
        raise typer.Exit(Exit.NEGATIVE)


def _counts(found: dict[str, Any]) -> str:
    parts = [f"{found['correct']} correct", f"{found['wrong']} wrong"]
    parts += [f"{found['ungraded']} could not be graded"] if found["ungraded"] else []
    parts += [f"{len(found['malformed'])} malformed"] if found["malformed"] else []
    share = f" ({_share(found['accuracy'], found['accuracy_ci'])})" if found["accuracy"] is not None else ""
    return ", ".join(parts) + share


def _share(accuracy: float, interval: list[float]) -> str:
    low, high = interval
    return f"{100 * accuracy:.1f} %, 95 % CI {100 * low:.1f} to {100 * high:.1f}"


def _run(
    text: str,
    stage: str | None,
    grader: str | None,
    timeout: float | None,
    *,
    plugins: list[str],
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    from latentctl.launch.task import run_task
    from latentctl.record.paths import RunPaths
    from latentctl.record.plan import Plan
    from latentctl.runs.index import find_run

    folder = Path(text).expanduser()
    run = (
        RunPaths(folder.absolute())
        if (folder / "plan.json").is_file()
        else find_run(output.runs_dir(runs_dir), text)
    )
    plan = Plan.load(run.plan)
    found = []
    for spec in _stages(run, stage):
        job = plan.job_of(spec["name"])
        request = {
            "root": str(run.job(job.name).stage(spec["name"]).root),
            "job": str(run.job(job.name).root),
            "grader": grader,
            "timeout": timeout or spec["eval"]["grade_timeout"],
            "plugins": [*_snapshot_plugins(run), *plugins],
        }
        answer = run_task("grade", {"stage": request}, python=job.interpreter)
        found.append({"stage": spec["name"], **answer})
    if as_json:
        output.print_json("grade", {"run": run.id, "stages": found})
        return
    for answer in found:
        _print_change(answer)
    output.next_commands([(f"latentctl show {run.id}", "the result table")])


def _stages(run: RunPaths, name: str | None) -> list[dict[str, Any]]:
    """The eval stages that can be graded again. Raises UserError where there is none, or not that one."""
    from latentctl.record.atomic import read_json

    evals = [s for s in read_json(run.spec)["experiment"]["stages"] if s["method"] == "eval"]
    chosen = [s for s in evals if name is None or s["name"] == name]
    if not chosen:
        names = ", ".join(s["name"] for s in evals) or "none"
        what = f"no eval stage {name!r}" if name else "no eval stage"
        raise UserError(f"run {run.id} has {what}", hint=f"its eval stages: {names}", code=Exit.NOT_FOUND)
    return chosen


def _snapshot_plugins(run: RunPaths) -> list[str]:
    return sorted(str(p) for p in (run.code / "plugins").glob("*.py"))


def _print_change(answer: dict[str, Any]) -> None:
    before, after, changed = answer["before"], answer["after"], answer["changed"]
    print(f"{answer['stage']}: {answer['samples']} answers graded by {answer['grader']}")
    print(f"  before  {_share(before['accuracy'], before['accuracy_ci'])}")
    print(f"  now     {_share(after['accuracy'], after['accuracy_ci'])}")
    print(f"  {len(changed)} verdicts changed")
    for row in changed[:_SHOWN]:
        print(
            f"    {row['id']}#{row['index']}: {row['before']['verdict']} -> {row['after']['verdict']}"
            f"  (gold {row['gold']}, read {row['after']['extracted']}: {row['after']['reason']})"
        )
    if len(changed) > _SHOWN:
        print(f"    ... and {len(changed) - _SHOWN} more; --json lists all")
