"""Heavy verbs of the CLI, run as `python -m jobs.task VERB in.json out.json` where their packages are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentctl.errors import Exit, UserError
from latentctl.record.atomic import try_read_json, write_json

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder of the packages `latentctl` and `jobs`: a checkout or site-packages."""


def run_task(
    verb: str,
    payload: dict[str, Any],
    *,
    python: str | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """What the verb answers. Its progress goes to this process's stderr.

    `python` is the profile's interpreter (ours if unsaid), `timeout` in seconds, `env` what it sees. Raises
    UserError: with the verb's own words where a person can mend it, with exit code 70 where the verb itself
    broke.
    """
    python = python or sys.executable
    with tempfile.TemporaryDirectory(prefix="latentctl-") as folder:
        source, target, code = (Path(folder) / name for name in ("in.json", "out.json", "code"))
        write_json(source, payload)
        # Another interpreter must see these two packages and nothing else of our site-packages.
        code.mkdir()
        for package in ("latentctl", "jobs"):
            (code / package).symlink_to(PACKAGES / package)
        env = {**env, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), env.get("PYTHONPATH")]))
        command = [python, "-m", "jobs.task", verb, str(source), str(target)]
        try:
            done = subprocess.run(
                command, env=env, timeout=timeout, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{verb} took longer than {timeout:g} s and was stopped", code=Exit.NEGATIVE
            ) from None
        except OSError as error:
            raise UserError(f"cannot run {python}: {error.strerror}", hint="latentctl doctor") from None
        return _answer(verb, python, done.returncode, target)


def _answer(verb: str, python: str, code: int, target: Path) -> dict[str, Any]:
    answer = try_read_json(target)
    if isinstance(answer, dict) and "error" not in answer and code == 0:
        return answer
    error = (answer or {}).get("error")
    if error is None:
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        raise UserError(
            f"{verb} ended without an answer ({how})",
            hint=f"what it said stands above; `latentctl doctor` checks {python}",
            code=Exit.BUG,
        )
    raise UserError(
        error["message"],
        hint=error.get("hint"),
        where=error.get("where"),
        code=Exit(error.get("exit") or Exit.USAGE),
    )
