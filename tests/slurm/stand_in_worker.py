"""A worker without torch: jobs/worker.py of a made-up snapshot. `behave.json` of the run says what it does.

{"<job>": {"do": "meet" | "hang" | "fail" | "checkpoint" | "break", "rank": 1, "says": "..."}}
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

run, job, attempt = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
here = run / "jobs" / job
behave = json.loads((run / "behave.json").read_text())[job]
stop = []
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda n, _: stop.append(signal.Signals(n).name))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2, signal.SIGTERM])


def finish() -> None:
    print(json.dumps({"env": dict(os.environ), "module": __file__}), flush=True)
    print(f"rank {rank} of {world} is done", file=sys.stderr, flush=True)
    if rank == 0:
        (here / "result.json").write_text(json.dumps({"attempt": attempt, "stages": {}}))
    sys.exit(0)


def meet() -> None:
    """Every rank reaches rank 0 at MASTER_ADDR:MASTER_PORT."""
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank == 0:
        with socket.create_server(address) as server:
            server.settimeout(60)
            links = [server.accept()[0] for _ in range(world - 1)]
            came = sorted(int(link.recv(16)) for link in links)
            for link in links:
                link.sendall(b"ok")
        if came != list(range(1, world)):
            sys.exit(f"expected ranks 1..{world - 1}, met {came}")
        return
    for _ in range(300):
        try:
            link = socket.create_connection(address, timeout=60)
            break
        except OSError:
            time.sleep(0.1)
    else:
        sys.exit("could not connect")
    link.sendall(str(rank).encode())
    if link.recv(2) != b"ok":
        sys.exit("no answer")


def wait(seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not stop and time.monotonic() < end:
        time.sleep(0.05)


do = behave["do"]
if do == "meet":
    meet()
    finish()
elif do == "fail":
    if rank == behave["rank"]:
        print(
            "Traceback (most recent call last):\nRuntimeError: the stand-in broke",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(1)
    wait()
    sys.exit(85)
elif do == "break":  # the first time
    if attempt > 1:
        meet()
        finish()
    if rank == behave["rank"]:
        print(behave["says"], file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL) if behave.get("killed") else sys.exit(1)
    wait()
    sys.exit(85)
elif do == "hang":
    (here / f"waiting-{rank}").touch()
    wait()
    sys.exit(85)
elif do == "checkpoint":
    saved = here / f"saved-{rank}"
    if saved.exists():
        print(f"resumed from {saved.read_text()}", flush=True)
        finish()
    (here / f"waiting-{rank}").touch()
    wait()
    saved.write_text(f"attempt {attempt} by {','.join(dict.fromkeys(stop))}")
    sys.exit(85)
