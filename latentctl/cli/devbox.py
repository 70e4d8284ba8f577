"""`latentctl devbox up|status|down`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import output
from latentctl.errors import Exit
from latentctl.launch import devbox

app = typer.Typer(
    help="A real Slurm on this machine, for tests and rehearsals.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Dir = Annotated[
    Path, typer.Option("--dir", help="Where the box lives.", envvar="LATENTCTL_DEVBOX_DIR", show_default=True)
]


@app.command()
def up(
    folder: Dir = devbox.DEFAULT_DIR,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, max=32, help="Simulated nodes. [default: as before, or 4]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1024, max=65400, help="First of its ports. [default: as before, or 17000]"
        ),
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="apt-get what is missing.")] = False,
    as_json: output.Json = False,
) -> None:
    """Start it, with accounting and made-up GPUs; on a running box: check and repair. Needs root."""
    folder = folder.expanduser().absolute()
    devbox.up(folder, nodes=nodes, port=port, install=install)
    found = devbox.status(folder)
    if as_json:
        output.print_json("devbox", _data(found))
    if not found.found_without_slurm_conf:
        output.note(f"{devbox.LINK} belongs to another Slurm; for this one: export SLURM_CONF={found.conf}")
    output.next_commands(
        [
            ("latentctl submit RECIPE --cluster devbox", "run a recipe on it"),
            ("latentctl clusters test devbox", "check that all of it answers"),
            ("latentctl devbox down", "stop it"),
        ]
    )


@app.command()
def status(folder: Dir = devbox.DEFAULT_DIR, as_json: output.Json = False) -> None:
    """Which of its daemons run. Exit 1 when one is down."""
    found = devbox.status(folder.expanduser().absolute())
    if as_json:
        output.print_json("devbox", _data(found))
    elif not found.daemons:
        output.note(f"there is no devbox at {found.folder}")
        output.note("hint: latentctl devbox up")
    else:
        for name, alive in found.daemons.items():
            print(f"{name:<16}{'up' if alive else 'down'}")
    if not found.up:
        raise typer.Exit(Exit.NEGATIVE)


@app.command()
def down(
    folder: Dir = devbox.DEFAULT_DIR,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove its folder too, accounting included.")] = False,
    as_json: output.Json = False,
) -> None:
    """Cancel its jobs and stop it. Needs root."""
    folder = folder.expanduser().absolute()
    devbox.down(folder, wipe=wipe)
    if as_json:
        output.print_json("devbox", _data(devbox.status(folder)))


def _data(found: devbox.Status) -> dict[str, object]:
    return {
        "dir": str(found.folder),
        "slurm_conf": str(found.conf),
        "slurm_conf_needed": bool(found.daemons) and not found.found_without_slurm_conf,
        "up": found.up,
        "daemons": found.daemons,
    }
