"""Weights through a folder: whole versions or none, whatever the writer and the reader do meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.generate import weight_files
from jobs.generate.holding import Holding
from jobs.rl.folder import COMMITTED, Folder, Follower, committed
from jobs.runtime.errors import JobUserError

pytestmark = pytest.mark.heavy


class Reader(Holding):
    """Keeps what it loaded. `before` is called with the number of each try."""

    def __init__(self, before: Any = lambda n: None) -> None:
        self.before, self.tries, self.held = before, 0, {}

    def load(self, weights: Path | Iterable[Any], version: int) -> None:
        assert isinstance(weights, Path)
        self._may_load(version)
        self.tries += 1
        self.before(self.tries)
        with self._replacing(version):
            self.held = dict(weight_files.read(weights))


def model(value: float) -> torch.nn.Module:
    made = torch.nn.Linear(3, 2)
    with torch.no_grad():
        made.weight.fill_(value)
    return made


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_newest_version_is_loaded_once(tmp_path: Path) -> None:
    reader = Reader()
    follower = Follower(reader, tmp_path / "w")  # type: ignore[arg-type]
    assert follower.refresh() is None
    into = Folder(tmp_path / "w", main=True)
    for version in (1, 2, 5):
        into.push(model(version), version)
    assert (follower.refresh(), follower.refresh(), reader.tries) == (5, None, 1)
    assert reader.version == 5
    assert reader.held["weight"].unique().item() == 5
    assert names(tmp_path / "w") == ["v-000002", "v-000005"]


def test_what_is_not_committed_or_not_whole_is_passed_over(tmp_path: Path) -> None:
    into = Folder(tmp_path, main=True, keep=9)
    for version in range(1, 8):
        into.push(model(version), version)
    folder = {c.version: c.folder for c in committed(tmp_path)}
    (folder[7] / COMMITTED).unlink()
    torn = next(folder[6].glob("*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-1])
    next(folder[5].glob("*.safetensors")).unlink()
    (folder[4] / COMMITTED).write_text('{"version": 4, "fil')
    (folder[3] / COMMITTED).write_text("[]")
    shutil.copytree(folder[1], tmp_path / ".v-000009.123.tmp")
    shutil.copytree(folder[1], tmp_path / "v-10")
    (tmp_path / "v-000011").write_text("no folder")
    assert [c.version for c in committed(tmp_path)] == [1, 2]
    reader = Reader()
    assert Follower(reader, tmp_path).refresh() == 2  # type: ignore[arg-type]


def test_a_version_that_vanishes_under_its_reader_is_followed_by_the_next(tmp_path: Path) -> None:
    into = Folder(tmp_path, main=True)
    into.push(model(1), 1)

    def overtaken(tries: int) -> None:
        if tries == 1:
            for version in (2, 3):
                into.push(model(version), version)

    reader = Reader(overtaken)
    assert Follower(reader, tmp_path).refresh() == 3  # type: ignore[arg-type]
    assert reader.held["weight"].unique().item() == 3


def test_a_reader_has_the_time_of_a_push(tmp_path: Path) -> None:
    into = Folder(tmp_path, main=True)
    into.push(model(1), 1)
    reader = Reader(lambda n: into.push(model(2), 2) if n == 1 else None)
    follower = Follower(reader, tmp_path)  # type: ignore[arg-type]
    assert (follower.refresh(), follower.refresh(), reader.tries) == (1, 2, 2)


def test_versions_that_vanish_for_ever_are_told(tmp_path: Path) -> None:
    into = Folder(tmp_path, main=True)

    def always(tries: int) -> None:
        into.push(model(0), 10 * tries)
        into.push(model(0), 10 * tries + 1)

    into.push(model(0), 1)
    with pytest.raises(weight_files.Unreadable, match=r"no \*\.safetensors here"):
        Follower(Reader(always), tmp_path).refresh()  # type: ignore[arg-type]


def test_an_older_version_and_the_same_one_are_refused(tmp_path: Path) -> None:
    into = Folder(tmp_path, main=True)
    into.push(model(4), 4)
    for version in (3, 4):
        with pytest.raises(JobUserError, match=f"version 4 is there already, and {version} is not newer"):
            into.push(model(9), version)
    assert names(tmp_path) == ["v-000004"]


def test_a_push_that_fails_leaves_nothing_and_the_next_clears_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = Folder(tmp_path, main=True)
    into.push(model(1), 1)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.rl.folder.write_json", lambda *a: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(OSError, match="disk full"):
            into.push(model(2), 2)
    assert names(tmp_path) == ["v-000001"]
    (tmp_path / ".v-000002.7.tmp").mkdir()
    into.push(model(2), 2)
    assert names(tmp_path) == ["v-000001", "v-000002"]


def test_waiting_ends_with_words_or_with_the_trainer(tmp_path: Path) -> None:
    reader = Reader()
    follower = Follower(reader, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(JobUserError, match=r"version 3 did not come within 0\.02 s") as caught:
        follower.wait(3, timeout=0.02, every=0.01)
    assert caught.value.where == str(tmp_path)

    def dead() -> None:
        raise RuntimeError("the trainer is gone")

    with pytest.raises(RuntimeError, match="the trainer is gone"):
        follower.wait(3, timeout=60, every=0.01, alive=dead)
    calls = iter(range(10))

    def pushes() -> None:
        if next(calls) == 2:
            Folder(tmp_path, main=True).push(model(4), 4)

    assert follower.wait(3, timeout=60, every=0.01, alive=pushes) == 4


def test_one_version_would_leave_a_reader_no_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two"):
        Folder(tmp_path, main=True, keep=1)


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    kinds = [*floats, torch.int64, torch.uint8, torch.bool]
    tensors = {f"t{i}": (torch.randn(3, i + 1) * 9).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"none": torch.empty(0, 4), "one": torch.tensor(2.5), "turned": torch.randn(4, 3).T}
    sizes = weight_files.write(tmp_path, tensors.items(), shard=64)
    assert len(sizes) > 2
    assert sizes == {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    assert weight_files.shapes(tmp_path) == {k: tuple(t.shape) for k, t in tensors.items()}
    found = dict(weight_files.read(tmp_path))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda data: b"", "torn, or no safetensors"),
        (lambda data: data[:40], "torn, or no safetensors"),
        (lambda data: data[:-1], "ends before its last tensor"),
        (lambda data: data.replace(b'"F32"', b'"F4" '), "header says nothing known"),
        (lambda data: data.replace(b"data_offsets", b"data_offsetz"), "header says nothing known"),
        (lambda data: data.replace(b"[2,3]", b"[2,2]"), "contradicts itself"),
    ],
)
def test_damaged_files_are_told(harm: Any, words: str, tmp_path: Path) -> None:
    weight_files.write(tmp_path, [("w", torch.ones(2, 3))])
    (path,) = tmp_path.iterdir()
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(weight_files.Unreadable, match=words) as caught:
        list(weight_files.read(tmp_path))
    assert caught.value.where == str(path)


def test_a_name_in_two_files_is_told(tmp_path: Path) -> None:
    weight_files.write(tmp_path, [("w", torch.ones(2))])
    (path,) = tmp_path.iterdir()
    shutil.copy(path, tmp_path / "again.safetensors")
    with pytest.raises(weight_files.Unreadable, match="w is in two files"):
        weight_files.shapes(tmp_path)


def test_what_is_committed_says_its_files(tmp_path: Path) -> None:
    Folder(tmp_path, main=True).push(model(1), 1)
    said = json.loads((tmp_path / "v-000001" / COMMITTED).read_text())
    assert (said["version"], list(said["files"])) == (1, ["model-00001.safetensors"])
