"""A checkpoint exists whole or not at all, whatever is killed when."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime import checkpoints
from jobs.runtime.checkpoints import clean, commit, prune, publish
from latentctl.record.attempt import StaleAttempt
from latentctl.record.checkpoint import Damaged, latest, load, longest, steps
from latentctl.record.paths import COMMITTED, JobPaths, StagePaths

SPEC = "a" * 64


@pytest.fixture
def stage(tmp_path: Path) -> StagePaths:
    return JobPaths(tmp_path / "jobs" / "main").stage("sft")


def fill_with(text: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text * 100)
        (folder / "state").write_text(text)

    return fill


def save(
    stage: StagePaths, step: int, text: str | None = None, *, attempt: int = 1, spec: str = SPEC
) -> None:
    text = text or f"step {step} "
    digest = hashlib.sha256((text * 100).encode()).hexdigest()
    commit(stage, step, attempt, spec, fill_with(text), {"digest": digest})


def is_whole(found: checkpoints.Checkpoint) -> bool:
    """An independent judgement: the content, not the list of files."""
    content = (found.path / "model" / "weights").read_bytes()
    return hashlib.sha256(content).hexdigest() == found.extra["digest"] and (found.path / "state").exists()


def names(stage: StagePaths) -> list[str]:
    return sorted(p.name for p in stage.checkpoints.iterdir())


def test_what_was_committed_is_found(stage):
    assert latest(stage, SPEC) is None
    save(stage, 5)
    save(stage, 100)
    found = latest(stage, SPEC)
    assert found is not None
    assert (found.step, found.attempt, found.path) == (100, 1, stage.checkpoint(100))
    assert is_whole(found)
    assert names(stage) == ["step-000005", "step-000100"]
    assert found.model == found.path / "model"


def test_it_says_how_long_it_took(stage):
    """All of it, up to the marker: the lead of the signal before a time limit follows from the longest."""
    assert longest(JobPaths(stage.root.parent.parent)) == 0
    for step, seconds in ((1, 0.3), (2, 0.05)):
        commit(stage, step, 1, SPEC, lambda folder, s=seconds: time.sleep(s))
    (stage.checkpoints / "step-000003").mkdir()  # half-written
    found = latest(stage, SPEC)
    assert found is not None
    assert 0.05 <= found.seconds < 0.3
    assert 0.3 <= longest(JobPaths(stage.root.parent.parent)) < 3


def test_a_step_beyond_six_digits_is_still_the_newest(stage):
    save(stage, 999_999)
    save(stage, 1_000_000)
    assert latest(stage, SPEC).step == 1_000_000  # type: ignore[union-attr]


def test_without_its_marker_a_checkpoint_does_not_exist(stage):
    save(stage, 1)
    save(stage, 2)
    (stage.checkpoint(2) / COMMITTED).unlink()
    assert latest(stage, SPEC).step == 1  # type: ignore[union-attr]


def cut_marker(folder: Path) -> None:
    marker = folder / COMMITTED
    marker.write_bytes(marker.read_bytes()[:20])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing file": (lambda f: (f / "model" / "weights").unlink(), "model/weights is missing"),
    "a truncated file": (lambda f: os.truncate(f / "state", 1), "state has 1 bytes of 7"),
    "a missing folder": (lambda f: shutil.rmtree(f / "model"), "model/weights is missing"),
    "a torn marker": (cut_marker, "cannot be read"),
    "an empty marker": (lambda f: (f / COMMITTED).write_text(""), "cannot be read"),
    "a marker of another form": (lambda f: (f / COMMITTED).write_text('{"files": {}}'), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(stage, capsys, damage):
    save(stage, 1)
    save(stage, 2)
    harm, says = DAMAGES[damage]
    harm(stage.checkpoint(2))
    found = latest(stage, SPEC)
    assert found is not None
    assert found.step == 1
    assert says in capsys.readouterr().err
    with pytest.raises(Damaged, match=says):
        load(stage.checkpoint(2), SPEC)


def test_a_checkpoint_of_another_spec_is_passed_over(stage, capsys):
    save(stage, 1)
    save(stage, 2, spec="b" * 64)
    assert latest(stage, SPEC).step == 1  # type: ignore[union-attr]
    assert "another spec (bbbbbbbb, this is aaaaaaaa)" in capsys.readouterr().err


def test_the_same_step_again_replaces_it(stage):
    save(stage, 3, "old")
    save(stage, 3, "new", attempt=2)
    found = latest(stage, SPEC)
    assert found is not None
    assert (found.attempt, (found.path / "state").read_text()) == (2, "new")
    assert names(stage) == ["step-000003"]


def test_a_failing_fill_leaves_nothing_behind(stage):
    save(stage, 1)

    def fill(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        commit(stage, 2, 1, SPEC, fill)
    assert names(stage) == ["step-000001"]


def test_a_left_over_attempt_commits_nothing(stage):
    job = JobPaths(stage.root.parent.parent)
    save(stage, 1)
    job.attempt(2).root.mkdir(parents=True)
    with pytest.raises(StaleAttempt):
        save(stage, 2)
    with pytest.raises(StaleAttempt):
        publish(stage, stage.model, 1, fill_with("x"))
    assert names(stage) == ["step-000001"]
    assert not stage.model.exists()


def test_prune_keeps_the_newest_and_the_named(stage):
    for step in range(1, 8):
        save(stage, step)
    assert prune(stage, last=2, keep_steps={3}) == [1, 2, 4, 5]
    assert steps(stage) == [3, 6, 7]
    assert prune(stage, last=2, keep_steps={3}) == []


def test_prune_does_not_count_a_damaged_one(stage):
    for step in (1, 2, 3):
        save(stage, step)
    (stage.checkpoint(3) / "state").unlink()
    prune(stage, last=1)
    assert latest(stage, SPEC).step == 2  # type: ignore[union-attr]


def test_prune_removes_nothing_where_nothing_is_whole(stage):
    save(stage, 1)
    (stage.checkpoint(1) / "state").unlink()
    assert prune(stage, last=1) == []
    assert stage.checkpoint(1).exists()


def test_clean_removes_what_was_never_committed_and_nothing_else(stage):
    save(stage, 1)
    checkpoints.prepare(stage, 2, 1)
    (stage.checkpoint(3)).mkdir()
    (stage.checkpoints / "notes.txt").write_text("mine")
    (stage.checkpoints / "step-best").mkdir()
    clean(stage)
    assert names(stage) == ["notes.txt", "step-000001", "step-best"]


def test_publish_replaces_a_folder_whole(stage):
    publish(stage, stage.model, 1, fill_with("one"))
    publish(stage, stage.model, 1, fill_with("two"))
    assert (stage.model / "state").read_text() == "two"
    assert [p.name for p in stage.root.iterdir()] == ["model"]


# --- crashes ----------------------------------------------------------------------------


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[StagePaths]:
    """A stage in memory where possible: a kill needs no disk, and thousands of fsyncs take long."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    yield JobPaths(folder / "jobs" / "main").stage("sft")
    shutil.rmtree(folder)


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked child. Returns its pid; the child exits 0 when it gets through."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


