"""What `submit` looks at before it starts anything, and whose cache jobs see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentctl.launch import preflight, space
from latentctl.launch.cache_places import as_jobs_see_it, hub, unseen
from latentctl.plan.preflight import Finding
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.load import load_mapping


def profile(**more: Any) -> ClusterProfile:
    return ClusterProfile.model_validate({"name": "there", "executor": "slurm", **more})


def found(runs: Path, of: ClusterProfile, model: str = "lab/tiny") -> list[Finding]:
    recipe = {"name": "tiny", "model": model, "dataset": "gsm8k", "stages": ["sft"]}
    return list(preflight.quick([p.experiment for p in load_mapping(recipe).points], of, runs))


@pytest.fixture(autouse=True)
def _no_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def left(monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    monkeypatch.setattr(space, "room", lambda _path: space.Room(mib * 2**20, "left of the quota"))


@pytest.mark.parametrize(("mib", "levels"), [(10, ["error"]), (500, ["warning"]), (100_000, [])])
def test_too_little_room_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mib: int, levels: list[str]
) -> None:
    left(monkeypatch, mib)
    seen = found(tmp_path, profile(executor="local", name="local"))
    assert [f.level for f in seen] == levels
    assert all("left of the quota" in f.message for f in seen)


def test_a_model_that_is_not_where_jobs_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 100_000)
    (seen,) = found(tmp_path, profile(env={"HF_HOME": str(tmp_path / "cache")}))
    assert seen.level == "warning"
    assert "lab/tiny is not in the jobs' cache" in seen.message
    assert seen.hint == "latentctl prefetch RECIPE --cluster there"
    snapshot = tmp_path / "cache" / "hub" / "models--lab--tiny" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert found(tmp_path, profile(env={"HF_HOME": str(tmp_path / "cache")})) == []
    assert found(tmp_path, profile(executor="local", name="local")) == []


def test_a_variable_of_this_shell_that_jobs_do_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "mine"))
    assert unseen(profile()) == ["HF_HOME"]
    assert "HF_HOME" not in as_jobs_see_it(profile())
    assert hub(profile()) == tmp_path / "home" / ".cache" / "huggingface" / "hub"
    assert unseen(profile(pass_env=["HF_HOME"])) == []
    assert hub(profile(pass_env=["HF_HOME"])) == tmp_path / "mine" / "hub"
    assert hub(profile(env={"HF_HUB_CACHE": "/shared/hub"})) == Path("/shared/hub")
    left(monkeypatch, 100_000)
    assert [f.where for f in found(tmp_path, profile())] == ["model", "HF_HOME"]


@pytest.mark.parametrize(
    ("says", "mb"),
    [
        ({"gpu_type": "h100"}, 81_559),
        ({"gpu_type": "nvidia_l40s"}, 46_068),
        ({"gpu_type": "a100"}, None),  # it comes with 40 and with 80
        ({"gpu_type": "a100", "gpu_memory": "80G"}, 80 * 1024),
        ({}, None),
    ],
)
def test_the_memory_of_a_gpu_is_said_or_known_of_its_type(says: dict[str, Any], mb: int | None) -> None:
    assert preflight.gpu(profile(**says))["gpu_mb"] == mb
