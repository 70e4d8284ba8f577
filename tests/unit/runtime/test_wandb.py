"""W&B mirrors a job and is never in its way: whatever it does, the job goes on and ends in time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from runs_for_tests import stage, wait_for

from jobs.runtime.wandb import WandbSink, wandb_id
from latentctl.record.atomic import read_json
from latentctl.record.paths import JobPaths
from latentctl.spec.experiment import WandbSpec

REPO = Path(__file__).resolve().parents[3]


FAKE = """
import json, os, time
told = json.loads(os.environ["FAKE_WANDB"])

def note(kind, value=None):
    with open(told["out"], "a") as f:
        f.write(json.dumps([kind, value]) + chr(10))

def hook(call, mode=None):
    if told.get("hang") == call:
        while not os.path.exists(told["out"] + ".release"):
            time.sleep(0.02)
    if told.get("fail") == call and told.get("fail_mode") in (None, mode):
        raise ConnectionError("401 Unauthorized:" + chr(10) + "  invalid API key")

class Settings:
    def __init__(self, **values): pass

class Run:
    def define_metric(self, name, step_metric): note("metric", [name, step_metric])
    def log(self, row):
        hook("log")
        note("row", row)
    def mark_preempting(self): note("preempting")
    def finish(self, exit_code):
        hook("finish")
        note("finish", exit_code)

def teardown(): note("teardown")

def init(*, settings, **values):
    note("init", values)
    hook("init", values["mode"])
    return Run()
