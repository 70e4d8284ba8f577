"""A job that stands still is found, looked into and started again; one that is only slow is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launch_harness import LocalRun, MakeRun, job

from latentctl.faults.load import resolved
from latentctl.launch.hang import LOOKS, Still, Stillness, message
from latentctl.record.pulse import PULSE, Beat, Pulse, PulseFile
from latentctl.spec.faults import FaultsSpec

AT = Beat("sft", 7, "step", 0)


def after(stillness: Stillness, *looks: tuple[float, Beat | None]) -> list[bool]:
    return [stillness.look(beat, at) for at, beat in looks]


def test_it_takes_both_time_and_looks() -> None:
    stillness = Stillness(100)
    assert not any(after(stillness, *((float(s), AT) for s in range(100))))
    assert after(stillness, (100.0, AT)) == [True]
    quick = Stillness(100)
    assert not any(after(quick, *((s / 10, AT) for s in range(100))))  # many looks, no time


def test_a_node_that_was_suspended_does_not_hang() -> None:
    """All the time passed between two looks."""
    stillness = Stillness(100)
    assert after(stillness, (0.0, AT), (5000.0, AT)) == [False, False]
    later = [(5000.0 + 10 * n, AT) for n in range(1, LOOKS)]
    assert after(stillness, *later)[-1]  # but if it really does not go on


@pytest.mark.parametrize("moved", [AT._replace(step=8), AT._replace(work=1), AT._replace(stage="eval")])
def test_any_step_or_token_is_a_sign_of_life(moved: Beat) -> None:
    stillness = Stillness(100)
    assert not any(after(stillness, *((float(s), AT) for s in range(0, 100, 10))))
    assert not any(after(stillness, *((float(s), moved) for s in range(100, 200, 10))))
    assert stillness.look(moved, 201.0)


def test_without_a_beat_or_a_limit_nothing_is_concluded() -> None:
    assert not any(after(Stillness(100), *((float(s), None) for s in range(0, 5000, 10))))
    assert not any(after(Stillness(None), *((float(s), AT) for s in range(0, 5000, 10))))


def still(rank: int, where: str, *, waits: bool = False) -> Still:
    return Still(rank, f"n{rank}", "sft", 7, "step", 3600.0, where, waits, [where], "")


def test_the_rank_that_does_not_wait_is_the_one() -> None:
    found = {0: still(0, "d.py:1 all_max", waits=True), 1: still(1, "load.py:88 next"),
             2: still(2, "d.py:1 all_max", waits=True)}  # fmt: skip
    rank, text, lines = message(found)
    assert rank == 1
    assert text == (
        "no progress for 60 min at step 7 of stage sft: rank 1 is stuck in load.py:88 next, the others wait"
    )
    assert lines[0] == "rank 0 on n0: d.py:1 all_max (waits for others)"


@pytest.mark.parametrize(
    ("places", "stuck"),
    [
        (["a", "a", "b", "a"], 2),  # none is seen to wait: the odd one out
        (["b", "a", "a"], 0),
        (["a", "b"], None),
        (["a", "a"], None),
        (["a"], None),
    ],
)
def test_else_the_one_that_is_elsewhere(places: list[str], stuck: int | None) -> None:
    rank, text, _ = message({r: still(r, where) for r, where in enumerate(places)})
    assert rank == (stuck or 0)
    assert ("is stuck" in text) == (stuck is not None)
    if len(places) == 1:
        assert text.endswith("it is in a")


def test_ranks_that_all_wait_are_told_from_one_another_by_nothing() -> None:
    text = message({r: still(r, "d.py:1 all_max", waits=True) for r in range(3)})[1]
    assert text.endswith("no rank stands apart from the others")


def test_a_pulse_goes_from_one_process_to_the_other() -> None:
    file = PulseFile()
    assert file.read() is None
    pulse = Pulse(str(file.path))
    for beat in (Beat("a-long-stage" * 9, 1, "step", 0), AT):
        pulse.tell(beat)
        assert file.read() == beat._replace(stage=beat.stage[:80])
    file.remove()
    assert file.read() is None
    pulse.tell(AT)  # nobody listens any more
    Pulse(None).tell(AT)
    Pulse("/nowhere/pulse").tell(AT)


def test_what_a_killed_entry_left_is_swept_up() -> None:
    code = "from latentctl.record.pulse import PulseFile; print(PulseFile().path)"
    left = Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip())
    assert left.exists()
    mine = PulseFile()
    assert not left.exists()
    assert mine.path.exists()
    mine.remove()


# --- through real entries -----------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTCTL_WATCH_S", "0.05")


def with_rules(run: LocalRun) -> LocalRun:
    resolved(FaultsSpec().model_dump()).save(run.paths.faults)
    return run


@pytest.mark.usefixtures("impatient")
def test_a_stuck_rank_is_named_and_the_job_starts_again(make_run: MakeRun) -> None:
    """Its log is chatty all the while."""
    run = with_rules(make_run(job("a", tasks=3), behave={"a": [["hang_below", 2, 1]]}, hang_after=2))
    run.start_and_wait()
    assert [run.end("a", n)["exit"] for n in (1, 2)] == ["retried", "succeeded"]
    end = run.end("a", 1)
    assert (end["class"], end["rank"], end["rule"]) == ("hang", 1, "hang")
    assert (
        "no progress for 0 min at step 3 of stage sft: rank 1 is stuck in jobs/worker.py:" in end["message"]
    )
    assert "stuck, the others wait; started again (retry 1 of 3)" in end["message"]
    assert [line.split(" on ")[0] for line in end["evidence"]] == ["rank 0", "rank 1", "rank 2"]
    attempt = run.paths.job("a").attempt(1)
    stacks = [json.loads(attempt.still(rank).read_text())["stack"] for rank in range(3)]
    assert [stack[0].split()[-1] for stack in stacks] == ["wait_for_others", "stuck", "wait_for_others"]
    pid = json.loads(attempt.info.read_text())["pid"]
    assert not list(Path("/dev/shm").glob(f"latentctl-pulse-{pid}-*"))


@pytest.mark.usefixtures("impatient")
def test_who_works_between_two_steps_is_left_alone(make_run: MakeRun) -> None:
    run = make_run(job("a", tasks=2), behave={"a": [["pulses", 40]]}, hang_after=2).start_and_wait()
    assert run.state("a") == "succeeded"
    assert not list(run.paths.job("a").attempt(1).root.glob("still-*"))


@pytest.mark.usefixtures("impatient")
def test_one_rank_at_work_is_waited_for(make_run: MakeRun) -> None:
    """Rank 0 has long done its share of an evaluation, say."""
    behave = {"a": [["only", 0, "hang_for", 3], ["only", 1, "pulses", 30]]}
    run = with_rules(make_run(job("a", tasks=2), behave=behave, hang_after=1)).start_and_wait()
    assert run.state("a") == "succeeded"
    assert len(run.paths.job("a").attempts()) == 1


@pytest.mark.usefixtures("impatient")
def test_null_lets_it_stand(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["hang_for", 3]]}, hang_after=None).start_and_wait()
    assert run.state("a") == "succeeded"
    assert run.notes("a", "start")[0]["env"][PULSE] is None
