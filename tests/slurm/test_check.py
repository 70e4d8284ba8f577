"""`latentctl check --cluster` against real daemons, and its probe on a real node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import REPO, Cli, wait_until

RECIPE = """\
name: tiny
model: {{init: {{hidden: 32, layers: 1, heads: 2}}}}
dataset: {{name: gsm8k, path: {data}}}
train: {{steps: 1, batch: 2}}
stages: [sft]
"""


@pytest.fixture
def recipe(cli: Cli, tmp_path: Path) -> str:
    data = tmp_path / "train.jsonl"
    row = {"question": "What is 1 and 1?", "answer": "<<1+1=2>>\n#### 2"}
    data.write_text(f"{json.dumps(row)}\n" * 8)
    (cli.folder / "sums.yaml").write_text(RECIPE.format(data=data))
    return "sums.yaml"


def check(cli: Cli, recipe: str, *args: str, on: str = "devbox", code: int = 0) -> list[dict[str, Any]]:
    done = cli("check", recipe, "--cluster", on, "--json", *args, code=code, timeout=200)
    return done.json["data"]["findings"]


def wrong(findings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(f["where"], f["message"]) for f in findings if f["level"] == "error"]


@pytest.mark.heavy
def test_a_recipe_that_fits_and_the_same_from_a_node(cli: Cli, recipe: str) -> None:
    found = check(cli, recipe, "--deep")
    assert wrong(found) == []
    said = {f["where"]: f["message"] for f in found}
    assert said["job sft"].startswith("fits debug: 1 node")
    assert "findings are the same as here" in said["node"]
    (node,) = [f["message"] for f in found if f["where"] == "node" and "torch" in f["message"]]
    assert node.split()[0] in ("n1", "n2", "n3", "n4") or "GiB free" in node
    assert not any(cli.runs.glob("probe-*")), "a probe that went well leaves nothing"


@pytest.fixture
def generous(tmp_path: Path) -> str:
    """A profile that allows more time than the partition does."""
    text = "name: generous\nexecutor: slurm\npartition: debug\naccount: lab\n"
    text += "max_time: 1d\ntime: 30m\nmax_nodes: 4\n"
    (tmp_path / "generous.yaml").write_text(text)
    return str(tmp_path / "generous.yaml")


def test_what_the_profile_and_the_cluster_would_never_run(cli: Cli, recipe: str, generous: str) -> None:
    (found,) = wrong(check(cli, recipe, "--set", "resources.time=3h", code=1))
    assert found == ("stages.sft.resources.time", "3h asked, at most 1h allowed")
    findings = check(cli, recipe, "--set", "resources.time=3h", on=generous, code=1)
    assert ("job sft", "asks for 3 h 00; debug allows 1 h 00") in wrong(findings)


@pytest.mark.heavy
def test_of_a_sweep_the_points_that_would_never_run_are_named(cli: Cli, recipe: str, generous: str) -> None:
    """By the profile (nodes), and by the partition (time)."""
    text = (cli.folder / recipe).read_text().replace("batch: 2", "batch: 9")
    grid = "{resources.nodes: [1, 9], resources.time: [10m, 3h], train.lr: [1e-3, 1e-4]}"
    (cli.folder / recipe).write_text(f"{text}sweep: {{grid: {grid}}}\n")
    found = check(cli, recipe, on=generous, code=1)
    _, *of_points = wrong(found)  # the first is of the profile itself
    assert of_points == [
        ("job sft (resources.nodes=1, resources.time=3h)", "asks for 3 h 00; debug allows 1 h 00"),
        (
            "stages.sft.resources.nodes (resources.nodes=9, resources.time=10m and 1 more)",
            "9 nodes asked, at most 4 allowed",
        ),
    ]
    (fits,) = [f["where"] for f in found if f["message"].startswith("fits debug")]
    assert fits == "job sft (resources.nodes=1, resources.time=10m)"


def test_what_the_node_finds_otherwise_is_told(cli: Cli, recipe: str, tmp_path: Path) -> None:
    """Data that only this machine has: on the nodes of the devbox, which are this machine, a job removes it
    first."""
    profile = (REPO / "cluster" / "devbox.yaml").read_text()
    (tmp_path / "forgetful.yaml").write_text(
        profile.replace("name: devbox", "name: forgetful") + f"\nsetup: ['rm {tmp_path}/train.jsonl']\n"
    )
    args = ("check", recipe, "--cluster", str(tmp_path / "forgetful.yaml"), "--deep", "--json")
    found = cli(*args, code=1, timeout=200).json["data"]["findings"]
    assert any(w.startswith("on the node: ") and "no such file" in m for w, m in wrong(found))


def test_a_probe_that_fails_is_kept_and_told(cli: Cli, recipe: str, tmp_path: Path) -> None:
    profile = (REPO / "cluster" / "devbox.yaml").read_text()
    (tmp_path / "broken.yaml").write_text(
        profile.replace("name: devbox", "name: broken") + "\nmodules: [no-such-module]\n"
    )
    args = ("check", recipe, "--cluster", str(tmp_path / "broken.yaml"), "--deep", "--json")
    found = cli(*args, code=1, timeout=200).json["data"]["findings"]
    (message,) = [m for w, m in wrong(found) if w == "probe"]
    assert message
    (run,) = cli.runs.glob("probe-*")
    assert cli("explain", run.name, code=None).code in (0, 1)


@pytest.mark.parametrize("moment", ["submitted", "waited for"])
def test_ctrl_c_takes_the_probe_back(cli: Cli, recipe: str, moment: str) -> None:
    process = cli.start("check", recipe, "--cluster", "devbox", "--deep")
    if moment == "submitted":
        submitted = '"event": "submitted"'  # before that there is no job
        wait_until(lambda: any(submitted in p.read_text() for p in cli.runs.glob("probe-*/journal/*")), 60)
    else:
        assert process.stderr is not None
        assert any(line.startswith("probe probe-") for line in process.stderr)
    process.send_signal(2)
    process.communicate(timeout=60)
    assert process.returncode == 130

    def jobs() -> str:
        return subprocess.run(["squeue", "-h", "-o", "%j"], capture_output=True, text=True, check=True).stdout

    wait_until(lambda: "probe-" not in jobs(), 60, every=0.5)
    for run in cli.runs.glob("probe-*"):
        assert cli("status", run.name, "--json").json["data"]["runs"][0]["state"] in (
            "cancelled",
            "succeeded",
        )


def test_slurm_that_does_not_answer_is_code_4(cli: Cli, recipe: str) -> None:
    done = cli("check", recipe, "--cluster", "devbox", "--json", code=4, SLURM_CONF="/no/such/slurm.conf")
    assert any(f["where"] == "controller" for f in done.json["data"]["findings"] if f["level"] == "error")
