"""`latentctl prefetch`, as a person runs it, against a Hub on loopback: what is fetched is enough for
offline jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, serving
from preflight_world import model, rows

from jobs.preflight.cached import whole
from tests.answers import checked

RECIPE = """\
name: tiny
model: lab/tiny
dataset: {name: gsm8k, path: lab/sums}
train: {steps: 1, batch: 2}
stages: [sft]
"""


@dataclass
class World:
    folder: Path
    hub: Hub
    cluster: str = "here"

    def __call__(self, *args: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        left_out = ("LATENTCTL_", "HF_", "XDG_", "TRANSFORMERS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        done = subprocess.run(
            [sys.executable, "-m", "latentctl.cli.main", *args],
            cwd=self.folder,
            env={
                **kept,
                "HOME": str(self.folder),
                "HF_ENDPOINT": self.hub.url,
                "HF_HUB_ETAG_TIMEOUT": "2",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def prefetch(self, *args: str, code: int = 0, **env: str) -> dict[str, Any]:
        found = self("prefetch", "tiny.yaml", "--cluster", self.cluster, "--json", *args, code=code, **env)
        return checked(found.stdout)["data"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    root = tmp_path / "hub"
    model(root / "models" / "lab" / "tiny")
    (root / "datasets" / "lab" / "sums").mkdir(parents=True)
    rows(root / "datasets" / "lab" / "sums" / "train.jsonl")
    folder = tmp_path / "work"
    (folder / "cluster").mkdir(parents=True)
    (folder / "tiny.yaml").write_text(RECIPE)
    profile = f"name: here\nexecutor: local\nenv: {{HF_HOME: {folder / 'cache'}, HF_HUB_OFFLINE: '1'}}\n"
    (folder / "cluster" / "here.yaml").write_text(profile)
    with serving(root) as hub:
        yield World(folder, hub)


@pytest.mark.heavy
def test_what_was_fetched_is_enough_without_a_network(world: World) -> None:
    before = world("check", "tiny.yaml", "--cluster", "here", code=1)
    assert "lab/tiny is not in the cache" in " ".join(before.stdout.split())
    assert "latentctl prefetch" in before.stdout
    found = world.prefetch()
    assert found["cache"] == str(world.folder / "cache" / "hub")
    assert [(i["kind"], i["name"], i["error"]) for i in found["items"]] == [
        ("model", "lab/tiny", None),
        ("dataset", "lab/sums (train)", None),
    ]
    assert found["items"][0]["bytes"] > 10_000
    world.hub.down = True
    asked = len(world.hub.asked)
    after = checked(world("check", "tiny.yaml", "--cluster", "here", "--json").stdout)["data"]
    said = " ".join(finding["message"] for finding in after["findings"])
    assert after["ok"]
    assert "lab/tiny: in the cache" in said
    assert "gsm8k, train: 12 rows" in said
    done = world(
        "submit", "tiny.yaml", "--cluster", "here", "--wait", LATENTCTL_STATE_DIR=str(world.folder / "state")
    )
    assert "succeeded" in done.stderr
    assert len(world.hub.asked) == asked, "jobs asked the Hub"


def test_a_download_that_lacks_a_shard_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    (tmp_path / "1.safetensors").touch()
    assert not whole(tmp_path)
    (tmp_path / "2.safetensors").touch()
    assert whole(tmp_path)


def test_a_second_time_fetches_nothing(world: World) -> None:
    world.prefetch("--set", "dataset.path=null", "--set", "dataset.name=shell-game")
    sizes = [path for method, path in world.hub.asked if method == "GET" and path.endswith(".safetensors")]
    world.prefetch("--set", "dataset.path=null", "--set", "dataset.name=shell-game")
    again = [path for method, path in world.hub.asked if method == "GET" and path.endswith(".safetensors")]
    assert sizes == again != []


def test_what_cannot_be_fetched_does_not_keep_the_rest(world: World) -> None:
    found = world.prefetch("--set", "model=lab/nothing", code=1)
    first, second = found["items"]
    assert "no model lab/nothing" in first["error"]["message"]
    assert second["error"] is None


def test_pickled_weights_are_not_fetched(world: World) -> None:
    folder = world.hub.root / "models" / "lab" / "tiny"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = world.prefetch(code=1)
    assert "has no safetensors weights, only pytorch_model.bin" in found["items"][0]["error"]["message"]
    assert not any(path.endswith(".bin") and method == "GET" for method, path in world.hub.asked)


def test_a_hub_that_is_down_is_one_clear_error(world: World) -> None:
    world.hub.down = True
    done = world("prefetch", "tiny.yaml", "--cluster", "here", code=1)
    assert "failed   model lab/tiny" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_cache_that_jobs_do_not_see_is_told(world: World) -> None:
    (world.folder / "cluster" / "here.yaml").write_text("name: here\nexecutor: local\n")
    args = ("--set", "dataset.path=null", "--set", "dataset.name=shell-game")
    elsewhere = str(world.folder / "elsewhere")
    done = world("prefetch", "tiny.yaml", "--cluster", "here", *args, HF_HOME=elsewhere)
    assert "lab/tiny: fetching" in done.stderr
    assert "warning: HF_HOME is set here, and jobs do not see it" in done.stderr
    assert (world.folder / ".cache" / "huggingface" / "hub" / "models--lab--tiny").is_dir()
    assert not Path(elsewhere).exists()


def test_a_recipe_that_needs_nothing_of_the_hub_says_so(world: World) -> None:
    args = ("--set", "model={init: {}}", "--set", "dataset.path=null", "--set", "dataset.name=shell-game")
    done = world("prefetch", "tiny.yaml", "--cluster", "here", *args)
    assert "needs nothing of the Hub" in done.stderr
    assert world.hub.asked == []
