"""Which files make a snapshot, and what the content hash covers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from latentctl.errors import UserError
from latentctl.record.hashes import code_bytes, content_hash
from latentctl.runs import snapshot
from latentctl.runs.snapshot import code_files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `jobs` of a checkout in git, found instead of the real ones."""
    root = tmp_path / "checkout"
    (root / "jobs").mkdir(parents=True)
    (root / "jobs" / "__init__.py").write_text("")
    (root / "jobs" / "work.py").write_text("x = 1\n")
    monkeypatch.setattr(snapshot, "PACKAGES", ("jobs",))
    monkeypatch.setattr(snapshot, "package_folder", lambda name: root / name)
    return root


def hashed(experiment: dict[str, Any], files: Sequence[snapshot.CodeFile]) -> str:
    return content_hash(experiment, code_bytes((f.target, f.digest()) for f in files))


def git(root: Path, *args: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "-C", str(root), *who, *args], check=True, capture_output=True, env=env)


def names(plugins: tuple[str, ...] = ()) -> list[str]:
    return sorted(str(f.target) for f in code_files(plugins))


SECRETS = (
    ".env",
    ".env.local",
    "id_rsa",
    "server.pem",
    "api.key",
    "credentials.json",
    "secrets.yaml",
    ".netrc",
)


def test_secret_like_files_and_caches_stay_out(package: Path) -> None:
    for name in SECRETS:
        (package / "jobs" / name).write_text("s3cret")
    (package / "jobs" / "__pycache__").mkdir()
    (package / "jobs" / "__pycache__" / "work.cpython-311.pyc").write_text("")
    (package / "jobs" / "tokenizer.py").write_text("")
    (package / "jobs" / "secrets.py").write_text("")
    assert names() == ["jobs/__init__.py", "jobs/secrets.py", "jobs/tokenizer.py", "jobs/work.py"]


def test_ignored_files_stay_out_and_untracked_ones_come_along(package: Path) -> None:
    (package / ".gitignore").write_text("scratch_*\n")
    git(package, "init", "-q")
    git(package, "add", ".")
    git(package, "commit", "-qm", "x")
    (package / "jobs" / "scratch_1.py").write_text("")
    (package / "jobs" / "new.py").write_text("")
    assert names() == ["jobs/__init__.py", "jobs/new.py", "jobs/work.py"]


def test_a_package_inside_an_ignored_environment_is_copied_whole(package: Path) -> None:
    (package / ".gitignore").write_text("*\n")
    git(package, "init", "-q")
    assert names() == ["jobs/__init__.py", "jobs/work.py"]


def test_the_hash_follows_the_bytes_and_not_the_place(package: Path, tmp_path: Path) -> None:
    before = hashed({"a": 1}, code_files())
    assert hashed({"a": 1}, code_files()) == before
    assert hashed({"a": 2}, code_files()) != before
    os.utime(package / "jobs" / "work.py", (1, 1))
    assert hashed({"a": 1}, code_files()) == before
    moved = [snapshot.CodeFile(tmp_path / "elsewhere" / f.source.name, f.target) for f in code_files()]
    (tmp_path / "elsewhere").mkdir()
    for file, other in zip(code_files(), moved, strict=True):
        other.source.write_bytes(file.source.read_bytes())
    assert hashed({"a": 1}, moved) == before
    (package / "jobs" / "work.py").write_text("x = 2\n")
    assert hashed({"a": 1}, code_files()) != before


def test_key_order_does_not_matter_to_the_hash(package: Path) -> None:
    files = code_files()
    assert hashed({"a": 1, "b": 2}, files) == hashed({"b": 2, "a": 1}, files)


def test_plugins_go_in_under_their_names(package: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("y = 1\n")
    files = code_files([str(tmp_path / "mine.py")])
    assert files[-1].target == PurePosixPath("plugins/mine.py")
    one = hashed({}, files)
    (tmp_path / "mine.py").write_text("y = 2\n")
    assert hashed({}, code_files([str(tmp_path / "mine.py")])) != one


def test_bad_plugins_are_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such Python file"):
        code_files([str(tmp_path / "absent.py")])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text("")
    with pytest.raises(UserError, match=r"two plugin files are called same\.py"):
        code_files([str(tmp_path / "a" / "same.py"), str(tmp_path / "b" / "same.py")])


def test_git_state_tells_commit_and_changes(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "latentctl").mkdir()
    (package / "latentctl" / "__init__.py").write_text("")
    assert snapshot.git_state() is None
    git(package, "init", "-q")
    git(package, "add", ".")
    git(package, "commit", "-qm", "x")
    clean = snapshot.git_state()
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], clean["diff"]) == (False, "")
    (package / "jobs" / "work.py").write_text("x = 3\n")
    (package / "jobs" / "new.py").write_text("")
    changed = snapshot.git_state()
    assert changed is not None
    assert changed["dirty"]
    assert "+x = 3" in changed["diff"]
    assert changed["untracked"] == ["jobs/new.py"]
