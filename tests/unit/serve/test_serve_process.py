"""The server as a process: its port, its key, what is read from its last words."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from jobs.runtime.errors import JobUserError, classify
from jobs.serve.guard import Guard
from jobs.serve.process import DEFAULT_PORT, ServerFailed, listen, told_by


def port_of(sock: socket.socket) -> int:
    return sock.getsockname()[1]


def test_unsaid_the_port_is_the_usual_one_or_a_free_one() -> None:
    first = listen("127.0.0.1", None)
    with first, listen("127.0.0.1", None) as second:
        assert port_of(second) not in (port_of(first), 0, DEFAULT_PORT)


def test_a_port_is_ours_from_the_start_and_taken_ones_are_refused() -> None:
    """Nobody listens on it yet: the model still loads."""
    with listen("127.0.0.1", None) as ours:
        with pytest.raises(JobUserError, match=f"port {port_of(ours)}") as caught:
            listen("127.0.0.1", port_of(ours))
        assert caught.value.where == "serve.port"
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError):
                other.bind(("127.0.0.1", port_of(ours)))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(JobUserError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", None)


def test_the_error_of_the_engine_is_told_and_not_its_echoes() -> None:
    lines = [
        "(EngineCore pid=7) WARNING 11-25 22:50:01 [ulimit.py:3] can cause `OSError: [Errno 24] Too many`",
        "(EngineCore pid=7) ERROR 11-25 22:50:01 [core.py:12] Traceback (most recent call last):",
        "(EngineCore pid=7) ERROR 11-25 22:50:01 [core.py:12] torch.OutOfMemoryError: CUDA out of memory",
        "(MainProcess pid=3) RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    error = told_by(1, lines)
    assert isinstance(error, ServerFailed)
    assert str(error) == "it ended with exit code 1: torch.OutOfMemoryError: CUDA out of memory"
    assert classify(error).kind == "out_of_memory"
    assert str(told_by(-9, [])) == "it ended with signal SIGKILL"


def test_what_the_server_puts_into_words_stays_in_words() -> None:
    error = told_by(2, ["INFO ...", "error: no model there", "hint: look elsewhere"])
    assert isinstance(error, JobUserError)
    assert (error.message, error.hint) == ("no model there", "look elsewhere")


def asked(guard: Guard, path: str, header: str | None, kind: str = "http") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    headers = [] if header is None else [(b"authorization", header.encode())]
    asyncio.run(guard({"type": kind, "path": path, "headers": headers}, receive, send))
    return sent


def test_only_the_health_is_told_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTCTL_API_KEY", "open-sesame")
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope.get("path", scope["type"]))

    guard = Guard(app)
    for header in (None, "Bearer wrong", "Basic open-sesame", "Bearer", "Bearer open-sesame2"):
        for path in ("/v1/models", "/invocations", "/tokenize", "/metrics", "/health/../v1/models"):
            assert asked(guard, path, header)[0]["status"] == 401
        assert asked(guard, "/v1/realtime", header, "websocket")[0]["type"] == "websocket.close"
    assert passed == []
    asked(guard, "/health", None)
    asked(guard, "/v1/models", "bearer open-sesame")
    assert passed == ["/health", "/v1/models"]
