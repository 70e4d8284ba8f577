"""The command table. A command's module is imported only when it is called, so that `--help` stays fast."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import typer
import typer.core
from typer.exceptions import Abort, TyperException

from latentctl import __version__
from latentctl.cli import output
from latentctl.cli.quick_params import quicken
from latentctl.errors import Exit, UserError

COMMANDS: dict[str, tuple[str, str, str]] = {
    "submit": ("Run", "latentctl.cli.submit", "Validate, plan and start a recipe; here or on a cluster."),
    "sweep": ("Run", "latentctl.cli.sweep", "Start every point of a grid."),
    "eval": ("Run", "latentctl.cli.eval", "Evaluate a checkpoint or a run on a dataset."),
    "calibrate": (
        "Run",
        "latentctl.cli.calibrate",
        "Entropy thresholds: which share of latent steps lies above each.",
    ),
    "serve": ("Run", "latentctl.cli.serve", "A checkpoint behind an OpenAI-compatible server."),
    "cancel": ("Run", "latentctl.cli.cancel", "Stop a run and all its processes."),
    "retry": ("Run", "latentctl.cli.retry", "Resume a failed, cancelled or lost run from its checkpoints."),
    "reproduce": ("Run", "latentctl.cli.reproduce", "A run once more, from what it kept; and compare."),
    "status": ("Look", "latentctl.cli.status", "Runs and jobs: state, progress, time left."),
    "logs": ("Look", "latentctl.cli.logs", "What the ranks of a job wrote, across requeues."),
    "show": ("Look", "latentctl.cli.show", "One run: spec, jobs, attempts, metrics, result."),
    "explain": ("Look", "latentctl.cli.explain", "Why a run waits, or failed, and what to do."),
    "case": ("Look", "latentctl.cli.case", "One problem's chain: what each latent step says."),
    "diff": ("Look", "latentctl.cli.diff", "What two runs differ in: spec, code, packages, results."),
    "compare": (
        "Look",
        "latentctl.cli.compare",
        "Evaluations side by side: paired differences, costs, a plot.",
    ),
    "report": ("Look", "latentctl.cli.report", "The table of many evaluations: CSV, Markdown, LaTeX."),
    "grade": (
        "Look",
        "latentctl.cli.grade",
        "Grade samples again, or anybody's outputs, without generating.",
    ),
    "classify": ("Look", "latentctl.cli.classify", "What a crash log is about, and what is done about it."),
    "data": ("Prepare", "latentctl.cli.data", "What a model would see of a dataset."),
    "check": ("Prepare", "latentctl.cli.check", "Every error of a recipe; whether a cluster can run it."),
    "prefetch": ("Prepare", "latentctl.cli.prefetch", "Models and data of a recipe into the jobs' cache."),
    "recipes": ("Prepare", "latentctl.cli.recipes", "List the shipped recipes; copy one."),
    "schema": (
        "Prepare",
        "latentctl.cli.schema",
        "JSON Schema of recipes and cluster profiles, for editors.",
    ),
    "init": ("Set up", "latentctl.cli.init", "Look at the cluster; write a profile; copy a first recipe."),
    "clusters": ("Set up", "latentctl.cli.clusters", "List cluster profiles; test one."),
    "gc": ("Set up", "latentctl.cli.gc", "Delete checkpoints that a later one replaces."),
    "devbox": ("Set up", "latentctl.cli.devbox", "A real Slurm on this machine, for tests and rehearsals."),
    "doctor": ("Set up", "latentctl.cli.doctor", "What this installation can do, and what is missing."),
}
"""Name -> (help panel, module, one line). The module holds `app: typer.Typer`."""


class LazyGroup(typer.core.TyperGroup):
    """Lists commands from the table and imports one only to call it (or to show its own help)."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = typer.main.get_command(importlib.import_module(entry[1]).app)
        command.name = cmd_name
        quicken(command)
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, COMMANDS)) + 2
        lines = [
            "Usage: latentctl COMMAND [OPTIONS]",
            "",
            f"latentctl {__version__}: one recipe, from YAML to a result.",
        ]
        lines += ["", "  latentctl recipes copy shell-game .", "  latentctl submit shell-game.yaml --wait"]
        for panel in dict.fromkeys(p for p, _, _ in COMMANDS.values()):
            lines += ["", f"{panel}:"]
            lines += [f"  {name:<{width}}{text}" for name, (p, _, text) in COMMANDS.items() if p == panel]
        lines += [
            "",
            "Options:",
            "  --version   Print the version.",
            "  --debug     Show tracebacks of expected errors too.",
        ]
        lines += ["  --help, -h  This page; `latentctl COMMAND --help` for one command.", ""]
        lines += [
            "Exit codes: 0 done · 1 the answer is no · 2 usage or invalid recipe ·",
            "3 not found · 4 cluster unreachable or refused · 5 waiting interrupted, the job",
            "goes on · 8 pending · 70 a bug",
        ]
        formatter.write("\n".join(lines) + "\n")


app = typer.Typer(
    cls=LazyGroup, add_completion=True, context_settings={"help_option_names": ["-h", "--help"]}
)


def _version(value: bool) -> None:
    if value:
        print(f"latentctl {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
) -> None:
    if debug:
        os.environ["LATENTCTL_DEBUG_CLI"] = "1"
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(Exit.OK)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script: turns every outcome into one of `Exit`."""
    args = sys.argv[1:] if argv is None else argv
    wants_json = "--json" in args
    try:
        root = typer.main.get_command(app)
        quicken(root)
        result: Any = root.main(args=args, prog_name="latentctl", standalone_mode=False)
        code = int(result) if isinstance(result, int) else Exit.OK
    except UserError as error:
        if os.environ.get("LATENTCTL_DEBUG_CLI"):
            traceback.print_exc()
        output.failure(error, as_json=wants_json)
        code = error.code
    except Abort:
        code = Exit.CTRL_C
    except TyperException as error:
        show = getattr(error, "show", None)
        if wants_json or show is None:
            output.failure(UserError(error.format_message(), kind="usage"), as_json=wants_json)
        else:
            show()
        code = Exit.USAGE
    except KeyboardInterrupt:
        code = Exit.CTRL_C
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    except Exception as error:
        output.bug(error, as_json=wants_json)
        code = Exit.BUG
    sys.exit(int(code))


if __name__ == "__main__":
    main()
