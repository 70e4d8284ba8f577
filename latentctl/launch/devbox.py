"""Drives the scripts of cluster/devbox: a real Slurm on this machine."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from latentctl import shipped
from latentctl.errors import Exit, UserError

DEFAULT_DIR = Path("/var/tmp/latentctl-devbox")
LINK = Path("/etc/slurm/slurm.conf")


@dataclass(frozen=True)
class Status:
    """What runs of one box."""

    folder: Path
    daemons: dict[str, bool]
    """munged, mariadbd, slurmdbd, slurmctld, slurmd.node1, ...; empty where there is no box."""

    @property
    def up(self) -> bool:
        return bool(self.daemons) and all(self.daemons.values())

    @property
    def conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def found_without_slurm_conf(self) -> bool:
        """Slurm's programs find this box by themselves."""
        return LINK.is_symlink() and LINK.resolve() == self.conf.resolve()


def up(folder: Path, *, nodes: int | None, port: int | None, install: bool) -> None:
    """Start it, or mend it if it runs. Progress goes to stderr.

    None: as it was when this box was last up; a new one has 4 nodes, from port 17000. Raises UserError.
    """
    said = {"--nodes": nodes, "--port": port}
    flags = [part for name, value in said.items() if value is not None for part in (name, str(value))]
    _script("up.sh", folder, *flags, *(["--install"] if install else []))


def down(folder: Path, *, wipe: bool) -> None:
    """Stop it; `wipe` removes its folder, accounting included. Nothing to stop is no error."""
    _script("down.sh", folder, *(["--wipe"] if wipe else []))


def status(folder: Path) -> Status:
    done = subprocess.run(
        ["bash", str(_folder() / "status.sh"), "--dir", str(folder)], capture_output=True, text=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return Status(folder, {cells[0]: cells[1] == "up" for cells in lines if len(cells) == 2})


def _folder() -> Path:
    return shipped.folder("cluster") / "devbox"


def _script(name: str, folder: Path, *flags: str) -> None:
    """Run one script with its progress on stderr; its `error:` and `hint:` lines become the UserError."""
    if os.geteuid() != 0:
        raise UserError(
            "a devbox needs root: Slurm's daemons change users",
            hint=f'sudo "$(command -v latentctl)" devbox {name.removesuffix(".sh")}',
        )
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:  # a pipe would stay open in the daemons
        process = subprocess.Popen(
            ["bash", str(_folder() / name), "--dir", str(folder), *flags],
            stdout=2,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not reach the daemons that it starts
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        stderr.seek(0)
        said = stderr.read().splitlines()
    if code != 0:
        error = next((s.removeprefix("error: ") for s in said if s.startswith("error: ")), f"{name} failed")
        hint = next((s.removeprefix("hint: ") for s in said if s.startswith("hint: ")), None)
        others = [s for s in said if s and not s.startswith(("error: ", "hint: "))]
        refused = code == 2  # before anything was touched
        raise UserError(
            "\n".join([error, *others[-5:]]),
            hint=hint,
            code=Exit.USAGE if refused else Exit.CLUSTER,
            kind="user_error" if refused else "cluster",
        )
