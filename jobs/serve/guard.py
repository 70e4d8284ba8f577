"""The key: who does not show it gets no further than the question whether the server is well."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from typing import Any

from latentctl.record.serving import KEY_VARIABLE

_OPEN = ("/health", "/ping")


class Guard:
    """ASGI middleware around everything, vLLM's routes outside /v1 too."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._key = _digest(os.environ[KEY_VARIABLE].encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in _OPEN or self._shown(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send)

    def _shown(self, scope: Any) -> bool:
        for name, value in scope.get("headers", ()):
            if name == b"authorization":
                scheme, _, key = value.partition(b" ")
                return scheme.lower() == b"bearer" and secrets.compare_digest(_digest(key), self._key)
        return False


async def _refuse(send: Any) -> None:
    words = f"this server asks for its key: Authorization: Bearer ${KEY_VARIABLE}"
    error = {"message": words, "type": "authentication_error", "param": None, "code": "invalid_api_key"}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
