"""W&B mirrors a job and is never in its way: whatever it does, the job goes on and ends in time."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs_for_tests import stage

from jobs.runtime.wandb import WandbSink, wandb_id
from latentctl.record.atomic import read_json
from latentctl.record.paths import JobPaths
from latentctl.spec.experiment import WandbSpec


class FakeRun:
    def __init__(self, fake: FakeWandb) -> None:
        self.fake = fake

    def define_metric(self, name: str, step_metric: str) -> None:
        self.fake.metrics.append((name, step_metric))

    def log(self, row: dict[str, Any]) -> None:
        self.fake.hook("log")
        self.fake.rows.append(row)

    def finish(self) -> None:
        self.fake.hook("finish")
        self.fake.finished = True


class FakeWandb:
    """Stands where the package stands; `hang` and `fail` name the call that hangs or raises."""

    def __init__(self, *, hang: str = "", fail: str = "", fail_mode: str | None = None) -> None:
        self.hang, self.fail, self.fail_mode = hang, fail, fail_mode
        self.release = threading.Event()
        self.inits: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, str]] = []
        self.finished = False

    def hook(self, call: str, mode: str | None = None) -> None:
        if self.hang == call:
            self.release.wait(30)
        if self.fail == call and self.fail_mode in (None, mode):
            raise ConnectionError("401 Unauthorized:\n  invalid API key")

    def Settings(self, **values: Any) -> SimpleNamespace:
        return SimpleNamespace(**values)

    def teardown(self) -> None:
        self.hook("teardown")

    def init(self, **kwargs: Any) -> FakeRun:
        self.inits.append(kwargs)
        self.hook("init", kwargs["mode"])
        return FakeRun(self)


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    root = tmp_path / "jobs" / "main"
    root.mkdir(parents=True)
    return JobPaths(root)


def sink(
    job: JobPaths, monkeypatch: pytest.MonkeyPatch, fake: Any, *, mode: Any = "online", **kwargs: Any
) -> WandbSink:
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return WandbSink(WandbSpec(project="p", mode=mode), run_id="r-1", job=job, config={"a": 1}, **kwargs)


def timed(work: Any) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def test_rows_arrive_with_a_step_of_their_own_per_stage(job, monkeypatch):
    s = sink(job, monkeypatch, fake := FakeWandb())
    s.log("sft", 1, {"loss": 2.0, "note": "text stays here"})
    s.log("eval", 1, {"accuracy": 0.5, "nothing": None})
    assert s.finish(10) is True
    assert fake.rows == [{"sft/loss": 2.0, "sft/step": 1}, {"eval/accuracy": 0.5, "eval/step": 1}]
    assert fake.metrics == [("sft/*", "sft/step"), ("eval/*", "eval/step")]
    assert fake.finished
    init = fake.inits[0]
    assert (init["project"], init["resume"], init["dir"], init["config"]) == (
        "p",
        "allow",
        str(job.root),
        {"a": 1},
    )


def test_one_run_per_job_across_attempts_and_no_two_runs_share_one(job, monkeypatch, tmp_path):
    ids = []
    for _ in range(3):
        sink(job, monkeypatch, fake := FakeWandb()).finish(10)
        ids.append(fake.inits[0]["id"])
    assert len(set(ids)) == 1
    assert ids[0].startswith("r-1-main-")
    other = tmp_path / "other"
    other.mkdir()
    assert wandb_id(JobPaths(other), "r-1") != ids[0]
    assert not set("/\\#?%:") & set(wandb_id(JobPaths(other), "odd/na?me:#%"))


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_hanging_wandb_costs_a_bounded_wait_at_the_end_and_nothing_before(job, monkeypatch, capsys, call):
    s = sink(job, monkeypatch, fake := FakeWandb(hang=call))
    assert timed(lambda: [s.log("sft", i, {"loss": 1.0}) for i in range(1000)]) < 1
    assert timed(lambda: s.finish(0.5)) < 5
    assert "still busy after 0.5 s" in capsys.readouterr().err
    fake.release.set()


def test_a_full_queue_drops_and_counts(job, monkeypatch, capsys):
    s = sink(job, monkeypatch, fake := FakeWandb(hang="init"), capacity=10)
    assert timed(lambda: [s.log("sft", i, {"loss": 1.0}) for i in range(500)]) < 1
    assert s.dropped == 490
    fake.release.set()
    assert s.finish(10) is False
    assert len(fake.rows) == 10
    assert "490 rows were dropped" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["log", "finish"])
def test_an_error_is_noted_once_and_ends_the_mirror_only(job, monkeypatch, capsys, call):
    s = sink(job, monkeypatch, FakeWandb(fail=call))
    for i in range(100):
        s.log("sft", i, {"loss": 1.0})
        time.sleep(0.0005)
    assert s.finish(10) is False
    err = capsys.readouterr().err
    assert err.count("given up") == 1
    assert "ConnectionError: 401 Unauthorized: invalid API key" in err
    assert "Traceback" not in err


def test_a_rejected_key_means_writing_offline(job, monkeypatch, capsys):
    s = sink(job, monkeypatch, fake := FakeWandb(fail="init", fail_mode="online"))
    s.log("sft", 1, {"loss": 1.0})
    assert s.finish(10) is True
    assert [i["mode"] for i in fake.inits] == ["online", "offline"]
    assert fake.inits[0]["id"] == fake.inits[1]["id"]
    assert len(fake.rows) == 1
    assert "writing offline" in capsys.readouterr().err


def test_a_wandb_that_is_not_installed_is_said_once(job, monkeypatch, capsys):
    s = sink(job, monkeypatch, None)  # None in sys.modules: the import fails
    s.log("sft", 1, {"loss": 1.0})
    assert s.finish(10) is False
    assert capsys.readouterr().err.count("wandb:") == 1


def test_the_environment_may_turn_it_down(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    monkeypatch.setenv("WANDB_MODE", "disabled")
    WandbSink(WandbSpec(mode="online"), run_id="r", job=job, config={}).finish(10)
    assert fake.inits[0]["mode"] == "disabled"


HANGING = """
import time
class Settings:
    def __init__(self, **values): pass
def init(**values):
    time.sleep(600)
"""


def test_a_job_with_a_hanging_wandb_ends_and_succeeds(bench, tmp_path):
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "wandb.py").write_text(HANGING)
    b = bench([stage(steps=3)], wandb={"mode": "online"})
    begin = time.monotonic()
    (done,) = b.work(env={"PYTHONPATH": f"{b.run.code}:{tmp_path / 'fakes'}"})
    assert done.code == 0
    assert time.monotonic() - begin < 30
    assert "left behind with 3 rows" in done.err
    assert read_json(b.job().result)["stages"]["count"]["counted"] == 3


def test_the_real_one_offline(bench):
    pytest.importorskip("wandb", reason="wandb is not installed")
    b = bench([stage(steps=3)], wandb={"project": "tests"})
    (done,) = b.work()
    assert done.code == 0
    assert "given up" not in done.err
    (folder,) = (b.job().root / "wandb").glob("offline-run-*")
    assert folder.name.endswith(read_json(b.job().root / "wandb.json")["id"])
    (log,) = folder.glob("run-*.wandb")
    content = log.read_bytes()
    assert b"count/loss" in content
    assert b"count/step" in content
