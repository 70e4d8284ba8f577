"""The server's process: `python -m jobs.serve SERVER_JSON SOCKET_FD`, started by `jobs.serve.process`.

Exit codes: 0 stopped by a signal; 2 something that a person can mend, in words on stderr; 1 anything else.
"""

from __future__ import annotations

import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from jobs.runtime.errors import JobUserError
from jobs.serve.told import Told


def main(argv: list[str]) -> int:
    told = Told.load(Path(argv[0]))
    sock = socket.socket(fileno=int(argv[1]))
    signal.signal(signal.SIGTERM, _stopped)  # while it loads; the running server has handlers of its own
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR2])
    try:
        import uvloop

        from jobs.serve.app import serve

        uvloop.run(serve(told, sock))
    except JobUserError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        where = f"{error.where}: " if error.where else ""
        print(f"error: {where}{error.message}{hint}", file=sys.stderr, flush=True)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _stopped(_number: int, _frame: Any) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
