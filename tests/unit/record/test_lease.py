"""Leases: one holder; the dead are replaced at once here, and after a silence elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from latentctl.record.atomic import read_json, write_json
from latentctl.record.lease import Held, Lease, Owner, holder_of, last_owner, mutex

HOLDER = """
import sys, time
from pathlib import Path
from latentctl.record.lease import Lease
Lease.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "lease.json"


def hold(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_living_owner_keeps_it_and_a_dead_one_loses_it_at_once(path: Path) -> None:
    child = hold(path)
    with pytest.raises(Held) as raised:
        Lease.acquire(path)
    assert raised.value.owner.pid == child.pid
    assert holder_of(path) == raised.value.owner
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert holder_of(path) is None
    assert Lease.acquire(path).held()


def test_it_can_be_given_back_and_taken_again(path: Path) -> None:
    lease = Lease.acquire(path, run="r")
    assert read_json(path)["run"] == "r"
    assert Lease.acquire(path) == lease  # by the same process
    lease.release()
    lease.release()
    assert holder_of(path) is None
    assert last_owner(path) is None


def test_a_reused_pid_is_not_the_owner(path: Path) -> None:
    write_json(path, {"owner": asdict(replace(Owner.me(), start="1"))})
    assert holder_of(path) is None


def elsewhere() -> Owner:
    return replace(Owner.me(), host="elsewhere", boot="another boot", pid=1)


def test_from_another_machine_the_heartbeat_counts(path: Path) -> None:
    write_json(path, {"owner": asdict(elsewhere())})
    assert elsewhere().alive() is None
    with pytest.raises(Held):
        Lease.acquire(path, ttl=60)
    os.utime(path, (time.time() - 100, time.time() - 100))
    lease = Lease.acquire(path, ttl=60)
    assert lease.held()
    assert sorted(p.name for p in path.parent.iterdir()) == [".lease.json.lock", "lease.json"]


def test_a_beat_renews_and_notices_the_loss(path: Path) -> None:
    lease = Lease.acquire(path)
    os.utime(path, (1, 1))
    lease.beat()
    assert time.time() - path.stat().st_mtime < 60
    write_json(path, {"owner": asdict(elsewhere())})
    with pytest.raises(Held):
        lease.beat()
    assert not lease.held()
    lease.release()
    assert path.exists()  # not ours to remove


def test_of_many_who_break_a_dead_lease_one_wins(path: Path) -> None:
    child = hold(path)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    children = []
    for _ in range(6):
        code = HOLDER.replace("time.sleep(60)", "time.sleep(1.5)")
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )
    codes = [c.wait() for c in children]
    assert sorted(codes) == [0, 1, 1, 1, 1, 1]


def test_a_mutex_is_exclusive_and_has_an_end(tmp_path: Path) -> None:
    inside = threading.Event()
    leave = threading.Event()

    def holder() -> None:
        with mutex(tmp_path / "lock"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=holder)
    thread.start()
    assert inside.wait(10)
    with (
        pytest.raises(TimeoutError, match="locked for more than"),
        mutex(tmp_path / "lock", timeout=0.1),
    ):
        pass
    leave.set()
    thread.join()
    with mutex(tmp_path / "lock", timeout=1):
        pass
