"""What kind of failure an exception is, from the texts that the libraries really write."""

from __future__ import annotations

import errno
import gzip
import json
import zlib

import pytest

from jobs.methods.protocol import Preempted
from jobs.runtime.errors import Failure, JobUserError, classify
from latentctl.errors import UserError
from latentctl.record.attempt import StaleAttempt
from latentctl.record.paths import JobPaths


def named(name: str, text: str, base: type[Exception] = RuntimeError) -> Exception:
    return type(name, (base,), {})(text)


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] "
CASES = [
    (
        named("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        "out_of_memory",
        True,
    ),
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), "out_of_memory", True),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "out_of_memory",
        True,
    ),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: ..."
        ),
        "out_of_memory",
        True,
    ),
    (MemoryError(), "out_of_memory", True),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", True),
    (RuntimeError(GLOO + "Connection closed by peer [127.0.0.1]:43210"), "nccl", False),
    (RuntimeError(GLOO + "Connection reset by peer"), "nccl", False),
    (RuntimeError(GLOO + "writev [127.0.0.1]:43210: Broken pipe"), "nccl", False),
    (
        RuntimeError("[../unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete"),
        "nccl",
        False,
    ),
    (
        named(
            "DistBackendError",
            "NCCL error in: ...\nncclRemoteError: A call failed possibly due to a network error",
        ),
        "nccl",
        False,
    ),
    (
        named(
            "DistBackendError",
            "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, ...)",
        ),
        "nccl",
        False,
    ),
    (
        named("DistBackendError", "NCCL error: ncclSystemError: System call (socket, malloc) failed"),
        "nccl",
        True,
    ),
    (
        named("DistNetworkError", "The server socket has failed to listen: EADDRINUSE, port: 29500"),
        "nccl",
        True,
    ),
    (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "node", True),
    (RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."), "node", True),
    (RuntimeError("No CUDA-capable device is detected"), "node", True),
    (OSError(errno.ENOSPC, "No space left on device", "/scratch/x"), "disk", True),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk", True),
    (OSError(errno.ESTALE, "Stale file handle"), "disk", True),
    (OSError(errno.EROFS, "Read-only file system"), "disk", True),
    (
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file"),
        "disk",
        True,
    ),
    (
        named("SafetensorError", "Error while serializing: I/O error: No space left on device (os error 28)"),
        "disk",
        True,
    ),
    (named("SafetensorError", "Error while deserializing header: incomplete metadata"), "data", True),
    (json.JSONDecodeError("Expecting value", "x", 0), "data", True),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "data", True),
    (gzip.BadGzipFile("Not a gzipped file (b'ab')"), "data", True),
    (EOFError("Compressed file ended before the end-of-stream marker was reached"), "data", True),
    (zlib.error("Error -3 while decompressing data: invalid block type"), "data", True),
    (named("ArrowInvalid", "JSON parse error: Missing a comma in row 3", ValueError), "data", True),
    (named("LocalEntryNotFoundError", "Cannot find the requested files in the disk cache ..."), "data", True),
    (
        OSError(
            "gpt-17 is not a local folder and is not a valid model identifier listed on 'https://hugg...'"
        ),
        "user_error",
        True,
    ),
    (JobUserError("no such thing", "try that", "recipe.yaml:3"), "user_error", True),
    (UserError("no such thing", hint="try that"), "user_error", True),
    (
        StaleAttempt(JobPaths.__new__(JobPaths).__class__(__import__("pathlib").Path("j")), 1, 2),
        "preemption",
        False,
    ),
    (Preempted("at step 3"), "preemption", False),
    (KeyboardInterrupt(), "preemption", True),
    (ZeroDivisionError("division by zero"), "code", True),
    (SystemExit(3), "unknown", True),
    (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. ... might be out of shared memory"
        ),
        "out_of_memory",
        True,
    ),
    (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "data", True),
    (
        named(
            "ConnectionError",
            "HTTPSConnectionPool(host='huggingface.co', port=443): Connection reset by peer",
        ),
        "data",
        True,
    ),
    (
        named("HfHubHTTPError", "401 Client Error: Unauthorized for url: https://huggingface.co/x"),
        "user_error",
        True,
    ),
    (RuntimeError("CUDA error: device-side assert triggered"), "code", True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), "code", True),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "nccl", False),
]


@pytest.mark.parametrize(("exc", "kind", "primary"), CASES, ids=lambda v: str(v)[:40].replace("/", "."))
def test_the_class_of(exc, kind, primary):
    found = classify(exc)
    assert (found.kind, found.primary) == (kind, primary), found
    assert found.message
    assert "\n" not in found.message or kind == "user_error"
    assert kind == "user_error" or found.evidence


def test_the_evidence_shows_the_telling_line_and_the_place():
    def train() -> None:
        raise RuntimeError("something\nCUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    with pytest.raises(RuntimeError) as info:
        train()
    found = classify(info.value)
    assert found.evidence[0] == "CUDA error: out of memory"
    assert "in train: raise RuntimeError" in found.evidence[-1]
    assert found.hint is not None
    assert "micro_batch" in found.hint


def test_long_lines_are_cut():
    found = classify(ValueError("x" * 10_000))
    assert len(found.message) <= 400
    assert all(len(line) <= 400 for line in found.evidence)


def caught(raise_them) -> Failure:
    with pytest.raises(BaseException) as info:
        raise_them()
    return classify(info.value)


def test_an_error_of_the_clean_up_does_not_hide_the_first():
    def work() -> None:
        try:
            raise KeyError("the step failed")
        finally:
            raise RuntimeError(GLOO + "Connection closed by peer")

    found = caught(work)
    assert (found.kind, found.primary) == ("code", True)
    assert "the step failed" in found.message


def test_a_wrapped_error_keeps_its_class():
    def work() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as exc:
            raise RuntimeError("could not save the checkpoint") from exc

    assert caught(work).kind == "disk"


def test_what_a_user_can_mend_wins_over_what_led_to_it():
    def work() -> None:
        try:
            json.loads("{")
        except ValueError as exc:
            raise JobUserError("broken file", where="data.jsonl:1") from exc

    found = caught(work)
    assert (found.kind, found.where) == ("user_error", "data.jsonl:1")


def test_a_context_that_was_dropped_on_purpose_does_not_count():
    def work() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise ValueError("something else") from None

    assert caught(work).kind == "code"


def test_the_record_is_what_the_entry_and_the_cli_read():
    record = classify(JobUserError("no", "hint", "where")).record(3)
    assert {k: record[k] for k in ("class", "message", "rank", "primary", "hint", "where", "evidence")} == {
        "class": "user_error", "message": "no", "rank": 3, "primary": True, "hint": "hint", "where": "where",
        "evidence": ["where"],
    }  # fmt: skip
    assert json.loads(json.dumps(record)) == record
