"""Cluster profiles: found by name or path, and judged like recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentctl.errors import Exit, UserError
from latentctl.spec.load import list_profiles, load_profile

SLURM = "executor: slurm\npartition: gpu\n"


@pytest.fixture
def folder(here: Path) -> Path:
    (here / "cluster").mkdir()
    return here / "cluster"


def line(text: str, folder: Path) -> str:
    (folder / "lab.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_profile("lab")
    assert caught.value.code == Exit.USAGE
    return str(caught.value)


def test_a_profile_is_found_by_name_near_before_far(folder: Path, here: Path) -> None:
    own = here / "home" / ".config" / "latentctl" / "clusters"
    own.mkdir(parents=True)
    (own / "lab.yaml").write_text(SLURM + "account: far\n")
    assert load_profile("lab").account == "far"
    (folder / "lab.yaml").write_text(SLURM + "account: near\n")
    assert load_profile("lab").account == "near"
    assert list_profiles()["lab"] == Path("cluster/lab.yaml")


def test_a_profile_is_found_by_path(here: Path) -> None:
    (here / "mine.yaml").write_text(SLURM + "time: 12:00:00\nmem: 64G\nsbatch: {exclusive: true, nice: 3}\n")
    profile = load_profile("mine.yaml")
    assert (profile.name, profile.time, profile.mem) == ("mine", 43200, 65536)
    assert profile.sbatch == {"exclusive": True, "nice": 3}
    assert load_profile(here / "mine.yaml") == profile


def test_an_unknown_name_lists_the_nearest(folder: Path) -> None:
    (folder / "lab.yaml").write_text(SLURM)
    with pytest.raises(UserError) as caught:
        load_profile("labb")
    assert (caught.value.code, caught.value.problems[0].hint) == (Exit.NOT_FOUND, "did you mean lab?")


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(UserError) as caught:
        load_profile("./nope.yaml")
    assert caught.value.code == Exit.NOT_FOUND


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("partition: gpu\n", "cluster/lab.yaml:1:1: executor: missing"),
        (
            "executor: slrum\n",
            "1:11: executor: 'slrum': expected one of local, slurm\nhint: did you mean slurm?",
        ),
        (
            SLURM + "partiton: x\n",
            "cluster/lab.yaml:3:1: partiton: unknown key\nhint: did you mean partition?",
        ),
        (SLURM + "interpreter: {trian: x}\n", "interpreter.trian: unknown key\nhint: did you mean train?"),
        (SLURM + "container: {}\n", "container.image: missing"),
        (SLURM + "container: {image: a, runtime: docker}\n", "'docker': expected one of pyxis, apptainer"),
        (
            SLURM + "sbatch: {a: [1]}\n",
            "sbatch.a: a list of 1: expected a text or a whole number or true or false",
        ),
        (SLURM + "env: {A: 1}\n", "env.A: 1: expected a text"),
        (SLURM + "time: soon\n", "'soon': a duration is written like"),
        (SLURM + "gpus_per_node: -1\n", "-1: expected a whole number of at least 0"),
        ("executor: local\npartition: gpu\n", "partition: only for executor: slurm"),
        (SLURM + "executor: local\n", "'executor' is written twice"),
        ("", "cluster/lab.yaml: the file is empty"),
        ("- a\n", "a cluster profile is a map of keys and values; this file holds a list"),
        ("name: Big Lab\nexecutor: slurm\n", "'Big Lab': expected lower-case letters"),
        ("train: {lr: 1}\nexecutor: slurm\n", "train: unknown key\nhint: train belongs under interpreter"),
    ],
)
def test_a_bad_profile_is_told_like_a_bad_recipe(folder: Path, text: str, expected: str) -> None:
    assert expected in line(text, folder)


def test_all_problems_of_a_profile_come_at_once(folder: Path) -> None:
    found = line("executor: slurm\npartiton: x\ntime: soon\nmax_nodes: 0\n", folder)
    assert [part.split(":")[1] for part in found.splitlines() if part.startswith("cluster/")] == [
        "2",
        "3",
        "4",
    ]


def test_shipped_profiles_load() -> None:
    for name in list_profiles():
        assert load_profile(name).name == name
