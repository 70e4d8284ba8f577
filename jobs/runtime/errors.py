"""Failures of a job: the error that a person can mend, and what kind an exception is. Free of torch."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from latentctl.errors import UserError
from latentctl.record.attempt import StaleAttempt
from latentctl.record.journal import now

FailureClass = Literal[
    "user_error", "out_of_memory", "nccl", "node", "disk", "data", "preemption", "code", "unknown"
]
"""`nccl` stands for every collective library, gloo too; `disk` for every storage, network ones too."""

_MAX_LINE = 400
_MAX_EVIDENCE = 8


class JobUserError(Exception):
    """Something in a job that a person can mend: shown in one line with a hint, without a traceback.

    `where` is a file (with line), a key of the recipe or a path.
    """

    def __init__(self, message: str, hint: str | None = None, where: str | None = None) -> None:
        self.message = message
        self.hint = hint
        self.where = where
        super().__init__(f"{where}: {message}" if where else message)


@dataclass(frozen=True)
class Failure:
    """Why a rank failed, with the lines that show it."""

    kind: FailureClass
    message: str
    evidence: list[str] = field(default_factory=list)
    primary: bool = True
    """False where it looks like the consequence of another rank's failure (its connection went away)."""
    hint: str | None = None
    where: str | None = None

    def record(self, rank: int) -> dict[str, Any]:
        """The content of `failure-<rank>.json`."""
        return {
            "class": self.kind,
            "message": self.message,
            "evidence": self.evidence,
            "rank": rank,
            "time": now(),
            "primary": self.primary,
            "hint": self.hint,
            "where": self.where,
        }


_TRAIN_EXTRA = {
    "torch", "transformers", "deepspeed", "datasets", "peft", "safetensors", "math_verify", "numpy",
}  # fmt: skip


@dataclass(frozen=True)
class _Rule:
    kind: FailureClass
    pattern: re.Pattern[str]
    """Searched in "ExceptionType: message", line by line."""
    primary: bool = True
    hint: str | None = None


def _rule(kind: FailureClass, pattern: str, *, primary: bool = True, hint: str | None = None) -> _Rule:
    return _Rule(kind, re.compile(pattern, re.IGNORECASE), primary, hint)


_SMALLER = (
    "training: lower train.micro_batch or train.max_len, or raise train.zero_stage; evaluation: lower "
    "eval.max_batch_tokens; or ask for more memory"
)
_NETWORK = "fetch it once where there is a network, or name a local directory or file"
_TOKEN = "a private or gated repository needs HF_TOKEN (pass_env in the cluster profile)"

# The first rule that matches decides, so what is more telling stands higher.
_RULES = (
    _rule("out_of_memory", r"\bOutOfMemoryError\b|CUDA (error: )?out of memory", hint=_SMALLER),
    _rule("out_of_memory", r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED", hint=_SMALLER),
    _rule("out_of_memory", r"DefaultCPUAllocator: (can't|not enough)|Cannot allocate memory", hint=_SMALLER),
    _rule("out_of_memory", r"\bMemoryError\b|std::bad_alloc", hint=_SMALLER),
    _rule("node", r"uncorrectable ECC|\bXid\b|fallen off the bus|GPU is lost|hardware error"),
    _rule("node", r"no CUDA-capable device|CUDA driver initialization failed|CUDA driver version is insuff"),
    _rule("node", r"CUDA error: (unknown error|device is busy|.*(unavailable|busy or unavailable))"),
    _rule("disk", r"No space left on device|Disk quota exceeded|Read-only file system|Input/output error"),
    _rule("disk", r"Stale file handle|PytorchStreamWriter failed|I/O error: .*os error (5|28|30|122)\b"),
    _rule("out_of_memory", r"out of shared memory", hint="fewer train.workers, or a larger /dev/shm"),
    _rule("out_of_memory", r"DataLoader worker .* killed by signal: Killed", hint=_SMALLER),
    _rule("data", r"LocalEntryNotFoundError|OfflineModeIsEnabled|outgoing traffic", hint=_NETWORK),
    _rule("data", r"429 Client Error|Too Many Requests", hint=_NETWORK),
    _rule("user_error", r"(401|403) Client Error|GatedRepoError|RevisionNotFoundError", hint=_TOKEN),
    _rule("data", r"HTTPS?ConnectionPool|couldn't connect to 'https://huggingface", hint=_NETWORK),
    # gloo and NCCL say these when the process on the other side is gone.
    _rule("nccl", r"Connection (closed|reset) by (remote )?peer", primary=False),
    _rule("nccl", r"ncclRemoteError|remote process exited", primary=False),
    _rule("nccl", r"gloo.*(Broken pipe|Connection refused|Socket closed)|Broken pipe.*gloo", primary=False),
    _rule("nccl", r"Watchdog caught collective|wait timeout after", primary=False),
    _rule("nccl", r"Timed out waiting.*(recv|send)", primary=False),
    _rule("nccl", r"Dist(Store|Network)Error.*(reset|closed|broken pipe|refused|recvValue)", primary=False),
    _rule("nccl", r"NCCL (error|WARN|failure)|nccl(System|Internal|UnhandledCuda|Invalid\w+)Error"),
    _rule("nccl", r"\bDist(Store|Network|Backend)?Error\b|\bgloo[/:]|Gloo connect"),
    _rule("nccl", r"EADDRINUSE|address already in use"),
    _rule("user_error", r"is not a local folder and is not a valid model identifier|RepositoryNotFoundError"),
    _rule("data", r"\b(Arrow\w+|DatasetGenerationError|DataFilesNotFoundError|DatasetNotFoundError)\b"),
    _rule("data", r"\b(UnicodeDecodeError|JSONDecodeError|BadGzipFile)\b|Error -\d+ while decompressing"),
    _rule("data", r"Compressed file ended before"),
    _rule("data", r"SafetensorError|PytorchStreamReader failed|\bUnpicklingError\b"),
    _rule("preemption", r"\b(Preempted|StaleAttempt)\b", primary=False),
)  # fmt: skip

_ERRNO: dict[int, FailureClass] = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EROFS: "disk",
    errno.EIO: "disk",
    errno.ESTALE: "disk",
    errno.EFBIG: "disk",
    errno.ENOMEM: "out_of_memory",
}


