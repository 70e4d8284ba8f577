"""`latentctl init`: the first command on a new machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl import shipped
from latentctl.cli import output
from latentctl.errors import UserError

if TYPE_CHECKING:
    from latentctl.launch.first_look import Look

STARTER = "shell-game"
"""Needs no download and no GPU, and ends in minutes."""
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def init(
    partition: Annotated[str | None, typer.Option("--partition", help="Not the one that suits most.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Not the first one of yours.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the profile; the cluster's if unsaid.")
    ] = None,
    everywhere: Annotated[
        bool, typer.Option("--user", help="Write it to ~/.config/latentctl/clusters, not to ./cluster.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")] = False,
    as_json: output.Json = False,
) -> None:
    """Look at the cluster, write a profile for it, and copy a recipe to begin with.

    Where there is no Slurm, this machine is looked at. Example: latentctl init --partition gpu
    """
    from latentctl.launch.slurm_client import SlurmClient, SlurmError

    try:
        client = SlurmClient()
        client.ping()
        facts = client.facts()
    except SlurmError as error:
        if partition or account or name:
            raise
        _here(error.problems[0].message, as_json=as_json)
        return
    from latentctl.launch import first_look

    chosen = first_look.choose(facts, partition)
    if chosen is None:
        names = ", ".join(p.name for p in facts.partitions)
        raise UserError(
            f"there is no partition {partition!r} on {facts.name}" if partition else "no partition is up",
            hint=f"partitions: {names}" if names else None,
        )
    if account is not None and facts.accounts is not None and account not in facts.accounts:
        raise UserError(
            f"{account!r} is no account of yours on {facts.name}",
            hint=f"accounts: {', '.join(facts.accounts)}",
        )
    found = first_look.look(facts, chosen, name=name, account=account)
    target = _write(found, everywhere=everywhere, force=force)
    recipe = _starter()
    if as_json:
        output.print_json("init", _row(found, target, recipe))
        return
    from latentctl.launch.slurm_words import describe

    print(f"{facts.name}, Slurm {facts.version}: partition {chosen.name}, {describe(chosen)}")
    print(f"{'profile':<10}{target}")
    print(f"{'recipe':<10}{recipe}")
    output.next_commands(
        [
            (f"latentctl clusters test {found.name}", "does it work from here"),
            (f"latentctl submit {recipe} --cluster {found.name} --wait", "the first run"),
            ("latentctl recipes list", "what else there is"),
        ]
    )


def _here(why: str, *, as_json: bool) -> None:
    """No Slurm: the shipped profile `local` fits as it is."""
    from latentctl.launch import gpus

    recipe, count = _starter(), len(gpus.visible())
    if as_json:
        row = {"cluster": "local", "profile": None, "partition": None, "account": None, "gpus": count}
        output.print_json("init", {**row, "recipe": str(recipe)})
        return
    print(f"no Slurm ({why}): this machine, {count or 'no'} GPU{'s' * (count != 1)}; its profile is `local`")
    print(f"{'recipe':<10}{recipe}")
    output.next_commands(
        [
            (f"latentctl submit {recipe} --wait", "the first run"),
            ("latentctl doctor", "what this installation can do"),
            ("latentctl devbox up", "a real Slurm on this machine, to rehearse"),
        ]
    )


def _write(found: Look, *, everywhere: bool, force: bool) -> Path:
    folder = Path("~/.config/latentctl/clusters").expanduser() if everywhere else Path("cluster")
    target = folder / f"{found.name}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(found.text)
    except FileExistsError:
        hint = "--force replaces it, --name writes another"
        raise UserError("exists already", where=str(target), hint=hint, kind="exists") from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(target)) from None
    return target


def _starter() -> Path:
    """Copied to here; one that is there already is left as it is."""
    target = Path(f"{STARTER}.yaml")
    try:
        text = (shipped.folder("recipes") / target).read_bytes()
        with target.open("xb") as file:
            file.write(text)
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(target)) from None
    return target


def _row(found: Look, target: Path, recipe: Path) -> dict[str, Any]:
    return {
        "cluster": found.name,
        "profile": str(target),
        "partition": found.partition.name,
        "account": found.account,
        "gpus": found.partition.gpus_per_node,
        "recipe": str(recipe),
    }
