"""A server as a run: what is judged before it is submitted, waiting until it answers, ending it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from latentctl.errors import Exit, UserError
from latentctl.launch.observe import executor_of, handle_of, observe_one
from latentctl.launch.processes import end_all, of_run
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.record.serving import KEY_VARIABLE, Serving, loopback, read_serving
from latentctl.runs import checkpoint as checkpoints
from latentctl.runs.index import all_runs
from latentctl.runs.view import RunView

POLL_S = 0.5
SLURM_POLL_S = 5.0
"""Slurm's controller is shared: it is not asked more often."""
END_S = 30.0
"""A server of this machine that was told to stop is killed so much later."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Ended(Exception):
    """The run ended, for whatever reason."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        super().__init__(f"{view.run.id} is {view.state}")


def source(text: str, runs_dir: Path) -> tuple[str, bool]:
    """What `runs.checkpoint.resolve` makes of a directory or a run, else a Hub id; whether it is the latter.

    A Hub id looks like RUN/STAGE: it is one where no run is meant. Raises UserError with code 3.
    """
    try:
        return checkpoints.resolve(text, runs_dir), False
    except UserError as error:
        name = text.partition("/")[0]
        run = any(r.id.startswith(name) for r in all_runs(runs_dir))
        if error.kind != "not_found" or run or not _HUB_ID.fullmatch(text) or Path(text).exists():
            raise
        return text, True


def take_key(file: Path | None) -> bool:
    """The key of `file`, if given, becomes that of the environment, which jobs get. Whether there is one.

    Raises UserError where the file holds none, or one that no HTTP header can carry.
    """
    if file is not None:
        try:
            key = file.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise UserError(f"the key cannot be read: {reason}", where=str(file)) from None
        where = str(file)
    else:
        key, where = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
        if not key:
            return False
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            "there is no usable key in it: expected one line of letters, digits and signs, without blanks",
            hint="make one: openssl rand -hex 24 > FILE",
            where=where,
        )
    os.environ[KEY_VARIABLE] = key
    return True


def check_address(host: str, port: int | None, *, key: bool, here: bool) -> None:
    """Raises UserError where the server could not, or should not, listen there. `here`: on this machine."""
    if not loopback(host) and not key:
        raise UserError(
            f"on {host} other machines reach the server, and it would ask them for no key",
            hint=f"--api-key-file FILE, or set {KEY_VARIABLE}; or leave --host out",
            key="serve.host",
        )
    if not here or port is None:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}, port {port}: {error.strerror or error}",
                hint="give another --port, or none: a free one is taken",
                key="serve.port",
            ) from None


def wait_until_ready(run: RunPaths, say: Callable[[RunView], None]) -> Serving:
    """Where the server answers. `say` sees the run now and then. Raises Ended where it ended before."""
    plan = Plan.load(run.plan)
    job, stage = plan.jobs[-1].name, plan.jobs[-1].stages[-1]
    every = SLURM_POLL_S if plan.cluster.get("executor") == "slurm" else POLL_S
    asked = 0.0
    while True:
        found = read_serving(run.job(job), stage)
        if found is None or time.monotonic() - asked > every:
            if time.monotonic() - asked > every:
                asked = time.monotonic()
                view = observe_one(run)
                say(view)
                if view.done:
                    raise Ended(view)
            time.sleep(POLL_S)
        if found is not None:
            return found


def wait_until_ended(run: RunPaths) -> RunView:
    """The run once all is over."""
    while not (view := observe_one(run)).done:
        time.sleep(POLL_S)
    return view


@contextlib.contextmanager
def interrupted_alike() -> Iterator[None]:
    """TERM and a closed terminal interrupt like Ctrl-C: a server in the foreground ends with its command."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    caught = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(run: RunPaths) -> None:
    """End a server of this machine and write it down as cancelled: asked first, killed after `END_S`."""
    view = observe_one(run)
    handles = [h for h in map(handle_of, view.jobs) if h is not None]
    try:
        end_all(lambda: of_run(run.root), grace=END_S)
    finally:
        executor_of(view.plan).cancel(run, handles)


def failure(view: RunView) -> UserError:
    """Why there is no server."""
    job = view.jobs[-1]
    said = job.failure
    message = said.message if said is not None and said.message else job.why
    hint = said.hint if said is not None else None
    return UserError(
        f"{view.run.id} is {view.state}" + (f": {message}" if message else ""),
        hint=hint or f"`latentctl logs {view.run.id}` has all of its output",
        code=Exit.NEGATIVE,
    )
