"""The first command: on a machine without Slurm, and what it does not overwrite."""

from __future__ import annotations

import pytest
from cli_world import REPO, World


@pytest.fixture
def nowhere(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """No Slurm on the path; the checkout, with the recipes that ship with it."""
    world.code = REPO
    monkeypatch.setenv("PATH", "/nonexistent")
    return world


def test_without_slurm_it_is_this_machine_with_a_recipe_to_begin_with(nowhere: World) -> None:
    done = nowhere("init")
    assert "no Slurm (scontrol is not installed on this machine): this machine, no GPUs" in done.out
    assert (nowhere.root / "shell-game.yaml").read_text().startswith("#")
    assert "latentctl submit shell-game.yaml --wait" in done.err
    assert nowhere("check", "shell-game.yaml").code == 0
    assert not (nowhere.root / "cluster" / "local.yaml").exists()


def test_a_recipe_that_is_there_is_left_as_it_is(nowhere: World) -> None:
    (nowhere.root / "shell-game.yaml").write_text("mine")
    row = nowhere("init", "--json").json["data"]
    assert (row["cluster"], row["profile"], row["gpus"]) == ("local", None, 0)
    assert (nowhere.root / "shell-game.yaml").read_text() == "mine"


def test_a_partition_without_slurm_is_an_error(nowhere: World) -> None:
    done = nowhere("init", "--partition", "gpu", code=4)
    assert "scontrol is not installed" in done.err
    assert not (nowhere.root / "shell-game.yaml").exists()
