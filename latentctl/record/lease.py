"""A lock file with an owner who can be asked whether he still lives.

On the machine of the owner (same boot, same pid namespace) the answer is exact: the kernel knows. From
elsewhere it rests on the file's mtime, which the owner renews with `beat`; age is measured with the file
system's clock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.journal import boot_id, process_start

TTL_S = 60.0
"""An owner elsewhere who has not renewed for so long is taken for dead."""


@dataclass(frozen=True)
class Owner:
    """A process, named for ever: a reused pid has another start, a reboot another boot."""

    host: str
    boot: str
    namespace: str
    """Pid namespace: inside a container the same pid is another process."""
    pid: int
    start: str

    @property
    def id(self) -> str:
        """`pid:start:boot:host`."""
        return f"{self.pid}:{self.start}:{self.boot}:{self.host}"

    @staticmethod
    def me() -> Owner:
        return Owner.of(os.getpid())

    @staticmethod
    def of(pid: int) -> Owner:
        """A process of this machine. `start` is "0" if there is none."""
        return Owner(socket.gethostname(), boot_id(), pid_namespace(), pid, process_start(pid) or "0")

    def alive(self) -> bool | None:
        """None: cannot be told from here."""
        if (self.boot, self.namespace) != (boot_id(), pid_namespace()):
            return None
        return process_start(self.pid) == self.start


def pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


@contextlib.contextmanager
def mutex(path: Path, *, timeout: float = 30.0) -> Iterator[None]:
    """Short critical sections between processes: an flock that vanishes with its holder.

    Raises TimeoutError where somebody holds it for longer than `timeout` seconds. A file system without locks
    is no error: what is done inside is atomic by itself, the lock only orders two who do it at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    break
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path}: locked for more than {timeout:g} s") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


class Held(Exception):
    """Somebody else has the lease."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path, self.owner = path, owner
        super().__init__(f"{path}: held by pid {owner.pid} on {owner.host}")


@dataclass(frozen=True)
class Lease:
    """Held from `acquire` until `release` or the death of the process."""

    path: Path
    owner: Owner

    @staticmethod
    def acquire(path: Path, *, ttl: float = TTL_S, **info: Any) -> Lease:
        """Take the lease, from a dead owner too.

        Raises `Held`. `info` is kept in the file beside the owner.
        """
        me = Owner.me()
        with mutex(_lock(path)):
            holder = holder_of(path, ttl=ttl)
            if holder is not None and holder != me:
                raise Held(path, holder)
            write_json(path, {**info, "owner": asdict(me)})
        return Lease(path, me)

    def held(self) -> bool:
        """Still ours? On this machine nobody takes it from the living; from elsewhere, after a long stall."""
        return _owner(self.path) == self.owner

    def beat(self) -> None:
        """Renew for those who look from another machine. Raises `Held` where the lease was lost."""
        owner = _owner(self.path)
        if owner is not None and owner != self.owner:
            raise Held(self.path, owner)
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path)

    def release(self) -> None:
        """Give it back; nothing happens where it is no longer ours."""
        if not self.path.parent.is_dir():
            return
        with mutex(_lock(self.path)):
            if self.held():
                self.path.unlink(missing_ok=True)


def holder_of(path: Path, *, ttl: float = TTL_S) -> Owner | None:
    """Who holds the lease now; None if nobody does, or if he is dead."""
    owner = _owner(path)
    if owner is None:
        return None
    alive = owner.alive()
    if alive is None:
        alive = _age(path) < ttl
    return owner if alive else None


def last_owner(path: Path) -> Owner | None:
    """Who took the lease last, dead or alive; None if it was given back or never taken."""
    return _owner(path)


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _owner(path: Path) -> Owner | None:
    raw = try_read_json(path)
    return Owner(**raw["owner"]) if raw is not None else None


def _age(path: Path) -> float:
    """Seconds since the last renewal, by the clock of the file system: clocks of two machines differ."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.clock")
    try:
        renewed = path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    try:
        probe.touch()
        return probe.stat().st_mtime - renewed
    except OSError:  # a read-only or full disk: our own clock must do
        return time.time() - renewed
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
