"""Who may run now on this machine: GPUs and CPU slots, handed out in the order of asking across all runs.

Two queues, GPU jobs and CPU jobs, each strictly first come first served: a large job at the head is not
overtaken. Everything is a small JSON file in the user's state folder of this machine, changed under one lock;
what belongs to dead processes is taken back by whoever looks next.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from latentctl.launch.processes import of_run
from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.lease import Owner, mutex


def state_dir() -> Path:
    """`$LATENTCTL_STATE_DIR`, else the user's state folder; one folder per machine below."""
    given = os.environ.get("LATENTCTL_STATE_DIR")
    base = Path(given) if given else _user_state() / "latentctl"
    return base / socket.gethostname()


def _user_state() -> Path:
    given = os.environ.get("XDG_STATE_HOME")
    return Path(given) if given else Path.home() / ".local" / "state"


@dataclass(frozen=True)
class Ticket:
    """A place in a queue, and once `granted`, the right to run on `gpus`."""

    number: int
    token: str
    owner: Owner
    """The supervisor that asks."""
    run: str
    """The run directory: a job outlives its supervisor, and its GPUs with it."""
    job: str
    want: int
    """GPUs; 0 is the queue of CPU jobs."""
    granted: bool = False
    gpus: list[int] = field(default_factory=list)

    @property
    def lane(self) -> str:
        return "gpu" if self.want else "cpu"

    @property
    def file(self) -> str:
        """Tells what the queue needs to know, so that whoever waits far behind reads no file."""
        return f"{self.number:012d}.{self.lane}.{'runs' if self.granted else 'waits'}.{self.token}.json"

    def alive(self) -> bool:
        if self.owner.alive():
            return True
        return self.granted and bool(of_run(Path(self.run), self.job))


class Machine:
    """The queues of this machine.

    Every method is one short critical section; nothing is held in memory.
    """

    def __init__(self, folder: Path, gpus: Callable[[], Sequence[int]]) -> None:
        self._folder = folder / "tickets"
        self._last = folder / "last.json"
        self._lock_file = folder / "lock"
        self._gpus = gpus

    def ask(self, run: Path, job: str, gpus: int) -> Ticket:
        """Queue up behind everybody who asked before."""
        with mutex(self._lock_file):
            number = int(try_read_json(self._last) or 0) + 1
            write_json(self._last, number)
            ticket = Ticket(number, secrets.token_hex(4), Owner.me(), str(run), job, gpus)
            self._save(ticket)
            return ticket

    def grant(self, ticket: Ticket, *, max_parallel: int) -> Ticket | None:
        """The ticket with its GPUs if it is its turn and there is room, else None.

        CPU jobs share `max_parallel` places. Raises TimeoutError where the queues are locked for long.
        """
        if ticket.granted:
            return ticket
        here = self._gpus() if ticket.want else []  # outside of the lock: a driver may take its time
        with mutex(self._lock_file):
            if next(self._living(ticket.lane, "waits"), None) != ticket:
                return None
            running = list(self._living(ticket.lane, "runs"))
            taken = {g for t in running for g in t.gpus}
            free = [g for g in here if g not in taken]
            if len(free) < ticket.want or (ticket.want == 0 and len(running) >= max_parallel):
                return None
            granted = replace(ticket, granted=True, gpus=free[: ticket.want])
            self._save(granted)
            (self._folder / ticket.file).unlink()
            return granted

    def give_back(self, ticket: Ticket) -> None:
        """Leave the queue, or free what was granted."""
        with mutex(self._lock_file):
            for path in self._folder.glob(f"*.{ticket.token}.json"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def hold(self, run: Path, job: str, *, gpus: int, poll: float = 0.5) -> Iterator[list[int]]:
        """GPUs for a job in the foreground, waited for in the queue. CPU jobs are not kept waiting."""
        if gpus == 0:
            yield []
            return
        ticket = self.ask(run, job, gpus)
        try:
            while (granted := self.grant(ticket, max_parallel=1)) is None:
                time.sleep(poll)
            yield granted.gpus
        finally:
            self.give_back(ticket)

    def waiting_before(self, ticket: Ticket) -> int:
        """How many of the same queue stand before this one; the dead among them count until they are seen."""
        return sum(name < ticket.file for name in self._names(ticket.lane, "waits"))

    def queue(self, want: int) -> list[Ticket]:
        """Who waits where a job that wants so many GPUs waits, first come first."""
        return list(self._living("gpu" if want else "cpu", "waits"))

    def _living(self, lane: str, state: str) -> Iterator[Ticket]:
        """Tickets of the living, first come first; those of the dead on the way are taken back."""
        for name in self._names(lane, state):
            ticket = self._load(name)
            if ticket is not None and ticket.alive():
                yield ticket
            else:
                (self._folder / name).unlink(missing_ok=True)

    def _names(self, lane: str, state: str) -> list[str]:
        """File names, first come first."""
        return sorted(p.name for p in self._folder.glob(f"*.{lane}.{state}.*.json") if p.name[0] != ".")

    def _save(self, ticket: Ticket) -> None:
        write_json(self._folder / ticket.file, asdict(ticket))

    def _load(self, name: str) -> Ticket | None:
        raw = try_read_json(self._folder / name)
        return None if raw is None else Ticket(**{**raw, "owner": Owner(**raw["owner"])})
