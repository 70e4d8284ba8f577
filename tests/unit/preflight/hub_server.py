"""The Hugging Face Hub as far as downloads go, over a folder, on loopback: `<root>/models/ORG/NAME/...` and
`<root>/datasets/ORG/NAME/...`. A fake: the real one cannot be reached from tests."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(/.*)?)?$")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


class Hub(ThreadingHTTPServer):
    """`asked`: (method, path) of every request so far; `down`: every answer is 503."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[tuple[str, str]] = []
        self.down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"))

    def _answer(self, body: dict[str, Any] | None = None) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        if self.server.down:
            self._send(503, b"{}")
        elif found := _API.match(path):
            self._api(*found.groups(), body=body)
        elif found := _FILE.match(path):
            kind = "datasets" if found[1] else "models"
            self._file(self.server.root / kind / found[2] / found[4])
        else:
            self._send(404, b"{}")

    def _api(
        self,
        kind: str,
        name: str,
        what: str | None,
        _rev: str | None,
        inside: str | None,
        body: dict[str, Any] | None,
    ) -> None:
        folder = self.server.root / kind / name
        if not folder.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such repository"})
            return
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if what in ("tree", "paths-info"):
            wanted = (body or {}).get("paths")
            below = (inside or "/").strip("/")
            names = [p.relative_to(folder).as_posix() for p in files]
            rows = [
                self._row(folder, n) for n in names if n.startswith(below) and (wanted is None or n in wanted)
            ]
            self._json(rows)
        else:
            siblings = [
                {"rfilename": p.relative_to(folder).as_posix(), "size": p.stat().st_size} for p in files
            ]
            about = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False}
            self._json({**about, "disabled": False, "tags": [], "downloads": 0, "likes": 0})

    def _row(self, folder: Path, name: str) -> dict[str, Any]:
        data = (folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        data = path.read_bytes()
        more = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        asked = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            more["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._send(206, data[first : last + 1], more)
        else:
            self._send(200, data, more)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, data: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {**(more or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
