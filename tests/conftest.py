"""What every test may use, and a loud word about what could not be tested here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in the background of a script: the commands that tests start would ignore their Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips where there is none."""
    folder = Path(os.environ.get("LATENTCTL_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets here (set LATENTCTL_TEST_DATA): {folder}")
    return folder


@pytest.fixture(scope="session")
def model_outputs(real_data: Path) -> Path:
    """What models answered, with their authors' verdicts; skips where there is none."""
    folder = real_data / "model_outputs"
    if not folder.is_dir():
        pytest.skip(f"no real model outputs here: {folder}")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skips are easily overlooked; missing Slurm must not be."""
    skipped = terminalreporter.stats.get("skipped", [])
    slurm = [r for r in skipped if "/slurm/" in str(getattr(r, "nodeid", ""))]
    if slurm:
        reason = slurm[0].longrepr[2] if isinstance(slurm[0].longrepr, tuple) else str(slurm[0].longrepr)
        terminalreporter.section("REAL SLURM WAS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(slurm)} tests against real Slurm daemons were skipped: {reason}")
