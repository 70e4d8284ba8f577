"""A sweep on a cluster whose programs are scripts: how often each is called, what is shared and refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_world import World

from latentctl.launch.slurm_parse import _SQUEUE_WIDTHS
from latentctl.record.atomic import write_json
from latentctl.record.journal import Journal, read
from latentctl.record.paths import RunPaths

GRID = ("--grid", "train.lr=" + ",".join(f"{n}e-4" for n in range(1, 13)))
Cluster = Callable[[], Counter[str]]


@pytest.fixture
def slurm(world: World, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """slurm(): how often each program was called since the last look. squeue prints `squeue.txt`."""
    folder = world.root / "bin"
    folder.mkdir()
    calls = world.root / "calls"
    bodies = {
        "sbatch": f"""cd {folder}; n=$(ls | grep -c '^script-'); cp "$2" script-$n
if [ -e refuse-$n ]; then cat refuse-$n >&2; exit 1; fi; echo $((100 + n))""",
        "squeue": f"cat {world.root}/squeue.txt 2>/dev/null || true",
        "scontrol": """case "$*" in ping) echo "Slurmctld(primary) is UP" ;;
*config) echo "MaxArraySize = 8" ;; esac""",
        **dict.fromkeys(("sacct", "scancel", "sinfo", "sacctmgr"), "true"),
    }
    for name, body in bodies.items():
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {calls}\n{body}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (world.root / "cluster" / "far.yaml").write_text(
        "name: far\nexecutor: slurm\ntime: 1h\ngpus_per_node: 4\n"
    )

    def counted() -> Counter[str]:
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.write_text("")
        return Counter(line.split()[0] for line in lines)

    return counted


def scripts(world: World) -> list[str]:
    return [p.read_text() for p in sorted((world.root / "bin").glob("script-*"))]


def row(job_id: str, state: str, name: str, reason: str = "None") -> str:
    cells = {"JobArrayID": job_id, "State": state, "Name": name, "Reason": reason, "RestartCnt": "0"}
    return "".join(cells.get(n, "").ljust(w) for n, w in _SQUEUE_WIDTHS.items()) + "\n"


def submitted(run: RunPaths) -> dict[str, dict]:
    return {e["job"]: e for e in read(run.journal) if e["event"] == "submitted"}


def points(world: World) -> list[RunPaths]:
    (listed,) = world.runs.glob("sweeps/*/sweep.json")
    return [RunPaths(world.runs / p["run"]) for p in json.loads(listed.read_text())["points"]]


def fail(run: RunPaths, job: str) -> None:
    """As its entry would say it."""
    attempt = run.job(job).attempt(1)
    write_json(attempt.info, {"attempt": 1, "time": "2026-01-01T00:00:00+00:00"})
    Journal(run.journal).append("started", job=job, attempt=1)
    Journal(run.journal).append("failed", job=job, attempt=1, message="it broke")


def test_twelve_points_are_four_calls_where_an_array_may_have_eight(world: World, slurm: Cluster) -> None:
    world("sweep", "recipe.yaml", *GRID, "--cluster", "far", "--set", "jobs=per_stage")
    assert {k: v for k, v in slurm().items() if k in ("sbatch", "squeue", "scontrol")} == {
        "sbatch": 4, "squeue": 1, "scontrol": 2,
    }  # fmt: skip
    texts = scripts(world)
    assert ["--array=0-7%8" in t for t in texts] == [True, True, False, False]
    assert ["--array=0-3%4" in t for t in texts] == [False, False, True, True]
    assert "--dependency=aftercorr:100\n" in texts[1]
    assert "--dependency=aftercorr:102\n" in texts[3]
    runs = points(world)
    assert len(runs) == 12
    assert submitted(runs[9])["score"]["id"] == "103_1"
    assert {run.code.resolve() for run in runs} == {next(world.runs.glob("sweeps/*/code")).resolve()}
    assert all(run.code.is_symlink() for run in runs)
    (world.root / "squeue.txt").write_text(
        "".join(row(e["id"], "PENDING", e["name"], "Priority") for r in runs for e in submitted(r).values())
    )
    sweep = runs[0].root.parent / "sweeps"
    name = next(sweep.iterdir()).name
    status = world("status", name, "--json").json["data"]["runs"]
    assert {r["state"] for r in status} == {"pending"}
    assert slurm() == {"squeue": 1}
    world("cancel", name)
    assert {k: v for k, v in slurm().items() if k != "sacct"} == {"squeue": 1, "scontrol": 1, "scancel": 1}
    assert {r["state"] for r in world("status", name, "--json").json["data"]["runs"]} == {"cancelled"}


def test_one_snapshot_goes_with_a_point_that_moves(world: World, slurm: Cluster) -> None:
    """The link is relative: the runs folder may be moved as a whole."""
    world("sweep", "recipe.yaml", *GRID, "--cluster", "far")
    run = points(world)[0]
    assert not Path(str(run.code.readlink())).is_absolute()
    world.runs.rename(world.root / "elsewhere")
    assert (world.root / "elsewhere" / run.id / "code" / "latentctl" / "launch" / "entry.py").is_file()


def test_a_refusal_of_the_second_set_leaves_nothing(world: World, slurm: Cluster) -> None:
    said = "sbatch: error: Batch job submission failed: Invalid qos specification\n"
    (world.root / "bin" / "refuse-1").write_text(said)
    done = world("sweep", "recipe.yaml", *GRID, "--cluster", "far", code=4)
    assert "Invalid qos specification" in done.err
    assert world.run_names() == []
    assert not list(world.runs.glob("sweeps/*"))
    assert slurm()["scancel"] == 1


def test_a_limit_on_what_runs_at_once_holds_for_all_of_it(world: World, slurm: Cluster) -> None:
    world("sweep", "recipe.yaml", *GRID, "--cluster", "far", "--max-parallel", "5")
    assert [t.split("--array=")[1].split()[0] for t in scripts(world)] == ["0-7%2", "0-3%2"]


def test_a_budget_is_a_limit(world: World, slurm: Cluster) -> None:
    gpu = ("--set", "resources.gpus=4")
    done = world("sweep", "recipe.yaml", *GRID, "--cluster", "far", *gpu, "--max-gpu-hours", "40", code=2)
    assert "the sweep asks for 48 GPU-hours at most, 40 are allowed" in done.err
    assert "10 of 12 points fit" in done.err
    assert world.run_names() == []
    assert slurm() == {}
    world("sweep", "recipe.yaml", *GRID, "--cluster", "far", *gpu, "--max-gpu-hours", "48")
    assert slurm()["sbatch"] == 2


def test_points_with_other_resources_are_an_array_of_their_own(world: World, slurm: Cluster) -> None:
    world(
        "sweep",
        "recipe.yaml",
        "--grid",
        "resources.gpus=1,2,4",
        "--grid",
        "train.lr=1e-3,1e-4",
        "--cluster",
        "far",
    )
    assert sorted(t.split("--gpus-per-node=")[1].split()[0] for t in scripts(world)) == ["1", "2", "4"]
    assert slurm()["sbatch"] == 3


def test_retry_failed_takes_what_failed_in_one_array(world: World, slurm: Cluster) -> None:
    world("sweep", "recipe.yaml", *GRID, "--cluster", "far", "--max-parallel", "4")
    runs = points(world)
    jobs = submitted(runs[0])
    (job,) = jobs
    for run in runs[:3]:
        fail(run, job)
    rows = [row(submitted(r)[job]["id"], "RUNNING", submitted(r)[job]["name"]) for r in runs[3:]]
    (world.root / "squeue.txt").write_text("".join(rows))
    slurm()
    name = next((world.runs / "sweeps").iterdir()).name
    done = world("retry", name, "--failed", "--json")
    assert [r["run"] for r in done.json["data"]["runs"]] == [run.id for run in runs[:3]]
    assert "left as it is" not in done.err
    assert slurm()["sbatch"] == 1
    assert "--array=0-2%3" in scripts(world)[-1]
    assert submitted(runs[1])[job]["id"] == "102_1"
    nothing = world("retry", name, "--failed")
    assert "has failed: nothing to do" in nothing.err