TOUCHES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate"}


def die_at(nth: int) -> None:
    """End this process, as SIGKILL would, at the nth operation on a file system."""
    seen = 0

    def hook(event: str, _args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in TOUCHES:
            seen += 1
            if seen == nth:
                os._exit(9)

    sys.addaudithook(hook)


def test_after_a_death_at_any_operation_there_is_a_whole_checkpoint(quick):
    """Every crash point of: commit, commit the same step again, publish again, prune."""
    stage = quick
    save(stage, 1)
    save(stage, 2)
    publish(stage, stage.model, 1, fill_with("model"))
    shutil.copytree(stage.root, pristine := stage.root.with_name("pristine"))

    def work() -> None:
        save(stage, 3, "first")
        save(stage, 3, "again")
        save(stage, 2, "older again")
        publish(stage, stage.model, 1, fill_with("newer"))
        prune(stage, last=1)

    died = 0
    for nth in range(1, 2000):
        shutil.rmtree(stage.root)
        shutil.copytree(pristine, stage.root)

        def doomed(nth: int = nth) -> None:
            die_at(nth)
            work()

        code = exit_code(in_child(doomed))
        found = latest(stage, SPEC)
        assert found is not None, f"nothing left after a death at operation {nth}"
        assert is_whole(found), nth
        assert found.step >= 2, nth
        clean(stage)
        assert latest(stage, SPEC).step == found.step  # type: ignore[union-attr]
        assert all((stage.checkpoints / n / COMMITTED).exists() and "." not in n for n in names(stage)), nth
        assert (stage.model / "state").read_text() in ("model", "newer"), nth
        assert sorted(p.name for p in stage.root.iterdir()) == ["checkpoints", "model"], nth
        if code == 0:
            break
        assert code == 9
        died += 1
    else:
        pytest.fail("it never got through")
    assert died > 60  # it did die at many places


def test_killed_at_random_moments_it_never_loses_what_it_reported(quick):
    """A writer commits and prunes without pause and says so after each; SIGKILL comes at any time."""
    stage = quick
    rng = random.Random(7)
    said, floor = stage.root.parent / "said", 0
    stage.root.mkdir(parents=True)
    for _ in range(60):
        said.write_text(str(floor))
        begin = floor

        def work(begin: int = begin) -> None:
            clean(stage)
            for step in range(begin + 1, begin + 10_000):
                save(stage, step)
                said.write_text(str(step))
                prune(stage, last=2)

        pid = in_child(work)
        time.sleep(rng.uniform(0.002, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
        found = latest(stage, SPEC)
        reported = int(said.read_text() or floor)
        if reported:
            assert found is not None
            assert is_whole(found)
            assert found.step >= reported
            floor = found.step
    assert floor > 20
