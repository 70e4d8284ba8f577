"""Real daemons: a server as a Slurm job, asked from this machine, and ended by `latentctl cancel`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import REPO, Cli, make_cli, wait_until

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.heavy,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]
KEY = "a-key-of-the-slurm-tests"


@pytest.fixture
def cli(tmp_path: Path, devbox) -> Cli:
    made = make_cli(tmp_path)
    made.env["SLURM_CONF"] = str(devbox.conf)
    sys.path.insert(0, str(REPO / "tests" / "vllm"))
    try:
        from serving import checkpoint
    finally:
        sys.path.pop(0)
    checkpoint(tmp_path / "thinker")
    return made


def test_a_server_on_a_node_answers_here_until_it_is_cancelled(cli: Cli) -> None:
    import openai

    options = ("--cluster", "devbox", "--gpus", "0", "--time", "15m", "--model-name", "small")
    run = None
    try:
        said = cli("serve", "thinker", *options, "--json", LATENTCTL_API_KEY=KEY, timeout=400).json["data"]
        run = said["run"]
        assert said["model"] == "small"
        assert said["node"].startswith("node")
        assert said["tunnel"] == f"ssh -N -L {said['port']}:127.0.0.1:{said['port']} {said['node']}"
        assert said["base_url"] == f"http://127.0.0.1:{said['port']}/v1"  # its nodes are this machine

        client = openai.OpenAI(base_url=said["base_url"], api_key=KEY, max_retries=0)
        got = client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "hello"}], max_tokens=12
        )
        assert got.usage is not None
        assert got.usage.completion_tokens == 12
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="another").models.list()
        held = cli.runs / run
        assert not [p for p in held.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]

        (row,) = cli("status", run, "--json").json["data"]["runs"]
        assert row["state"] == "running"
        beat = held / "jobs/serve/heartbeat.json"
        wait_until(lambda: json.loads(beat.read_text())["step"] == 1, 30)
        assert "POST /v1/chat/completions" in cli("logs", run).out

        cli("cancel", run)
        wait_until(lambda: _gone(client), 60)
        (row,) = cli("status", run, "--json").json["data"]["runs"]
        assert row["state"] == "cancelled"
    finally:
        for left in [run] if run else [p.name for p in cli.runs.glob("serve-*")]:
            cli("cancel", left, code=None)


def test_at_its_time_limit_a_server_has_done_what_it_was_asked_for(cli: Cli) -> None:
    options = ("--cluster", "devbox", "--gpus", "0", "--time", "2m")
    run = cli("serve", "thinker", *options, "--json", timeout=300).json["data"]["run"]
    slurm_id = json.loads((cli.runs / run / "jobs/serve/attempts/1/attempt.json").read_text())["id"]
    subprocess.run(["scancel", "--signal=USR2", str(slurm_id)], env=cli.env, check=True)  # as Slurm would
    wait_until(lambda: cli("status", run, "--exit-code", code=None).code != 8, 60, every=0.5)
    assert cli("status", run, "--exit-code", code=None).code == 0, cli("logs", run).out[-2000:]
    result = json.loads((cli.runs / run / "jobs/serve/result.json").read_text())["stages"]["serve"]
    assert result["requests"] == 0
    assert result["served_seconds"] > 0


def _gone(client) -> bool:
    import openai

    try:
        client.models.list()
    except openai.APIConnectionError:
        return True
    return False
