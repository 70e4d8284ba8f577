"""`latentctl serve`: what it makes of its options, what it refuses, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from cli_world import World, until

from latentctl.cli import serve
from latentctl.errors import Exit, UserError
from latentctl.launch import serving
from latentctl.record.serving import Serving, loopback, read_serving
from latentctl.report import serving as words
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.load import load_mapping

LOCAL = ClusterProfile.model_validate({"name": "local", "executor": "local"})
SLURM = ClusterProfile.model_validate({"name": "big", "executor": "slurm", "gpus_per_node": 8, "time": "4h"})
KEY = "0123456789abcdef"


def stage(source: str, profile: ClusterProfile = LOCAL, **options: Any) -> Any:
    asked: dict[str, Any] = {"settings": {}, "gpus": None, "time": None, **options}
    (made,) = load_mapping(serve.recipe(source, Path("runs"), profile, **asked)).points[0].experiment.stages
    return made


def ready(**changes: Any) -> Serving:
    held: dict[str, Any] = {
        "attempt": 1, "node": "node7", "host": "127.0.0.1", "port": 8000, "model": "m", "api_key": False,
        "latent": None, "unasked": "on", "example": {"prompt": "What is 7 times 8?\n"}, "time": "",
    }  # fmt: skip
    return Serving(**{**held, **changes})


def test_the_options_become_a_stage() -> None:
    made = stage(
        "some/model", settings={"port": 8001, "unasked": "off", "host": "127.0.0.1", "max_len": None}
    )
    assert (made.method, made.model.path, made.from_, made.dataset) == ("serve", "some/model", "model", None)
    assert (made.serve.port, made.serve.unasked, made.serve.api_key) == (8001, "off", False)


def test_here_a_server_runs_until_it_is_stopped_and_on_a_cluster_as_long_as_jobs_do() -> None:
    assert stage("some/model").resources.time == serve.LOCAL_TIME_S
    assert stage("some/model", time="2h").resources.time == 7200
    assert stage("some/model", SLURM).resources.time is None
    short = LOCAL.model_copy(update={"max_time": 3600})
    assert stage("some/model", short).resources.time == 3600


def test_gpus_hold_the_model_together_and_one_is_taken_where_there_are_any() -> None:
    for profile, asked, gpus, parallel in ((LOCAL, None, 0, 1), (SLURM, None, 1, 1), (SLURM, 4, 4, 4)):
        made = stage("some/model", profile, gpus=asked)
        assert (made.resources.gpus, made.serve.tensor_parallel) == (gpus, parallel)


def test_a_stage_that_serves_reads_no_dataset_and_runs_on_vllm_alone() -> None:
    base = {"name": "x", "method": "serve", "model": {"path": "some/model"}, "from": "model"}
    with pytest.raises(UserError, match="dataset: does nothing"):
        load_mapping({**base, "dataset": {"name": "gsm8k"}})
    with pytest.raises(UserError, match="transformers does not serve"):
        load_mapping({**base, "serve": {"engine": "transformers"}})
    with pytest.raises(UserError, match=r"0\.0\.0\.0 is reached from other machines"):
        load_mapping({**base, "serve": {"host": "0.0.0.0"}})


def test_beyond_loopback_only_with_a_key() -> None:
    assert all(map(loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(loopback, ("0.0.0.0", "::", "10.1.1.1", "node7")))
    with pytest.raises(UserError, match="ask them for no key") as caught:
        serving.check_address("0.0.0.0", None, key=False, here=True)
    assert "--api-key-file" in str(caught.value)
    serving.check_address("0.0.0.0", None, key=True, here=True)


def test_a_port_that_is_taken_is_refused_before_a_run_is_made(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        (world.root / "m").mkdir()
        (world.root / "m" / "config.json").write_text("{}")
        done = world("serve", "m", "--port", port, code=Exit.USAGE)
    assert f"cannot listen on 127.0.0.1, port {port}" in done.err
    assert "hint: give another --port" in done.err
    assert world.run_names() == []


@pytest.mark.parametrize("content", ["", "\n", "two words", "with\x07bell", "schlüssel"])
def test_a_file_without_a_usable_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.delenv("LATENTCTL_API_KEY", raising=False)
    (tmp_path / "key").write_text(content)
    with pytest.raises(UserError, match="no usable key"):
        serving.take_key(tmp_path / "key")
    with pytest.raises(UserError, match="cannot be read"):
        serving.take_key(tmp_path / "absent")
    assert "LATENTCTL_API_KEY" not in os.environ


def test_the_key_of_a_file_reaches_the_job_through_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTCTL_API_KEY", "")
    assert serving.take_key(None) is False
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert serving.take_key(tmp_path / "key") is True
    assert os.environ["LATENTCTL_API_KEY"] == KEY
    assert serving.take_key(None) is True


def test_what_is_no_run_and_no_directory_may_be_a_hub_id(world: World) -> None:
    assert serving.source("Qwen/Qwen3-1.7B", world.runs) == ("Qwen/Qwen3-1.7B", True)
    for text in ("nothing", "a/b/c", "no/such place", "./Qwen/Qwen3"):
        with pytest.raises(UserError) as caught:
            serving.source(text, world.runs)
        assert caught.value.code == Exit.NOT_FOUND
    world("submit", "recipe.yaml", "--wait")
    (run,) = world.run_names()
    with pytest.raises(UserError, match="no stage 'nope'"):  # a run is meant: no Hub id
        serving.source(f"{run}/nope", world.runs)


def test_a_directory_that_is_no_checkpoint_is_refused(world: World) -> None:
    (world.root / "empty").mkdir()
    done = world("serve", "empty", code=Exit.NOT_FOUND)
    assert "has no config.json" in done.err
    assert world("serve", "empty", "--json", code=Exit.NOT_FOUND).json["ok"] is False


def test_a_start_that_fails_ends_with_its_error_and_the_last_lines(world: World) -> None:
    world.behave("fail")
    done = world("serve", "some/model", code=Exit.NEGATIVE)
    assert "taken as a model of the Hugging Face Hub" in done.err
    assert "  | worker of attempt 1: fail" in done.err
    assert "is failed: row 7 is broken\nhint: mend row 7" in done.err
    assert done.out == ""


def started(world: World, *options: str) -> tuple[Any, Path]:
    """`latentctl serve` on a stand-in that never ends, told that its server is ready."""
    world.behave("slow")
    process = world.popen("serve", "some/model", *options)
    until(lambda: any(world.runs.glob("serve-*/jobs/serve/heartbeat.json")))
    run = next(world.runs.glob("serve-*"))
    stage_dir = run / "jobs" / "serve" / "stages" / "serve"
    stage_dir.mkdir(parents=True, exist_ok=True)
    ready(port=8123, latent={"input": {"kind": "hidden"}}).save(stage_dir)
    return process, run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_in_the_foreground_ends_with_its_command(world: World, number: int) -> None:
    process, run = started(world)
    until(lambda: "Ctrl-C stops it" in process.stderr.readline())
    process.send_signal(number)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert out.startswith("base URL  http://127.0.0.1:8123/v1\n")
    assert "# with latent steps" in out
    assert f"stopped {run.name}" in err
    (row,) = json.loads(world("status", "--json").out)["data"]["runs"]
    assert row["state"] == "cancelled"


def test_a_detached_server_goes_on_and_is_cancelled_by_name(world: World) -> None:
    process, run = started(world, "--detach", "--json")
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    said = json.loads(out)["data"]
    assert (said["run"], said["port"], said["stop"]) == (run.name, 8123, f"latentctl cancel {run.name}")
    assert set(said["curl"]) == {"latent", "text"}
    assert f"latentctl cancel {run.name}" in err
    (row,) = json.loads(world("status", "--json").out)["data"]["runs"]
    assert row["state"] == "running"
    world("cancel", run.name)


def test_what_an_earlier_attempt_wrote_is_not_ready(tmp_path: Path) -> None:
    from latentctl.record.paths import JobPaths

    job = JobPaths(tmp_path)
    ready(attempt=1).save(job.stage("serve").root)
    assert read_serving(job, "serve") is None
    for number in (1, 2):
        job.attempt(number).root.mkdir(parents=True)
        found = read_serving(job, "serve")
        assert (found is not None) == (number == 1)


def test_the_printed_commands_can_be_pasted() -> None:
    one = ready(
        latent={"input": {"kind": "hidden"}}, example={"messages": [{"role": "user", "content": "it's"}]}
    )
    commands = words.curls(one, elsewhere=False)
    for name, latent in (("latent", None), ("text", "off")):
        parts = shlex.split(commands[name])
        body = json.loads(parts[parts.index("-d") + 1])
        assert body["messages"][0]["content"] == "it's"
        assert (body.get("vllm_xargs") or {}).get("latent") == latent
        assert "http://127.0.0.1:8000/v1/chat/completions" in parts
    off = words.curls(ready(latent={"input": {"kind": "hidden"}}, unasked="off"), elsewhere=False)
    assert '"latent": "on"' in off["latent"]
    assert "latent" not in off["text"]
    assert set(words.curls(ready(), elsewhere=False)) == {"text"}
    assert "/v1/completions" in words.curls(ready(), elsewhere=False)["text"]


def test_a_server_elsewhere_is_reached_through_a_tunnel_or_by_its_name() -> None:
    text = words.text(ready(api_key=True), elsewhere=True)
    assert "ssh -N -L 8000:127.0.0.1:8000 node7" in text
    assert "http://127.0.0.1:8000/v1" in text
    assert '"Authorization: Bearer $LATENTCTL_API_KEY"' in text
    wide = words.text(ready(host="0.0.0.0", api_key=True), elsewhere=True)
    assert "ssh" not in wide
    assert "http://node7:8000/v1" in wide
