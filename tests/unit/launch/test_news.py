"""A webhook hears of what happened, and its address is written nowhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from launch_harness import LocalRun, MakeRun, job
from pydantic import ValidationError

from latentctl.faults.load import resolved
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.faults import FaultsSpec

ALL = {"mail": None, "webhook": "LAB_CHAT", "on": ["failed", "finished", "retried"]}


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What a server on this machine was told; jobs find it through LAB_CHAT."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("LAB_CHAT", f"http://127.0.0.1:{server.server_port}/secret-path")
    yield lambda: heard
    server.shutdown()
    thread.join()
    server.server_close()


def with_rules(run: LocalRun) -> LocalRun:
    resolved(FaultsSpec().model_dump()).save(run.paths.faults)
    return run


def test_the_end_of_a_run_is_told_once(make_run: MakeRun, chat) -> None:
    run = make_run(job("a"), job("b", after=["a"]), notify=ALL, pass_env=["LAB_CHAT"]).start_and_wait()
    assert [(said["event"], said["job"]) for said in chat()] == [("finished", "b")]
    assert chat()[0]["text"] == f"{run.paths.id}: finished\nlatentctl show {run.paths.id}"
    assert chat()[0]["content"] == chat()[0]["text"]
    files = [p for p in run.paths.root.rglob("*") if p.is_file()]
    assert not [p for p in files if b"secret-path" in p.read_bytes()]


def test_a_retry_and_a_failure_for_good_are_told(make_run: MakeRun, chat) -> None:
    behave = {"a": [["fail_below", 2, "node", "node_gone"], ["fail", "it broke", True, [0]]]}
    run = with_rules(make_run(job("a"), behave=behave, notify=ALL)).start_and_wait()
    assert [(said["event"], said["attempt"]) for said in chat()] == [("retried", 1), ("failed", 2)]
    last = chat()[1]
    assert last["text"].splitlines()[:2] == [f"{run.paths.id}: job a failed", "it broke"]
    assert last["text"].endswith(f"latentctl explain {run.paths.id}")
    assert (last["class"], last["evidence"]) == ("code", ["the line"])


def test_only_what_was_asked_for(make_run: MakeRun, chat) -> None:
    make_run(job("a"), notify={**ALL, "on": ["failed"]}).start_and_wait()
    assert chat() == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:1/x", "Connection refused"),
        ("secret", "LAB_CHAT holds no address"),
        ("", "is not set"),
    ],
)
def test_a_webhook_that_does_not_answer_costs_a_line(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, address: str, why: str
) -> None:
    monkeypatch.setenv("LAB_CHAT", address)
    run = make_run(job("a"), notify=ALL).start_and_wait()
    assert run.state("a") == "succeeded"
    (log,) = run.paths.job("a").scheduler.glob("*_log.err")
    (line,) = [x for x in log.read_text().splitlines() if "nobody was notified" in x]
    assert why in line
    assert not address or address not in log.read_text()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "say whom"),
        ({"webhook": "https://hooks.example.org/x"}, "pattern"),
        ({"mail": "a b@c"}, "pattern"),
        ({"webhook": "X", "on": []}, "at least 1"),
        ({"webhook": "X", "on": ["always"]}, "'failed', 'finished' or 'retried'"),
        ({"mail": "me@example.org"}, "Slurm sends it; on this machine name a webhook"),
    ],
)
def test_a_wrong_profile_is_told_why(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClusterProfile.model_validate({"name": "x", "executor": "local", "notify": said})
