"""`latentctl clusters list|test`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from latentctl.cli import output
from latentctl.errors import Exit, UserError

app = typer.Typer(
    help="Cluster profiles: list them, test one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("list")
def list_(as_json: output.Json = False) -> None:
    """Profiles that --cluster takes: ./cluster, ~/.config/latentctl/clusters, and the shipped ones."""
    from latentctl.spec.load import list_profiles, load_profile

    rows: list[dict[str, object]] = []
    for name, path in list_profiles().items():
        try:
            profile = load_profile(path)
            rows.append(
                {
                    "name": name,
                    "executor": profile.executor,
                    "partition": profile.partition,
                    "gpus_per_node": profile.gpus_per_node,
                    "description": profile.description,
                    "file": str(path),
                }
            )
        except UserError as error:
            rows.append({"name": name, "file": str(path), "error": str(error)})
    if as_json:
        output.print_json("clusters", rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "executor", "partition", "gpus", "description"):
        table.add_column(column, overflow="fold")
    for row in rows:
        if "error" in row:
            table.add_row(
                str(row["name"]), "invalid", "", "", f"latentctl clusters test {row['name']} says why"
            )
        else:
            shown = (
                row["name"],
                row["executor"],
                row["partition"] or "",
                row["gpus_per_node"],
                row["description"],
            )
            table.add_row(*map(str, shown))
    output.console().print(table)


@app.command("test")
def check(
    name: Annotated[str, typer.Argument(help="Name or file of a profile.", show_default=False)],
    as_json: output.Json = False,
) -> None:
    """Check a profile against the live cluster: controller, partition, account, accounting, interpreters.

    Exit 0: all well; 1: something is wrong; 4: Slurm cannot be reached, or refuses such jobs.
    """
    from latentctl.launch import checks
    from latentctl.spec.load import load_profile

    profile = load_profile(name)
    found: list[checks.Check] = []
    for finding in checks.profile(profile):
        found.append(finding)
        if not as_json:
            mark = {True: "ok", False: "problem", None: "skipped"}[finding.ok]
            print(f"{mark:<8}{finding.name:<14}{finding.text}", flush=True)
            if finding.hint and finding.ok is False:
                print(f"{'':8}{'':14}hint: {finding.hint}")
    wrong = [c for c in found if c.ok is False]
    if as_json:
        rows = [{k: v for k, v in asdict(c).items() if k != "cluster"} for c in found]
        output.print_json("cluster_test", {"name": profile.name, "ok": not wrong, "checks": rows})
    if any(c.cluster for c in wrong):
        raise typer.Exit(Exit.CLUSTER)
    if wrong:
        raise typer.Exit(Exit.NEGATIVE)
