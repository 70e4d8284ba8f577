"""A job that does not go on though nothing has failed: found, looked into, ended. Standard library alone.

Every entry watches its own worker's pulse. One that has not moved for `hang_after` of the cluster profile, in
several looks, is asked where it is (faulthandler answers SIGUSR1 on its stderr) and called still, in a file.
Only where all ranks are still the job hangs: of ranks that work apart one may be hours behind, and in a
collective all wait for one. That one stands out by what its stack says.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from latentctl.launch.ranks import Place
from latentctl.launch.worker_process import WorkerProcess
from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.journal import now
from latentctl.record.paths import AttemptPaths
from latentctl.record.plan import Plan
from latentctl.record.pulse import PULSE, Beat, PulseFile

LOOKS = 5
"""So many looks must have seen the same: of a node that was suspended one alone says nothing."""
_ANSWER_S = 5.0
_SHOWN = 12
_WAITS = ("torch/distributed/", "deepspeed/comm/", "jobs/runtime/distributed.py", "jobs/methods/peers.py",
          "jobs/rl/apart.py", "multiprocessing/connection.py")  # fmt: skip
"""Where a process waits for others."""
_OURS = ("jobs/", "plugins/")
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+|\?\?\?) in (?P<function>.+)')


def hang_after(plan: Plan) -> float | None:
    """Seconds; None: whoever stands still may do so."""
    said = plan.cluster.get("hang_after", 3600)
    return None if said is None else float(said)


class Stillness:
    """Whether a pulse has stood still for long enough, in enough looks."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._beat: Beat | None = None
        self._since = self._looked = 0.0
        self._looks = 0

    def look(self, beat: Beat | None, at: float) -> bool:
        """At `at` seconds of the monotonic clock. False before the first beat: who has begun nothing does not
        hang."""
        if self.limit is None or beat is None:
            return False
        if beat != self._beat:
            self._beat, self._since, self._looked, self._looks = beat, at, at, 0
        elif at - self._looked >= self.limit / (2 * LOOKS):
            self._looked, self._looks = at, self._looks + 1
        return self._looks >= LOOKS and at - self._since >= self.limit

    def seconds(self, at: float) -> float:
        return at - self._since


@dataclass(frozen=True)
class Still:
    """`still-<rank>.json`: a rank that does not go on."""

    rank: int
    host: str
    stage: str
    step: int
    unit: str
    seconds: float
    where: str
    """Innermost call in our code, `file:line function`, or what the process is instead."""
    waits: bool
    """For other ranks, by its stack."""
    stack: list[str]
    """Innermost call first."""
    time: str

    def save(self, attempt: AttemptPaths) -> None:
        write_json(attempt.still(self.rank), asdict(self))

    @staticmethod
    def load(attempt: AttemptPaths, rank: int) -> Still | None:
        raw = try_read_json(attempt.still(rank))
        return Still(**raw) if raw is not None else None

    def line(self) -> str:
        waits = " (waits for others)" if self.waits else ""
        return f"rank {self.rank} on {self.host}: {self.where}{waits}"


class HangWatch:
    """Of one rank's worker, from its start to its end."""

    def __init__(self, attempt: AttemptPaths, place: Place, limit: float | None) -> None:
        self._attempt, self._place = attempt, place
        self._still = Stillness(limit)
        self._said = False
        self._pulse: PulseFile | None = None
        with contextlib.suppress(OSError):  # a full /dev/shm: then nothing is concluded
            self._pulse = PulseFile() if limit is not None else None

    @property
    def environment(self) -> dict[str, str]:
        """For the worker."""
        return {PULSE: str(self._pulse.path)} if self._pulse else {}

    def look(self, worker: WorkerProcess) -> tuple[int, str, list[str]] | None:
        """Once in a while. On rank 0, where the job hangs: on which rank, in words, and the lines that show
        it. Raises OSError."""
        beat = self._pulse.read() if self._pulse else None
        at = time.monotonic()
        if beat is None or not self._still.look(beat, at):
            if self._said:  # it goes on after all
                self._attempt.still(self._place.rank).unlink(missing_ok=True)
                self._said = False
            return None
        if not self._said:
            err = self._attempt.stderr(self._place.rank)
            seconds = self._still.seconds(at)
            examine(worker, err, place=self._place, beat=beat, seconds=seconds).save(self._attempt)
            self._said = True
        return self._all_still() if self._place.rank == 0 else None

    def _all_still(self) -> tuple[int, str, list[str]] | None:
        found = {r: s for r in range(self._place.size) if (s := Still.load(self._attempt, r)) is not None}
        others = set(range(self._place.size)) - set(found)
        at_work = any(not self._attempt.rank_exit(rank).exists() for rank in others)
        return None if at_work else message(found)

    def close(self) -> None:
        if self._pulse:
            self._pulse.remove()


