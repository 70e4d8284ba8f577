"""What happens to jobs and to the cluster under them, one bad thing after the other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from latentctl.launch import devbox as box
from latentctl.launch.slurm_client import SlurmClient, SlurmError


class Trouble:
    """On the devbox in `folder`, to the jobs of the runs in `runs`."""

    def __init__(self, folder: Path, runs: Path, rng: random.Random) -> None:
        self.folder, self.runs, self.rng = folder, runs, rng
        self.client = SlurmClient(conf=str(folder / "etc" / "slurm.conf"))
        self.counts: dict[str, int] = {}
        self.cancelled: set[str] = set()
        """Names of jobs at Slurm."""

    def once(self) -> None:
        """One bad thing, to something that runs now."""
        self._one_of({**self._to_jobs(), **self._to_the_cluster()})

    def jobs_only(self) -> None:
        self._one_of(self._to_jobs())

    def _to_jobs(self) -> dict[Callable[[], str | None], int]:
        """What may happen, with weights."""
        return {self.requeue: 8, self.usr2: 4, self.scancel: 2, self.kill_worker: 6, self.kill_entry: 3}

    def _to_the_cluster(self) -> dict[Callable[[], str | None], int]:
        return {self.node_down: 2, self.kill_slurmd: 1, self.restart_slurmctld: 1, self.restart_slurmdbd: 1}

    def _one_of(self, kinds: dict[Callable[[], str | None], int]) -> None:
        (act,) = self.rng.choices(list(kinds), list(kinds.values()))
        try:
            what = act()
        except (SlurmError, OSError, subprocess.SubprocessError):  # the daemon that it needs is down itself
            what = None
        if what is not None:
            self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1

    def mend(self) -> None:
        """Daemons and nodes are up again."""
        box.up(self.folder, nodes=None, port=None, install=False)
        for node in range(1, 5):
            self._scontrol("update", f"nodename=node{node}", "state=resume", check=False)

    # -- to jobs

    def _running(self) -> str | None:
        rows = [r for r in self.client.mine() if r.state == "RUNNING"]
        return self.rng.choice(rows).id if rows else None

    def requeue(self) -> str | None:
        """Only TERM reaches the job."""
        if job := self._running():
            self._scontrol("requeue", job, check=False)
        return job

    def usr2(self) -> str | None:
        if job := self._running():
            subprocess.run(["scancel", "--signal=USR2", job], check=True, timeout=30)
        return job

    def scancel(self) -> str | None:
        rows = [r for r in self.client.mine() if r.state in ("RUNNING", "PENDING")]
        if not rows:
            return None
        row = self.rng.choice(rows)
        self.client.cancel([row.id])
        self.cancelled.add(row.id)
        return row.id

    def _process(self, module: str) -> int | None:
        """Some python of our runs that executes `module`."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    words = Path(f"/proc/{entry.name}/cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if module.encode() in words and any(str(self.runs).encode() in w for w in words):
                    found.append(int(entry.name))
        return self.rng.choice(found) if found else None

    def _kill(self, module: str) -> str | None:
        pid = self._process(module)
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        return str(pid)

    def kill_worker(self) -> str | None:
        return self._kill("jobs.worker")

    def kill_entry(self) -> str | None:
        return self._kill("latentctl.launch.entry")

    # -- to the cluster

    def _node(self) -> str:
        return f"node{self.rng.randrange(1, 5)}"

    def node_down(self) -> str:
        node = self._node()
        self._scontrol("update", f"nodename={node}", "state=down", "reason=soak")
        time.sleep(self.rng.uniform(1, 3))
        self._scontrol("update", f"nodename={node}", "state=resume")
        return node

    def kill_slurmd(self) -> str:
        node = self._node()
        self._stop(f"run/slurmd.{node}.pid", signal.SIGKILL)
        time.sleep(self.rng.uniform(1, 4))
        self.mend()
        return node

    def restart_slurmctld(self) -> str:
        self._stop("run/slurm/slurmctld.pid", signal.SIGTERM)
        time.sleep(self.rng.uniform(0, 3))
        self.mend()
        return "slurmctld"

    def restart_slurmdbd(self) -> str:
        self._stop("run/slurm/slurmdbd.pid", signal.SIGKILL)
        time.sleep(self.rng.uniform(0, 5))
        self.mend()
        return "slurmdbd"

    def _stop(self, pid_file: str, number: signal.Signals) -> None:
        pid = int((self.folder / pid_file).read_text())
        os.kill(pid, number)
        while os.path.exists(f"/proc/{pid}/exe"):
            time.sleep(0.05)

    def _scontrol(self, *args: str, check: bool = True) -> None:
        subprocess.run(["scontrol", *args], check=check, timeout=30, capture_output=True)
