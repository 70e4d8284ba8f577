"""Room on a file system; quota programs as they answer, by stand-ins: a real quota cannot be had here."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentctl.launch import space

LUSTRE = """\
     {mount}  {used}  900000  1000000       -      52       0       0       -
uid 1000 is using default file quota setting
"""
QUOTA = """\
Disk quotas for user someone (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
          /other  12  0  20  0  1  0  0  0
          {mount}  {used}  0  1000000  0  4021  0  0  0
"""


def program(folder: Path, name: str, text: str, code: int = 0) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {code}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return folder


def mount_is(monkeypatch: pytest.MonkeyPatch, kind: str, where: str = "/scratch") -> None:
    monkeypatch.setattr(space, "_mount", lambda _path: (kind, where))


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = space.room(tmp_path / "not" / "there")
    assert found.why == "free"
    assert found.bytes > 0


@pytest.mark.parametrize(("used", "left"), [("400000", 500000), ("950000*", 0)])
def test_a_quota_of_lustre(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, used: str, left: int
) -> None:
    mount_is(monkeypatch, "lustre")
    program(programs, "lfs", LUSTRE.format(mount="/scratch", used=used))
    assert space.quota(tmp_path) == left * 1024


def test_a_quota_of_another_file_system(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_is(monkeypatch, "nfs4")
    program(programs, "quota", QUOTA.format(mount="/scratch", used="900000"))
    assert space.quota(tmp_path) == 100_000 * 1024
    found = space.room(tmp_path)
    assert (found.bytes, found.why) == (100_000 * 1024, "left of the quota")


def test_no_quota_is_no_limit(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount_is(monkeypatch, "nfs4", "/elsewhere")
    program(programs, "quota", QUOTA.format(mount="/scratch", used="900000"))
    assert space.quota(tmp_path) is None
    mount_is(monkeypatch, "lustre")
    program(programs, "lfs", "  /scratch  500  0  0  -  52  0  0  -\n")
    assert space.quota(tmp_path) is None


def test_a_program_that_fails_is_no_limit(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_is(monkeypatch, "ext4")
    program(programs, "quota", "quota: no such file\n", code=1)
    assert space.quota(tmp_path) is None


def test_the_mount_of_a_folder() -> None:
    assert space._mount(Path("/proc/self")) == ("proc", "/proc")
    kind, where = space._mount(Path("/"))
    assert where == "/"
    assert kind