def examine(worker: WorkerProcess, err: Path, *, place: Place, beat: Beat, seconds: float) -> Still:
    """Ask a worker where it is. `err` is its stderr, to which it writes the stacks of all its threads."""
    stack = _stack(worker, err)
    ours = next((f for f in stack if f.startswith(_OURS)), stack[0] if stack else None)
    where = ours or _no_answer(worker.pid)
    waits = any(part in frame for frame in stack[:_SHOWN] for part in _WAITS)
    return Still(place.rank, place.host, *beat[:3], round(seconds, 1), where, waits, stack, now())


def _stack(worker: WorkerProcess, err: Path) -> list[str]:
    """Of the thread that does the work; empty where the process does not answer."""
    begin = err.stat().st_size if err.exists() else 0
    worker.tell(signal.SIGUSR1)
    end, size = time.monotonic() + _ANSWER_S, begin
    while time.monotonic() < end:
        time.sleep(0.2)
        before, size = size, err.stat().st_size if err.exists() else 0
        if size == before > begin:
            break
    if size <= begin:
        return []
    with open(err, "rb") as f:
        f.seek(begin)
        text = f.read().decode("utf-8", "replace")
    threads = [_frames(part) for part in re.split(r"\n(?=(?:Current t|T)hread 0x)", "\n" + text)]
    working = next((t for t in threads if any("jobs/worker.py" in frame for frame in t)), None)
    return working or next((t for t in threads if t), [])


def _frames(thread: str) -> list[str]:
    return [f"{_short(m['file'])}:{m['line']} {m['function']}" for m in _FRAME.finditer(thread)]


def _short(file: str) -> str:
    """Below the snapshot, or below site-packages."""
    for folder in ("/code/", "/site-packages/"):
        file = file.rpartition(folder)[2]
    return file


def _no_answer(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        state = "gone"
    what = {"T": "it was stopped by a signal", "D": "it waits in the kernel for a disk or a device"}
    return f"no answer: {what.get(state, f'process state {state}')}"


def message(found: Mapping[int, Still]) -> tuple[int, str, list[str]]:
    """Of a job that hangs: the rank that it hangs on (the first where none stands out), what to say, the
    lines that show it."""
    first = min(found.values(), key=lambda s: s.rank)
    at = f"no progress for {first.seconds / 60:.0f} min at {first.unit} {first.step} of stage {first.stage}"
    lines = [found[rank].line() for rank in sorted(found)]
    stuck = _apart(found)
    if not stuck:
        rest = "no rank stands apart from the others" if len(found) > 1 else f"it is in {first.where}"
        return first.rank, f"{at}: {rest}", lines
    names = ", ".join(map(str, stuck))
    return stuck[0], f"{at}: rank {names} is stuck in {found[stuck[0]].where}, the others wait", lines


def _apart(found: Mapping[int, Still]) -> list[int]:
    """The ranks that do not wait while others do; else those that are not where most are."""
    if len(found) < 2:
        return []
    busy = [rank for rank, still in sorted(found.items()) if not still.waits]
    if 0 < len(busy) < len(found):
        return busy
    place, count = Counter(s.where for s in found.values()).most_common(1)[0]
    return [r for r, s in sorted(found.items()) if s.where != place] if count > len(found) / 2 else []
