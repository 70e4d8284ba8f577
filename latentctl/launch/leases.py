"""Who may run now on this machine: GPUs and CPU slots, handed out in the order of asking across all runs.

Two queues, GPU jobs and CPU jobs, each strictly first come first served: a large job at the head is not
overtaken. Everything is a small JSON file in the user's state folder of this machine, changed under one lock;
what belongs to dead processes is taken back by whoever looks next.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    """A place in the queue, and once `granted`, the right to run on `gpus`."""

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
    def file(self) -> str:
        return f"{self.number:012d}-{self.token}.json"

    def alive(self) -> bool:
        if self.owner.alive():
            return True
        return self.granted and bool(of_run(Path(self.run), self.job))


class Machine:
    """The queues of this machine. Every method is one short critical section; nothing is held in memory."""

    def __init__(self, folder: Path, gpus: Callable[[], Sequence[int]]) -> None:
        self.folder = folder
        self._gpus = gpus

    def ask(self, run: Path, job: str, gpus: int) -> Ticket:
        """Queue up behind everybody who asked before."""
        with self._lock():
            number = max((t.number for t in self._tickets()), default=self._last()) + 1
            write_json(self.folder / "last.json", number)
            ticket = Ticket(number, secrets.token_hex(4), Owner.me(), str(run), job, gpus)
            self._save(ticket)
            return ticket

    def grant(self, ticket: Ticket, *, max_parallel: int) -> Ticket | None:
        """The ticket with its GPUs if it is its turn and there is room, else None.

        CPU jobs share `max_parallel`.
        """
        with self._lock():
            tickets = self._living()
            lane = [t for t in tickets if bool(t.want) == bool(ticket.want)]
            if any(not t.granted and t.number < ticket.number for t in lane):
                return None
            if ticket.want == 0:
                if sum(t.granted for t in lane) >= max_parallel:
                    return None
                gpus = []
            else:
                taken = {g for t in tickets if t.granted for g in t.gpus}
                free = [g for g in self._gpus() if g not in taken]
                if len(free) < ticket.want:
                    return None
                gpus = free[: ticket.want]
            granted = Ticket(**{**vars(ticket), "granted": True, "gpus": gpus})
            self._save(granted)
            return granted

    def give_back(self, ticket: Ticket) -> None:
        """Leave the queue, or free what was granted."""
        with self._lock():
            (self.folder / "tickets" / ticket.file).unlink(missing_ok=True)

    def waiting_before(self, ticket: Ticket) -> int:
        """How many of the same queue stand before this one."""
        with self._lock():
            lane = [t for t in self._tickets() if bool(t.want) == bool(ticket.want)]
            return sum(not t.granted and t.number < ticket.number for t in lane)

    def _lock(self):
        return mutex(self.folder / "lock")

    def _last(self) -> int:
        return int(try_read_json(self.folder / "last.json") or 0)

    def _save(self, ticket: Ticket) -> None:
        write_json(self.folder / "tickets" / ticket.file, asdict(ticket))

    def _tickets(self) -> list[Ticket]:
        found = []
        for path in sorted((self.folder / "tickets").glob("*.json")):
            raw: dict[str, Any] | None = try_read_json(path)
            if raw is not None:
                found.append(Ticket(**{**raw, "owner": Owner(**raw["owner"])}))
        return found

    def _living(self) -> list[Ticket]:
        """All tickets, after those of the dead were taken back."""
        living = []
        for ticket in self._tickets():
            if ticket.alive():
                living.append(ticket)
            else:
                (self.folder / "tickets" / ticket.file).unlink(missing_ok=True)
        return living
