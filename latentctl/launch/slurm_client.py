"""The only module that runs Slurm's programs. Standard library only: the entry uses it on compute nodes.

Every call has a time limit. What cannot be read is None, never a guess. Three failures are told apart:
`Unreachable` (nobody answered), `Refused` (Slurm said no), `UnknownJob` (no such id).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from latentctl.errors import Exit, UserError
from latentctl.launch import slurm_parse
from latentctl.launch.slurm_parse import JobRow
from latentctl.plan.facts import ClusterFacts

CALL_S = 30.0
"""Time limit of one call. Slurm's own MessageTimeout is 10 s by default, and some programs send twice."""


class SlurmError(UserError):
    """Code 4: Slurm could not be reached, or said no."""

    def __init__(self, message: str, *, hint: str | None = None, said: str = "") -> None:
        super().__init__(message, hint=hint, code=Exit.CLUSTER, kind="cluster")
        self.said = said
        """Slurm's own words, untouched."""


class Unreachable(SlurmError):
    """The controller did not answer; nothing is known. `uncertain`: what was asked may have been done."""

    uncertain = False


class Refused(SlurmError):
    """Slurm understood, and said no."""


class NotRunning(Refused):
    """The job has been ended, or put back into the queue, by somebody else."""


class UnknownJob(Refused):
    """There is no such job, or it is too old for the controller's memory."""


_NO_CONTACT = re.compile(
    r"unable to contact slurm controller|connection refused|connect failure|zero bytes were transmitted"
    r"|munge encode failed|protocol authentication error|could not establish a configuration source"
    r"|unable to process configuration file|slurm_persist_conn_open|problem talking to the database"
    r"|slurm backup controller in standby|slurmdbd: .*connection",
    re.IGNORECASE,
)
_TRIES, _PAUSE_S = 20, 0.5
"""For the moment at which a requeued job can be told where not to start."""
_TIMED_OUT = re.compile(r"socket timed out|timed out on send/recv|message timed? ?out", re.IGNORECASE)


