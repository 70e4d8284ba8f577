"""`--dry-run` shows everything and creates nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_world import RECIPE, World

GOLDEN = Path(__file__).with_name("golden_dry_run.txt")
TWO_JOBS = RECIPE.replace(
    "{name: sft, method: sft}", "{name: sft, method: sft, resources: {tasks: 2, time: 2h}}"
)


def neutral(text: str, world: World) -> str:
    """Without what differs from machine to machine and from commit to commit."""
    text = text.replace(str(world.root), "ROOT")
    return re.sub(r"tiny-[0-9a-f]{8}", "tiny-HASH", text)


def test_a_plan_of_two_jobs_reads_as_in_the_golden_file(world: World) -> None:
    (world.root / "recipe.yaml").write_text(TWO_JOBS)
    done = world("submit", "recipe.yaml", "--dry-run")
    assert neutral(done.out, world) == GOLDEN.read_text()
    assert done.err == ""
    assert not world.runs.exists()


def test_json_holds_the_same(world: World) -> None:
    (world.root / "recipe.yaml").write_text(TWO_JOBS)
    (run,) = world("submit", "recipe.yaml", "--dry-run", "--json").json["data"]["runs"]
    assert [(j["name"], j["after"], j["tasks_per_node"], j["time_s"]) for j in run["jobs"]] == [
        ("sft", [], 2, 7200),
        ("score", ["sft"], 1, 3600),
    ]
    assert all("jobs.worker" in j["preview"] for j in run["jobs"])
    assert run["stages"] == {"sft": [], "score": ["sft"]}
    assert not world.runs.exists()


def test_what_was_submitted_before_is_told(world: World) -> None:
    world("submit", "recipe.yaml", "--wait")
    assert f"submitted before: {world.run_names()[0]}" in world("submit", "recipe.yaml", "--dry-run").err


def test_a_sweep_counts_its_points(world: World) -> None:
    done = world("sweep", "recipe.yaml", "--grid", "train.lr=1e-3,1e-4", "--dry-run")
    assert "the first of 2 points" in done.out
    assert "train.lr=0.0001" in done.out
    assert not world.runs.exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["recipe.yaml", "--set", "resources.nodes=2"], 2, "2 nodes asked"),
        (["recipe.yaml", "--set", "resources.gpus=4"], 2, "4 GPUs per node asked, a node has 0"),
        (["recipe.yaml", "--cluster", "hree"], 3, "here"),
        (["absent.yaml"], 2, "absent.yaml"),
        (["recipe.yaml", "--name", "Not A Name"], 2, "name"),
        (["recipe.yaml", "--dry-run", "--wait"], 2, "creates nothing"),
        (["recipe.yaml", "--debug", "--json"], 2, "--debug goes alone"),
        (["recipe.yaml", "--set", "train.lrr=1"], 2, "lr"),
    ],
)
def test_refusals_come_before_anything_is_made(world: World, args: list[str], code: int, words: str) -> None:
    done = world("submit", *args, code=None)
    assert done.code in (code, 3) if args[0] == "absent.yaml" else done.code == code
    assert "error:" in done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert not world.runs.exists()


def test_a_sweep_of_nothing_is_refused(world: World) -> None:
    assert "nothing to sweep" in world("sweep", "recipe.yaml", code=2).err
