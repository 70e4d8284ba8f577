"""A recipe from YAML to a result on this machine: what every later command then says of it."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.e2e.conftest import Cli, losses, processes_of, wait_for_heartbeat, wait_until

pytestmark = pytest.mark.heavy


def test_a_recipe_becomes_a_result_table(finished: Cli) -> None:
    run = finished.run_dir()
    result = json.loads(next(run.glob("jobs/*/result.json")).read_text())
    score = result["stages"]["score"]
    assert score["n"] == 12
    assert 0 <= score["accuracy_ci"][0] <= score["accuracy"] <= score["accuracy_ci"][1] <= 1
    rows = [
        json.loads(x) for x in next(run.glob("jobs/*/stages/score/samples.jsonl")).read_text().splitlines()
    ]
    assert len(rows) == len({r["id"] for r in rows}) == 12
    assert sum(r["verdict"] == "correct" for r in rows) / 12 == pytest.approx(score["accuracy"])
    shown = finished("show", run.name)
    assert "ACCURACY" in shown.out
    assert "score" in shown.out


def test_status_logs_and_show_agree_that_it_succeeded(finished: Cli) -> None:
    run = finished.run_dir()
    (entry,) = [r for r in finished("status", "--all", "--json").json["data"]["runs"] if r["run"] == run.name]
    assert entry["state"] == "succeeded"
    assert finished("status", "@last", "--exit-code").code == 0
    assert finished("logs", run.name).out
    assert max(map(len, finished("status").out.splitlines())) <= 80
    assert max(map(len, finished("show", "@last").out.splitlines())) <= 80


def test_submitting_the_same_again_names_the_existing_run(finished: Cli) -> None:
    before = sorted(p.name for p in finished.runs.iterdir())
    again = finished("submit", "tiny.yaml")
    assert finished.run_dir().name in again.out + again.err
    assert "--rerun" in again.out + again.err
    assert sorted(p.name for p in finished.runs.iterdir()) == before


def test_grading_again_changes_nothing_and_needs_no_generation(finished: Cli) -> None:
    run = finished.run_dir()
    samples = next(run.glob("jobs/*/stages/score/samples.jsonl"))
    before = [json.loads(x) for x in samples.read_text().splitlines()]
    finished("grade", run.name)
    after = [json.loads(x) for x in samples.read_text().splitlines()]
    assert [(r["id"], r["verdict"]) for r in after] == [(r["id"], r["verdict"]) for r in before]


def test_a_checkpoint_is_evaluated_by_a_command_of_its_own(finished: Cli) -> None:
    run = finished.run_dir()
    done = finished(
        "eval", "--checkpoint", f"{run.name}/sft", "--dataset", "shell-game", "--limit", "5",
        "--set", "dataset.options.cups=4", "--set", "dataset.options.swaps=3",
        "--set", "sampling.max_new_tokens=40", "--set", "eval.engine=transformers", "--wait",
    )  # fmt: skip
    assert "ACCURACY" in done.out


def test_dry_run_creates_nothing_and_shows_everything(cli: Cli) -> None:
    done = cli("submit", cli.recipe(), "--dry-run")
    assert not cli.runs.exists()
    for word in ("sft", "score", "GPU-hours", "jobs.worker"):
        assert word in done.out, done


def test_ctrl_c_while_waiting_leaves_the_job_running(cli: Cli) -> None:
    process = cli.start("submit", cli.recipe(), "--wait")
    wait_until(lambda: cli.runs.exists() and any(cli.runs.glob("tiny-*/jobs/*/heartbeat.json")), 120)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 5, out + err
    assert "goes on" in err
    wait_until(lambda: any(cli.runs.glob("tiny-*/jobs/*/result.json")), 120)
    assert cli("status", "@last", "--exit-code").code == 0


def test_cancel_ends_every_process_of_the_run(cli: Cli) -> None:
    slow = cli.recipe().replace(".yaml", "")
    cli("submit", f"{slow}.yaml", "--set", "train.steps=100000")
    run = wait_for_heartbeat(cli)
    cli("cancel", run)
    wait_until(lambda: not processes_of(run), 30)
    assert cli("status", run, "--json").json["data"]["runs"][0]["state"] == "cancelled"
    assert cli("status", run, "--exit-code", code=1)


def test_a_killed_run_goes_on_with_the_same_losses_by_itself_or_by_retry(cli: Cli) -> None:
    """kill -9 of the worker in the middle, and a cancel followed by `retry`: the losses are those of the
    uninterrupted run."""
    args = ["--set", "train.steps=40", "--set", "train.save_every=10"]
    cli("submit", cli.recipe(), "--name", "whole", "--wait", *args)
    for name in ("broken", "cancelled"):
        cli("submit", "tiny.yaml", "--name", name, *args)
        metrics = f"{name}-*/jobs/*/metrics.jsonl"
        wait_until(
            lambda at=metrics: any(len(p.read_text().splitlines()) > 15 for p in cli.runs.glob(at)),
            120,
            every=0.02,
        )
        run = next(cli.runs.glob(f"{name}-*")).name
        if name == "broken":
            for pid in processes_of(run, "jobs.worker"):
                os.kill(pid, signal.SIGKILL)
        else:
            cli("cancel", run)
            wait_until(lambda it=run: not processes_of(it), 30)
            cli("retry", run)
        wait_until(lambda it=run: cli("status", it, "--exit-code", code=None).code == 0, 120)
        assert losses(cli, f"{name}-*") == losses(cli, "whole-*"), name
    (end,) = cli.runs.glob("broken-*/jobs/*/attempts/1/end.json")
    assert "killed by SIGKILL; started again (retry 1 of 3)" in json.loads(end.read_text())["message"]


def test_a_smaller_micro_batch_at_the_same_global_batch_trains_alike(cli: Cli) -> None:
    """What is done after GPU memory ran out: half the rows at a time, twice as often."""
    cli("submit", cli.recipe(), "--name", "whole", "--wait")
    cli("submit", "tiny.yaml", "--name", "small")
    run = cli.run_dir("small-")
    cli("cancel", run.name)
    wait_until(lambda: not processes_of(run.name), 30)
    (job,) = (run / "jobs").iterdir()
    (job / "adjust.json").write_text('{"micro_batch": {"sft": 4}}')
    cli("retry", run.name)
    wait_until(lambda: cli("status", run.name, "--exit-code", code=None).code == 0, 120)
    assert "stage sft: train.micro_batch 4, since it failed with more" in cli("logs", run.name).out
    whole, small = losses(cli, "whole-*"), losses(cli, "small-*")
    assert [step for step, _ in small] == [step for step, _ in whole]
    for (_, a), (_, b) in zip(small, whole, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_a_notebook_does_the_same(finished: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`latentctl.api` over the run that the command line made."""
    from latentctl import api

    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("LATENTCTL_STATE_DIR", str(finished.folder / "state"))
    monkeypatch.delenv("LATENTCTL_RUNS_DIR", raising=False)
    name = finished.run_dir().name
    assert [p.experiment.name for p in api.load("tiny.yaml").points] == ["tiny"]
    (plan,) = api.plan("tiny.yaml", ["train.steps=9"])
    assert [stage for job in plan.jobs for stage in job.stages] == ["sft", "score"]
    assert api.submit("tiny.yaml") == [name]  # the same thing as before: nothing was started
    assert {run["run"]: run["state"] for run in api.status()}[name] == "succeeded"
    assert api.wait(name[:10], timeout=5)[0]["state"] == "succeeded"
    (record,) = api.results(name)
    assert record["n"] == 12
    assert 0 <= record["accuracy"] <= 1
    with pytest.raises(api.UserError, match="no run 'nothing'"):
        api.status("nothing")


def test_a_notebook_starts_and_stops_a_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentctl import api

    monkeypatch.chdir(cli.folder)
    monkeypatch.setenv("LATENTCTL_STATE_DIR", str(cli.folder / "state"))
    cli.recipe()
    (run,) = api.submit("tiny.yaml", ["train.steps=100000"], runs_dir=cli.runs)
    assert wait_for_heartbeat(cli) == run
    assert api.wait(run, runs_dir=cli.runs, timeout=0.1)[0]["state"] == "running"
    api.cancel(run, runs_dir=cli.runs)
    wait_until(lambda: not processes_of(run), 30)
    assert api.status(run, runs_dir=cli.runs)[0]["state"] == "cancelled"