@dataclass(frozen=True)
class SlurmClient:
    """Calls on one cluster: that of `conf`, else of SLURM_CONF, else the machine's own."""

    conf: str | None = None
    timeout_s: float = CALL_S

    def environment(self) -> dict[str, str]:
        """This process's environment without SLURM_* and SBATCH_*: an outer job's must not steer ours."""
        env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_"))
        }
        if conf := self.conf or os.environ.get("SLURM_CONF"):
            env["SLURM_CONF"] = conf
        return env

    def ping(self) -> None:
        """Raises Unreachable where no controller answers. Fast in both cases."""
        said = self._run(["scontrol", "ping"], check=False, merge=True)
        if "is UP" not in said:
            raise _no_contact(said or "no answer")

    # ---- jobs

    def submit(self, script: Path, *, comment: str, env: dict[str, str] | None = None) -> str:
        """Submit a batch script; the job's id. `env` is what sbatch, and through it the job, sees.

        Where the answer is lost on the way, the job is looked for by its comment before anything is said.
        Raises Refused, or Unreachable (`uncertain` where the job may exist after all).
        """
        try:
            out = self._run(["sbatch", "--parsable", str(script)], env=env)
        except Unreachable as error:
            found = self._search(comment) if error.uncertain else None
            if found is None:
                raise
            return found
        job_id = out.strip().splitlines()[-1].split(";")[0] if out.strip() else ""
        if not job_id.isdigit():
            raise Unreachable(f"sbatch answered something unexpected: {out.strip()[:200]!r}", said=out)
        return job_id

    def _search(self, comment: str, *, tries: int = 5) -> str | None:
        for attempt in range(tries):
            try:
                found = self.named(comment)
            except SlurmError:
                found = []
            if found:
                return found[-1]
            if attempt < tries - 1:
                time.sleep(2)
        return None

    def named(self, comment: str) -> list[str]:
        """Ids of this user's jobs and arrays with this comment that are not over, oldest first."""
        rows = [r for r in self.mine() if r.comment == comment and r.state not in slurm_parse.FINAL]
        return sorted({slurm_parse.base(r.id) for r in rows}, key=int)

    def mine(self) -> list[JobRow]:
        """Every job of this user that the controller remembers."""
        out = self._run([*_SQUEUE, "-u", str(os.getuid())])
        return slurm_parse.squeue(out)

    def live(self, ids: Iterable[str]) -> dict[str, JobRow]:
        """What the controller says of these jobs, in one call; those that it does not remember are absent."""
        wanted = dict.fromkeys(ids)
        if not wanted:
            return {}
        try:
            out = self._run([*_SQUEUE, "-j", _listed(wanted)])
        except UnknownJob:
            return {}
        return {row.id: row for row in slurm_parse.squeue(out) if row.id in wanted}

    def named_since(self, names: Iterable[str], since: datetime) -> dict[str, list[str]]:
        """Name -> ids of this user's jobs and arrays of that name that were submitted since then, oldest
        first: those that the controller remembers, and those of accounting where it answers."""
        wanted, local = set(names), since.astimezone().replace(tzinfo=None)  # Slurm says local times
        rows = self.mine()
        with contextlib.suppress(SlurmError):
            listed = ",".join(sorted(wanted))
            begin = local.isoformat(timespec="seconds")
            rows += slurm_parse.sacct(self._run([*_SACCT, "-S", begin, "--name", listed]))
        found: dict[str, set[str]] = {}
        for row in rows:
            if row.name in wanted and _submitted(row) >= local:
                found.setdefault(str(row.name), set()).add(slurm_parse.base(row.id))
        return {name: sorted(ids, key=int) for name, ids in found.items()}

    def starts(self, ids: Iterable[str]) -> dict[str, str]:
        """When the scheduler expects to start pending jobs, in the cluster's own time; those of which it does
        not know are absent."""
        out = self._run(["squeue", "-h", "-r", "--start", "-j", _listed(ids), "-o", "%i %S"])
        pairs = [line.split() for line in out.splitlines() if len(line.split()) == 2]
        return {job: start for job, start in pairs if start[:1].isdigit()}

    def ended(self, ids: Iterable[str]) -> dict[str, JobRow]:
        """What accounting says of these jobs, in one call. Raises SlurmError where it is down or off."""
        wanted = dict.fromkeys(ids)
        if not wanted:
            return {}
        out = self._run([*_SACCT, "-j", _listed(wanted)])
        return {row.id: row for row in slurm_parse.sacct(out) if row.id in wanted}

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs, in one call; one that is unknown or over is no error (scancel itself says nothing
        then)."""
        if ids:
            self._run(["scancel", *grouped(ids)])

    def requeue(self, job_id: str, *, without: Sequence[str] = (), wait: float = 0.0) -> None:
        """Put a running job back into the queue: Slurm ends it and starts it again, with the same id, not on
        the nodes `without` and not within `wait` seconds (which it can only be told once the job is pending
        again).

        Slurm would requeue a cancelled job as well; what somebody has ended is not brought back. Called from
        inside the job: the TERM that the requeue brings must not kill the messenger, so scontrol ignores it.
        Raises UnknownJob, NotRunning, Refused (not requeueable), Unreachable.
        """
        row = self.live([job_id]).get(job_id)
        if row is None:
            raise UnknownJob(f"there is no job {job_id}")
        if row.state != "RUNNING":
            raise NotRunning(f"job {job_id} is {row.state}, not RUNNING: it is not requeued")
        self._run(["scontrol", "requeue", job_id], before=_ignore_term)
        said = [f"ExcNodeList={','.join(without)}"] if without else []
        said += [f"StartTime=now+{round(wait)}"] if wait else []
        if said:
            self._tell(job_id, said)

    def _tell(self, job_id: str, said: Sequence[str]) -> None:
        """A job that ends and becomes pending in these seconds. Gives up in silence: it may then start on
        such a node, or so early, again, which is no worse than before."""
        update = ["scontrol", "update", f"JobId={job_id}", *said]
        for _ in range(_TRIES):
            try:
                self._run(update, before=_ignore_term)
                return
            except SlurmError:
                time.sleep(_PAUSE_S)

    # ---- the cluster

    def test_only(self, flags: Sequence[str]) -> str:
        """`sbatch --test-only`: when it would start, in Slurm's words. Raises Refused. Queues nothing."""
        command = ["sbatch", "--test-only", *flags, "--wrap", "true"]
        return self._run(command, merge=True).strip()

    def facts(self) -> ClusterFacts:
        """Partitions, limits, the user's accounts; accounting that does not answer leaves its parts None."""
        partitions = self._run(["scontrol", "--oneliner", "show", "partition"])
        nodes = self._run(["sinfo", "--noheader", "--format", slurm_parse.SINFO])
        config = self._run(["scontrol", "show", "config"])
        try:
            assoc = self._run(
                ["sacctmgr", "--readonly", "-nP", "show", "assoc", f"user={_user()}", "format=account,qos"]
            )
        except SlurmError:
            assoc = None
        return slurm_parse.facts(partitions, nodes, config, assoc)

    def nodes_of(self, partition: str) -> list[str]:
        """Names of the nodes of a partition that are not down or drained."""
        up = ["-t", "idle,allocated,mixed,completing"]
        return sorted(set(self._run(["sinfo", "-h", "-N", "-p", partition, *up, "-o", "%N"]).split()))

    def max_array_size(self) -> int | None:
        """So many elements may an array have; None where the cluster does not say."""
        settings = slurm_parse.configured(self._run(["scontrol", "show", "config"]))
        return slurm_parse.max_array_size(settings)

    def accounting(self) -> None:
        """Raises SlurmError where accounting is off or does not answer."""
        self._run(["sacct", "--parsable2", "--noheader", "--allocations", "--format", "JobID", "-S", "now"])

    # ---- one call

    def _run(
        self,
        command: list[str],
        *,
        env: dict[str, str] | None = None,
        check: bool = True,
        merge: bool = False,
        before: Callable[[], None] | None = None,
    ) -> str:
        """Standard output (with standard error if `merge`); a failure becomes one of the three errors."""
        env = self.environment() if env is None else env
        conf = env.get("SLURM_CONF")
        if conf and not Path(conf).exists():  # Slurm's programs would retry for a minute
            raise Unreachable(
                f"there is no Slurm configuration at {conf}",
                hint="SLURM_CONF, or env in the cluster profile, points there; is the cluster down?",
            )
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                env=env,
                timeout=self.timeout_s,
                stdin=subprocess.DEVNULL,
                preexec_fn=before,
            )
        except FileNotFoundError:
            raise Unreachable(
                f"{command[0]} is not installed on this machine",
                hint="run latentctl on a login node; for a Slurm on this very machine: latentctl devbox up",
            ) from None
        except subprocess.TimeoutExpired:
            error = Unreachable(
                f"{command[0]} did not answer within {self.timeout_s:g} s",
                hint="the controller is busy or unreachable; try again, or `scontrol ping`",
            )
            error.uncertain = True
            raise error from None
        said = "\n".join(p for p in (done.stderr.strip(), done.stdout.strip()) if p)
        if check and done.returncode != 0:
            raise _failure(command, said, done.returncode)
        return said if merge else done.stdout


