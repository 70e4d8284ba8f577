"""The queues of one machine, without processes: who is next, and who is dead."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from latentctl.launch.leases import Machine, Ticket, state_dir
from latentctl.record.lease import Owner


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine", lambda: [0, 1, 2, 3])


def ask(machine: Machine, gpus: int, run: str = "/run") -> Ticket:
    return machine.ask(Path(run), "a", gpus)


def grant(machine: Machine, ticket: Ticket, max_parallel: int = 2) -> list[int] | None:
    granted = machine.grant(ticket, max_parallel=max_parallel)
    return None if granted is None else granted.gpus


def test_gpus_are_handed_out_in_the_order_of_asking(machine: Machine) -> None:
    first, large, small = ask(machine, 2), ask(machine, 3), ask(machine, 1)
    assert grant(machine, small) is None  # it came last
    assert grant(machine, first) == [0, 1]
    assert grant(machine, large) is None
    assert grant(machine, small) is None  # may not overtake the large one
    machine.give_back(first)
    assert grant(machine, large) == [0, 1, 2]
    assert grant(machine, small) == [3]


def test_cpu_jobs_share_a_limit_and_do_not_wait_for_gpu_jobs(machine: Machine) -> None:
    blocked = ask(machine, 9)
    cpu = [ask(machine, 0) for _ in range(3)]
    assert grant(machine, blocked) is None
    assert [grant(machine, t) for t in cpu] == [[], [], None]
    assert machine.waiting_before(cpu[2]) == 0
    assert grant(machine, cpu[2], max_parallel=3) == []


def test_who_leaves_the_queue_holds_nobody_up(machine: Machine) -> None:
    first, second = ask(machine, 4), ask(machine, 4)
    machine.give_back(first)
    machine.give_back(first)  # twice is fine
    assert grant(machine, second) == [0, 1, 2, 3]


def test_numbers_go_on_when_the_queue_was_empty(machine: Machine) -> None:
    first = ask(machine, 1)
    machine.give_back(first)
    assert ask(machine, 1).number == first.number + 1


def dead() -> Owner:
    child = subprocess.Popen(["true"])
    owner = Owner.of(child.pid)
    child.wait()
    return replace(owner, start="1")


def tamper(tmp_path: Path, ticket: Ticket, **owner: str) -> None:
    path = tmp_path / "machine" / "tickets" / ticket.file
    row = json.loads(path.read_text())
    row["owner"] |= owner
    path.write_text(json.dumps(row))


def test_tickets_of_the_dead_are_taken_back(machine: Machine, tmp_path: Path) -> None:
    running = machine.grant(ask(machine, 4, "/dead-1"), max_parallel=1)
    waiting = ask(machine, 4, "/dead-2")
    assert running is not None
    tamper(tmp_path, running, **vars(dead()))
    tamper(tmp_path, waiting, **vars(dead()))
    mine = ask(machine, 4)
    assert grant(machine, mine) == [0, 1, 2, 3]
    assert len(list((tmp_path / "machine" / "tickets").iterdir())) == 1


def test_after_a_reboot_nothing_is_leased(machine: Machine, tmp_path: Path) -> None:
    old = machine.grant(ask(machine, 4), max_parallel=1)
    assert old is not None
    tamper(tmp_path, old, boot="the boot before")
    assert grant(machine, ask(machine, 4)) == [0, 1, 2, 3]


def test_a_long_queue_costs_a_waiting_one_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    tickets = [ask(machine, 0) for _ in range(50)]
    loads = []
    load = machine._load
    monkeypatch.setattr(machine, "_load", lambda name: loads.append(name) or load(name))
    assert grant(machine, tickets[-1]) is None
    assert machine.waiting_before(tickets[-1]) == 49
    assert len(loads) == 1  # the head alone is looked at


def test_the_state_folder_is_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LATENTCTL_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_dir().parent == tmp_path / "latentctl"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_dir().parent == tmp_path / ".local" / "state" / "latentctl"
