"""`latentctl serve`: a checkpoint behind an OpenAI-compatible server, as a run of one stage."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import launching, output
from latentctl.cli.launching import Cluster, Name, Set
from latentctl.errors import Exit, UserError
from latentctl.record.paths import RunPaths

if TYPE_CHECKING:
    from latentctl.runs.view import RunView
    from latentctl.spec.cluster import ClusterProfile

app = typer.Typer(add_completion=False, rich_markup_mode=None)
LOCAL_TIME_S = 30 * 86400
"""A server of this machine runs until it is stopped; no job runs for ever."""
_SHOWN_LINES = 12


@app.command()
def serve(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="PATH|RUN|HUB_ID",
            help="A directory, RUN[/STAGE][@best], or a Hub id.",
            show_default=False,
        ),
    ],
    latent: Annotated[
        str | None,
        typer.Option(
            "--latent",
            metavar="on|off",
            help="What a request gets that does not say it itself. [default: on]",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Where it listens; beyond loopback only with a key.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="[default: 8000, or a free one]", show_default=False),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", metavar="FILE", help="Requests must carry its key. [default: LATENTCTL_API_KEY]"
        ),
    ] = None,
    served_name: Annotated[
        str | None, typer.Option("--model-name", help="What requests call the model.", show_default=False)
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            "--tensor-parallel",
            min=0,
            help="GPUs that hold the model together. [default: 1 where there are any]",
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", help="Time limit: 8h. [default: the profile's; here until it is stopped]"),
    ] = None,
    max_len: Annotated[
        int | None, typer.Option("--max-len", min=16, help="Longest prompt and answer together, in tokens.")
    ] = None,
    ready_timeout: Annotated[
        str | None,
        typer.Option("--ready-timeout", help="Failed if it does not answer by then. [default: 30m]"),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it answers. Always so on a Slurm cluster.")
    ] = False,
    set_: Set = None,
    cluster: Cluster = "local",
    name: Name = None,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Serve a checkpoint through vLLM's OpenAI-compatible server, with latent steps by request.

    Here it runs in the foreground, and Ctrl-C ends it; with --cluster NAME it is a Slurm job. Both are runs
    like any other: status, logs, cancel. When it answers, commands to paste are printed.

    A checkpoint that was trained with latent steps takes them, as it was trained, in every request, unless
    the request says vllm_xargs: {"latent": "off"}, or a latent block of its own as JSON text. --latent off:
    only where a request asks. --set latent.stop=8 changes what the checkpoint says.

    Example: latentctl serve @last/coconut@best --port 8000
    """
    from latentctl.launch import serving
    from latentctl.launch.start import start
    from latentctl.spec.load import load_mapping

    if latent not in (None, "on", "off"):
        raise UserError(f"--latent {latent}: on or off")
    root = output.runs_dir(runs_dir)
    from latentctl.launch.profile import profile_named

    profile = profile_named(cluster)
    here = profile.executor == "local"
    key = serving.take_key(api_key_file)
    serving.check_address(host, port, key=key, here=here)
    source, hub = serving.source(checkpoint, root)
    if hub:
        output.note(f"{checkpoint}: no such run or directory; taken as a model of the Hugging Face Hub")
    given = {
        "host": host,
        "port": port,
        "api_key": key or None,
        "served_name": served_name,
        "unasked": latent,
        "max_len": max_len,
        "ready_timeout": ready_timeout,
    }
    data = recipe(source, root, profile, settings=given, gpus=gpus, time=time)
    loaded = load_mapping(data, launching.overrides(set_, name), "latentctl serve")
    started = start(loaded.points[0], profile, root, loaded.recipe_bytes, rerun=True)
    output.note(f"submitted {started.run.id} on {profile.name}")
    if not here and not key:
        output.note("note: whoever is on its node can ask it, for there is no key (--api-key-file FILE)")
    for problem in started.findings:
        output.note(f"warning: {problem.text()}")
    if here and not detach:
        _foreground(started.run, as_json=as_json)
    else:
        _background(started.run, elsewhere=not here, as_json=as_json)