_SQUEUE = ("squeue", "-h", "-r", "-t", "all", "-O", slurm_parse.SQUEUE)
_SACCT = ("sacct", "--parsable2", "--noheader", "--allocations", "--format", slurm_parse.SACCT)


def _listed(ids: Iterable[str]) -> str:
    """For `-j`: of elements their arrays, so that a sweep of thousands is one short list."""
    return ",".join(dict.fromkeys(slurm_parse.base(i) for i in ids))


def grouped(ids: Iterable[str]) -> list[str]:
    """As scancel takes them: `12_[3,5-7]` for elements of one array."""
    elements: dict[str, list[int]] = {}
    for job_id in dict.fromkeys(ids):
        job, _, element = job_id.partition("_")
        elements.setdefault(job, []).extend([int(element)] if element else [])
    return [job + (f"_[{_ranges(numbers)}]" if numbers else "") for job, numbers in elements.items()]


def _ranges(numbers: Sequence[int]) -> str:
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in found)


def _submitted(row: JobRow) -> datetime:
    try:
        return datetime.fromisoformat(row.submitted or "")
    except ValueError:
        return datetime.max  # not told: it counts


def _ignore_term() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _no_contact(said: str) -> Unreachable:
    if re.search(r"establish a configuration source", said, re.IGNORECASE):
        text = "Slurm is installed, but not configured on this machine (SLURM_CONF, /etc/slurm/slurm.conf)"
    else:
        text = f"Slurm cannot be reached: {slurm_parse.words(said)}"
    hint = "`scontrol ping` asks the controller; the devbox starts with `latentctl devbox up`"
    return Unreachable(text, hint=hint, said=said)


def _failure(command: Sequence[str], said: str, code: int) -> SlurmError:
    """Slurm's programs exit 1 for everything; the words tell the three cases apart."""
    name = command[0]
    if re.search(r"invalid job id", said, re.IGNORECASE):
        return UnknownJob(f"{name}: {slurm_parse.words(said)}", said=said)
    if _TIMED_OUT.search(said):
        error = _no_contact(said)
        error.uncertain = True
        return error
    if _NO_CONTACT.search(said):
        return _no_contact(said)
    return Refused(f"{name}: {slurm_parse.words(said) or f'exit {code}, without a word'}", said=said)


def requeue(job_id: str, *, without: Sequence[str] = (), wait: float = 0.0) -> None:
    """From inside a job: see `SlurmClient.requeue`."""
    SlurmClient().requeue(job_id, without=without, wait=wait)