def classify(exc: BaseException) -> Failure:
    """What kind of failure an exception is.

    Looks at the exception and at those it came from: the error that a clean-up step met while another one was
    on its way (a barrier after a failed step) never hides the first.
    """
    chain = list(_chain(exc))
    found = [_one(e) for e in chain]
    telling = [f for f in found if f.primary and f.kind not in ("code", "unknown")]
    if telling:
        return telling[0]
    if not found[0].primary and (behind := next((f for f in found if f.primary), None)):
        return behind
    return found[0]


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Newest first; contexts that `raise ... from` replaced are left out, as in a traceback."""
    seen: set[int] = set()
    at: BaseException | None = exc
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _one(exc: BaseException) -> Failure:
    name = type(exc).__name__
    text = f"{name}: {exc}" if str(exc) else name
    if isinstance(exc, JobUserError):
        shown = [exc.where] if exc.where else []
        return Failure("user_error", exc.message, shown, hint=exc.hint, where=exc.where)
    if isinstance(exc, UserError):
        first = exc.problems[0]
        return Failure(
            "user_error", str(exc), [p.text() for p in exc.problems][:_MAX_EVIDENCE], hint=first.hint
        )
    if isinstance(exc, StaleAttempt):
        return Failure("preemption", str(exc), [_cut(text)], primary=False)
    if isinstance(exc, KeyboardInterrupt):
        return Failure("preemption", "interrupted", [name])
    if isinstance(exc, ModuleNotFoundError) and (exc.name or "").split(".")[0] in _TRAIN_EXTRA:
        hint = "pip install 'latentctl[train]', or name a python that has it in the cluster profile"
        message = f"{exc.name} is not installed in {sys.executable}"
        return Failure("user_error", message, [_cut(text)], hint=hint)
    if isinstance(exc, OSError) and exc.errno in _ERRNO:
        return Failure(_ERRNO[exc.errno], _first_line(text), [_cut(text), *_frames(exc)])
    for rule in _RULES:
        if line := next((li for li in text.splitlines() if rule.pattern.search(li)), None):
            return Failure(
                rule.kind,
                _first_line(text),
                [_cut(line), *_frames(exc)],
                primary=rule.primary,
                hint=rule.hint,
            )
    kind: FailureClass = "code" if isinstance(exc, Exception) else "unknown"
    return Failure(kind, _first_line(text), [*_frames(exc), _cut(text)])


def _frames(exc: BaseException) -> list[str]:
    """The last places of the traceback, outermost first, one line each."""
    frames = traceback.extract_tb(exc.__traceback__)[-3:]
    return [
        _cut(f"{Path(f.filename).name}:{f.lineno} in {f.name}" + (f": {f.line}" if f.line else ""))
        for f in frames
    ]


def _first_line(text: str) -> str:
    return _cut(next((li for li in text.splitlines() if li.strip()), text))


def _cut(line: str) -> str:
    line = line.strip()
    return line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…"
