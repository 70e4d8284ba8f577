"""Many runs at once while everything that can be killed is killed: nothing runs twice, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from launch_harness import LocalRun, MakeRun, eventually, job

from latentctl.launch.processes import of_run
from latentctl.record.atomic import try_read_json
from latentctl.record.lease import last_owner

SEED = int(os.environ.get("LATENTCTL_SOAK_SEED", "0")) or random.randrange(1 << 30)
SECONDS = float(os.environ.get("LATENTCTL_SOAK_SECONDS", "25"))


def hurt(run: LocalRun, rng: random.Random) -> str:
    """Do one bad thing to a run. Returns what."""
    what = rng.choice(["supervisor", "controller", "entry", "worker", "cancel", "submit", "nothing"])
    info = next((try_read_json(a.info) for a in reversed(run.paths.job("a").attempts())), None) or {}
    owner = last_owner(run.paths.supervisor_lease)
    found = of_run(run.paths.root)
    if what == "supervisor" and owner is not None and owner.alive():
        os.kill(owner.pid, signal.SIGKILL)
    elif what in ("controller", "entry", "worker"):
        victims = [
            p
            for p in found
            if p.entry == (what != "worker") and (p.pid == info.get("pid")) == (what == "entry")
        ]
        if victims:
            os.kill(rng.choice(victims).pid, signal.SIGKILL)
    elif what == "cancel":
        run.executor.cancel(run.paths, [])
    elif what == "submit":
        run.submit()
    return what


@pytest.mark.slow
def test_whatever_is_killed_nothing_runs_twice_and_all_ends_well(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "3")
    with capsys.disabled():
        print(f"\nLATENTCTL_SOAK_SEED={SEED}")
    rng = random.Random(SEED)
    work = [["sleep", 0.4], ["checkpoint"]]
    runs = [
        make_run(job("a", tasks=1 + i % 2, gpus=i % 3), job("b", "a"), behave={"a": work, "b": work},
                 max_requeues=1000, signal_lead=5)
        for i in range(6)
    ]  # fmt: skip
    done: dict[str, int] = {}
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        what = hurt(rng.choice(runs), rng)
        done[what] = done.get(what, 0) + 1
        time.sleep(rng.random() * 0.4)
    handles = [run.submit() for run in runs]
    for run, handle in zip(runs, handles, strict=True):
        run.wait(handle, timeout=120)
    for run in runs:  # what was hurt last may have failed: a resubmission mends that
        run.start_and_wait(120)
    for run in runs:
        for name in ("a", "b"):  # submitted again in the moment of its success: the result counts
            assert run.state(name) in ("succeeded", "planned", "submitted"), (run.paths.root, name, done)
            assert run.paths.job(name).result.exists()
    for run in runs:
        assert not run.notes("a", "twice") + run.notes("b", "twice")
        # the supervisor is gone before the last of its processes has quite ended
        eventually(lambda root=run.paths.root: not of_run(root), f"the last process of {run.paths.id}")
        numbers = [a.number for a in run.paths.job("a").attempts()]
        assert numbers == sorted(set(numbers))
        first_b = run.notes("b", "start")[0]["time"]
        assert any(n["time"] < first_b for n in run.notes("a", "end"))
