"""Stands in for `jobs.worker` in the tests of launching: no torch, and it does what `behave.json` says.

A job's behaviour is a list of steps like ["sleep", 1]; at the end it writes the result and exits with 0.
"""

import faulthandler
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

run, job, attempt = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rank = int(os.environ["RANK"])
here = run / "jobs" / job
steps = json.loads((run / "behave.json").read_text()).get(job, [])
told: list[str] = []

SHOWN = (
    "PYTHONPATH",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "GOMP_SPINCOUNT",
)
SHOWN += ("LATENTCTL_PULSE",)
SHOWN += ("LATENTCTL_DATA_DIR", "FROM_PROFILE", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def note(event: str, **values: object) -> None:
    row = {
        "event": event,
        "rank": rank,
        "attempt": attempt,
        "pid": os.getpid(),
        "time": time.time(),
        **values,
    }
    with open(here / "notes.jsonl", "a") as f:
        f.write(json.dumps(row) + "\n")


def replace(path: Path, value: object) -> None:
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    tmp.write_text(json.dumps(value))
    tmp.rename(path)


def listen(deaf: bool) -> None:
    handler = signal.SIG_IGN if deaf else (lambda number, _: told.append(signal.Signals(number).name))
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR2))


def sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not told:
        time.sleep(0.01)


def pulse(step: int, work: int = 0) -> None:
    if path := os.environ.get("LATENTCTL_PULSE"):
        Path(path).write_text(json.dumps(["sft", step, "step", work]))


def stuck() -> None:
    time.sleep(600)


def wait_for_others() -> None:
    time.sleep(0.5)


def fail(message: str, primary: bool, kind: str = "code", rule: str | None = None) -> None:
    row = {
        "class": kind,
        "rule": rule,
        "message": message,
        "evidence": ["the line"],
        "rank": rank,
        "time": "",
        "primary": primary,
    }
    replace(here / "attempts" / str(attempt) / f"failure-{rank:05d}.json", row)
    sys.exit(1)


def act(word: str, *args: object) -> None:
    if word == "sleep":
        sleep(*args)
    elif word == "checkpoint" and told:  # commits a checkpoint and wants more time, if told to stop
        note("checkpoint", told=told)
        sys.exit(85)
    elif word == "commit":  # one of the given step, which took so many seconds to write
        step = here / "stages" / "s" / "checkpoints" / f"step-{args[0]:06d}"
        step.mkdir(parents=True, exist_ok=True)
        replace(step / "COMMITTED", {"seconds": args[1]})
    elif word == "hang_below" and attempt < args[0]:  # from step 3 on, on one rank; the others wait for it
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        for number in range(1, 4):
            pulse(number)
        if rank == args[1]:
            stuck()
        for _ in range(200):
            print("still here", file=sys.stderr, flush=True)
            wait_for_others()
    elif word == "hang_for":
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        pulse(1)
        time.sleep(args[0])
    elif word == "only" and rank == args[0]:
        act(*args[1:])
    elif word == "pulses":  # with or without work between two steps
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        for work in range(args[0]):
            pulse(1, work)
            time.sleep(0.1)
    elif word == "requeue_below" and attempt < args[0]:
        note("checkpoint")
        sys.exit(85)
    elif word == "exit" and rank in args[1]:
        print("step 9: 10%\rstep 9: 90%", "last words", sep="\n", file=sys.stderr, flush=True)
        os._exit(args[0])
    elif word == "kill" and rank in args[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "fail" and rank in args[2]:
        fail(*args[:2])
    elif word == "kill_below" and attempt < args[0] and rank in args[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "fail_below" and attempt < args[0]:
        fail("it failed", True, *args[1:])
    elif word == "sleep_on" and rank in args[1]:
        sleep(args[0])
    elif word == "grandchild":  # in its own session and deaf to TERM
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        note("grandchild", child=subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid)
    elif word == "no_result":
        note("end")
        sys.exit(0)


def alone(path: Path) -> None:
    """Nobody else may run this rank, or use this GPU: the kernel forgets a lock with its holder."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        note("twice", path=str(path))


here.mkdir(parents=True, exist_ok=True)
alone(here / f"rank-{rank}.lock")
for gpu in filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")):
    if rank == 0:
        alone(run.parent / f"gpu-{gpu}.lock")
listen(deaf=["deaf"] in steps)
secrets = {name: name in os.environ for name in ("SECRET", "PASSED")}
note("start", env={k: os.environ.get(k) for k in SHOWN}, cwd=os.getcwd(), path=sys.path[:2], has=secrets)
print(f"rank {rank} speaks", flush=True)
for step in steps:
    act(*step)
if rank == 0:
    replace(here / "result.json", {"attempt": attempt, "stages": {}})
note("end")