"""
"""Stands where the package stands, in the process that talks to it."""


class Fake:
    def __init__(self, folder: Path) -> None:
        self.out = folder / "said.jsonl"

    def said(self, kind: str) -> list[Any]:
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        return [value for k, value in map(json.loads, lines) if k == kind]

    def release(self) -> None:
        Path(f"{self.out}.release").touch()


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    root = tmp_path / "jobs" / "main"
    root.mkdir(parents=True)
    return JobPaths(root)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """`fake(hang=..., fail=..., fail_mode=...)` names the call of the package that hangs or raises."""
    made = Fake(tmp_path)

    def make(**told: Any) -> Fake:
        (tmp_path / "fakes").mkdir(exist_ok=True)
        (tmp_path / "fakes" / "wandb.py").write_text(FAKE)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fakes'}:{REPO}")
        monkeypatch.setenv("FAKE_WANDB", json.dumps({"out": str(made.out), **told}))
        monkeypatch.delenv("WANDB_MODE", raising=False)
        return made

    yield make
    made.release()


def sink(job: JobPaths, *, mode: Any = "online", **kwargs: Any) -> WandbSink:
    return WandbSink(WandbSpec(project="p", mode=mode), run_id="r-1", job=job, config={"a": 1}, **kwargs)


def timed(work: Any) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def test_rows_arrive_with_a_step_of_their_own_per_stage(job, fake):
    said = fake().said
    s = sink(job)
    s.log("sft", 1, {"loss": 2.0, "note": "text stays here"})
    s.log("eval", 1, {"accuracy": 0.5, "nothing": None})
    assert s.finish(20) is True
    assert said("row") == [{"sft/loss": 2.0, "sft/step": 1}, {"eval/accuracy": 0.5, "eval/step": 1}]
    assert said("metric") == [["sft/*", "sft/step"], ["eval/*", "eval/step"]]
    assert said("finish") == [0]
    (init,) = said("init")
    assert (init["project"], init["resume"], init["dir"], init["config"]) == (
        "p",
        "allow",
        str(job.root),
        {"a": 1},
    )


def test_one_run_per_job_across_attempts_and_no_two_runs_share_one(job, fake, tmp_path):
    said = fake().said
    for _ in range(2):
        sink(job).finish(20)
    ids = [init["id"] for init in said("init")]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert ids[0].startswith("r-1-main-")
    other = tmp_path / "other"
    other.mkdir()
    assert wandb_id(JobPaths(other), "r-1") != ids[0]
    assert not set("/\\#?%:") & set(wandb_id(JobPaths(other), "odd/na?me:#%"))


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_hanging_wandb_costs_a_bounded_wait_at_the_end_and_nothing_before(job, fake, capfd, call):
    fake(hang=call)
    s = sink(job)
    assert timed(lambda: [s.log("sft", i, {"loss": 1.0}) for i in range(1000)]) < 1
    assert timed(lambda: s.finish(0.5)) < 5
    assert "still busy after 0.5 s" in capfd.readouterr().err


def test_a_full_queue_drops_and_counts(job, fake, capfd):
    made = fake(hang="init")
    s = sink(job, capacity=10)
    wait_for(lambda: made.said("init") != [])
    text = "x" * 10_000  # fills the pipe as well
    assert timed(lambda: [s.log("sft", i, {"loss": 1.0, "text": text}) for i in range(500)]) < 1
    assert s.dropped > 400
    made.release()
    assert s.finish(20) is False
    assert len(made.said("row")) == 500 - s.dropped
    assert f"{s.dropped} rows were dropped" in capfd.readouterr().err


@pytest.mark.parametrize("call", ["log", "finish"])
def test_an_error_is_noted_once_and_ends_the_mirror_only(job, fake, capfd, call):
    fake(fail=call)
    s = sink(job)
    for i in range(100):
        s.log("sft", i, {"loss": 1.0})
    assert s.finish(20) is False
    err = capfd.readouterr().err
    assert err.count("wandb:") == 1
    assert "given up" in err
    assert "ConnectionError: 401 Unauthorized: invalid API key" in err


def test_rows_after_its_death_are_nobodys_error(job, fake, capfd):
    fake(fail="init", fail_mode="offline")
    s = sink(job, mode="offline")
    wait_for(lambda: s._process is not None and s._process.poll() is not None)  # type: ignore[union-attr]
    for i in range(100):
        s.log("sft", i, {"loss": 1.0})
    wait_for(lambda: s._given_up)
    assert timed(lambda: s.finish(5)) < 2
    assert capfd.readouterr().err.count("wandb:") == 1


def test_a_rejected_key_means_writing_offline(job, fake, capfd):
    said = fake(fail="init", fail_mode="online").said
    s = sink(job)
    s.log("sft", 1, {"loss": 1.0})
    assert s.finish(20) is True
    assert [i["mode"] for i in said("init")] == ["online", "offline"]
    assert len({i["id"] for i in said("init")}) == 1
    assert len(said("teardown")) == len(said("row")) == 1
    assert "writing offline" in capfd.readouterr().err


def test_a_wandb_that_is_not_installed_is_said_once(job, fake, capfd, tmp_path):
    fake()
    (tmp_path / "fakes" / "wandb.py").write_text("raise ModuleNotFoundError('No module named wandb')")
    s = sink(job)
    s.log("sft", 1, {"loss": 1.0})
    assert s.finish(20) is False
    err = capfd.readouterr().err
    assert err.count("wandb:") == 1
    assert "No module named wandb" in err


def test_the_environment_may_turn_it_down(job, fake, monkeypatch):
    said = fake().said
    monkeypatch.setenv("WANDB_MODE", "disabled")
    sink(job).finish(20)
    assert said("init")[0]["mode"] == "disabled"


def test_a_job_with_a_hanging_wandb_ends_and_succeeds(bench, fake, tmp_path):
    fake(hang="init")
    b = bench([stage(steps=3)], wandb={"mode": "online"})
    begin = time.monotonic()
    (done,) = b.work(env={"PYTHONPATH": f"{b.run.code}:{tmp_path / 'fakes'}"})
    assert done.code == 0
    assert time.monotonic() - begin < 40
    assert "left behind" in done.err
    assert read_json(b.job().result)["stages"]["count"]["counted"] == 3


@pytest.mark.parametrize(("settings", "code"), [({"fail_at": 2}, 1), ({"signal_rank": 0}, 85)])
def test_wandb_is_told_how_the_job_ended(bench, fake, tmp_path, settings, code):
    said = fake().said
    b = bench([stage(steps=3, **settings)], wandb={})
    assert b.work(env={"PYTHONPATH": f"{b.run.code}:{tmp_path / 'fakes'}"})[0].code == code
    assert said("finish") == [code]
    assert len(said("preempting")) == (code == 85)
    assert said("row")[0] == {"count/loss": 1.0, "count/step": 1}


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
