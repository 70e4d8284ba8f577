"""The tests of parity on vLLM's V2 model runner, in a process of its own: the runner and Triton's interpreter
are chosen before vLLM is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vllm is not installed")

pytestmark = pytest.mark.heavy
HERE = Path(__file__).parent


@pytest.mark.parametrize("condition", ["gpt2", "together"])
def test_latent_steps_are_right_on_the_v2_runner_too(condition: str) -> None:
    env = os.environ | {"LATENTCTL_TEST_RUNNER": "v2"}
    tests = f"{condition} and not budget"
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-k", tests, "test_latent_parity.py"]
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\b4 passed", done.stdout), done.stdout[-400:]