def recipe(
    source: str,
    runs_dir: Path,
    profile: ClusterProfile,
    *,
    settings: dict[str, Any],
    gpus: int | None,
    time: str | None,
) -> dict[str, Any]:
    """The recipe that stands for the options."""
    from latentctl.cli.eval import weights

    count = gpus if gpus is not None else min(1, profile.gpus_per_node)
    limit: str | int | None = time
    if time is None and profile.executor == "local":
        limit = min(LOCAL_TIME_S, profile.max_time or LOCAL_TIME_S)
    asked = {"gpus": count, "time": limit}
    block = {**settings, "tensor_parallel": count if count > 1 else None}
    return {
        "name": _name(source),
        "method": "serve",
        "serve": {k: v for k, v in block.items() if v is not None},
        "resources": {k: v for k, v in asked.items() if v is not None},
    } | weights(source, runs_dir)


def _name(source: str) -> str:
    base = source.removeprefix("run:") if source.startswith("run:") else Path(source).name
    return re.sub(r"[^a-z0-9._-]+", "-", f"serve-{base}".lower())[:60].strip("-._")


def _foreground(run: RunPaths, *, as_json: bool) -> None:
    """Until it ends. Ctrl-C, TERM and a closed terminal end it: a server of this terminal, as people know
    them."""
    from latentctl.launch import serving

    try:
        with serving.interrupted_alike():
            _ready(run, elsewhere=False, as_json=as_json)
            output.note(f"Ctrl-C stops it; `latentctl logs {run.id} -f` shows its requests")
            view = serving.wait_until_ended(run)
    except KeyboardInterrupt:
        output.note("\nstopping")
        serving.stop(run)
        output.note(f"stopped {run.id}")
        raise
    if view.state != "succeeded":
        _last_lines(view)
        raise serving.failure(view)
    output.note(f"{run.id} has ended: its time is over")


def _background(run: RunPaths, *, elsewhere: bool, as_json: bool) -> None:
    """Until it answers; it goes on without us."""
    try:
        _ready(run, elsewhere=elsewhere, as_json=as_json)
    except KeyboardInterrupt:
        output.note(f"\n{run.id} goes on; only the waiting ended")
        _next(run)
        raise typer.Exit(Exit.INTERRUPTED) from None
    _next(run)


def _ready(run: RunPaths, *, elsewhere: bool, as_json: bool) -> None:
    """Wait, and print how to reach it. Raises UserError where it ended before."""
    from latentctl.launch import serving
    from latentctl.report import serving as words

    states: list[str] = []

    def say(view: RunView) -> None:
        job = view.jobs[-1]
        if job.state not in states[-1:]:
            states.append(job.state)
            output.note(f"{run.id}: {job.state}" + (f" ({job.why})" if job.why else ""))

    try:
        found = serving.wait_until_ready(run, say)
    except serving.Ended as ended:
        _last_lines(ended.view)
        raise serving.failure(ended.view) from None
    if as_json:
        output.print_json("serving", words.dump(found, run.id, elsewhere=elsewhere))
        sys.stdout.flush()  # the command goes on, and somebody waits for this
    else:
        output.note(f"{run.id} is ready")
        print(words.text(found, elsewhere=elsewhere), flush=True)


def _next(run: RunPaths) -> None:
    output.next_commands(
        [
            (f"latentctl status {run.id}", "state, and how many requests it answered"),
            (f"latentctl logs {run.id} -f", "what it writes"),
            (f"latentctl cancel {run.id}", "stop it"),
        ]
    )


def _last_lines(view: RunView) -> None:
    """Of the server's own output, where there is any."""
    from latentctl.runs.logfiles import last_lines, rank_logs

    job = view.jobs[-1]
    files = rank_logs(view.run.job(job.name), attempt=job.attempt or None, streams=("out",))
    for line in last_lines(files[-1].path, _SHOWN_LINES) if files else []:
        output.note(f"  | {line}")
