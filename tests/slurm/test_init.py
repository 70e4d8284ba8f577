"""`latentctl init` on a real cluster: the profile it writes works."""

from __future__ import annotations

import pytest

from latentctl.spec.profiles import load_profile
from tests.e2e.conftest import Cli


def test_the_profile_passes_its_test(cli: Cli) -> None:
    done = cli("init")
    assert "partition debug, 4 nodes" in done.out
    (path,) = (cli.folder / "cluster").iterdir()
    profile = load_profile(str(path))
    assert (profile.partition, profile.account, profile.gpus_per_node) == ("debug", "lab", 4)
    assert profile.max_time == 3600
    tested = cli("clusters", "test", profile.name, "--json")
    assert tested.json["data"]["ok"]
    assert cli("check", "shell-game.yaml").code == 0
    again = cli("init", code=2)
    assert "exists already" in again.err
    other = cli("init", "--partition", "gpu", "--name", "other", "--json")
    assert other.json["data"]["partition"] == "gpu"
    assert {p.name for p in (cli.folder / "cluster").iterdir()} == {path.name, "other.yaml"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--partition", "nosuch"), "there is no partition 'nosuch'"),
        (("--account", "nosuch"), "'nosuch' is no account of yours"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(cli: Cli, args: tuple[str, ...], words: str) -> None:
    done = cli("init", *args, code=2)
    assert words in done.err
    assert "debug" in done.err or "lab" in done.err
    assert not (cli.folder / "cluster").exists()
