"""`latentctl explain`: of jobs that wait and of jobs that failed; Slurm's reasons in words."""

from __future__ import annotations

import pytest
from launch_harness import LocalRun, MakeRun, eventually, job
from typer.testing import CliRunner

from latentctl.cli.main import app
from latentctl.faults.load import resolved
from latentctl.launch import slurm_words
from latentctl.launch.explaining import outlook
from latentctl.launch.observe import observe_one
from tests.answers import checked


def of(run: LocalRun, name: str = "a"):
    view = observe_one(run.paths)
    return outlook(view, next(j for j in view.jobs if j.name == name))


def explained(run: LocalRun, *options: str) -> str:
    done = CliRunner().invoke(
        app, ["explain", run.paths.id, "--runs-dir", str(run.paths.root.parent), *options]
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_that_was_never_submitted_says_what_submits_it(make_run: MakeRun) -> None:
    run = make_run(job("a"))
    assert of(run).words == "it was planned and never submitted"
    assert "latentctl retry" in (of(run).hint or "")
    assert "never submitted" in explained(run)


def test_a_waiting_job_knows_its_place_in_the_queue_of_the_machine(make_run: MakeRun) -> None:
    first = make_run(job("a"), behave={"a": [["sleep", 30]]}, max_parallel=1)
    first.submit()
    first.wait_for("a", "start")
    later = []
    for _ in range(2):
        run = make_run(job("a"), job("b", "a"), max_parallel=1)
        run.submit()
        eventually(lambda run=run: "waits for one of" in of(run).words, "its place in the queue")
        later.append(run)
    assert of(later[0]).words == "waits for one of 1 places of this machine: the first in line"
    assert of(later[1]).words == "waits for one of 1 places of this machine: 1 job before it"
    assert of(later[1], "b").words == "waits for a"
    assert "1 job before it" in explained(later[1])
    said = checked(explained(later[1], "--json"))["data"]["jobs"]
    assert said[0]["outlook"]["words"].endswith("1 job before it")


def test_a_failed_job_says_rule_lines_attempts_and_what_to_do(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["exit", 3, [0]]]})
    resolved(
        {"retries": 1, "rules": [{"name": "tired", "class": "node", "patterns": ["last words"],
                                  "action": "requeue", "hint": "let it rest"}]}
    ).save(run.paths.faults)  # fmt: skip
    run.start_and_wait()
    text = explained(run)
    for words in (
        "rank 0 of attempt 2",
        ": node, rule tired",
        "ended with exit code 3; failed after 1 retry",
        "| last words",
        "hint: let it rest",
        "retried",
        "next: retry; a node that broke is left out for a while",
    ):
        assert words in text, text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "higher priority"),
        ("(Resources)", "enough nodes are free"),
        ("QOSMaxSomethingNew", "a limit of the qos is reached (QOSMaxSomethingNew)"),
        ("AssocOther", "a limit of the account is reached"),
        ("PartitionDown", "waits in a partition that is down"),
        ("ReqNodeNotAvail,_UnavailableNodes:node1", "down, drained or reserved"),
        (None, "has not looked at it yet"),
        ("Odd", "Slurm says Odd"),
    ],
)
def test_reasons_in_words(reason: str | None, words: str) -> None:
    assert words in slurm_words.waits(reason)
