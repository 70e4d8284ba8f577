"""A trainer's steps through DeepSpeed, and vLLM in another process: of this job, and of another one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import v2_rig

pytest.importorskip("vllm", reason="vllm is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rl"))

from syncing import QUESTIONS, started
from tiny import by_key, model
from tiny_trainer import ITEMS, Trainer, adapted

from jobs.generate.score import score
from jobs.rl.agree import Disagreement, agrees
from jobs.rl.folder import Folder
from jobs.rl.weights import InProcess

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(v2_rig.RUNNER == "v2", reason="what is asked here is the same with every runner"),
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """DeepSpeed's process group, which other tests' engines would take for their own."""
    yield
    from jobs.runtime import distributed

    distributed.shutdown()


def test_a_trainers_steps_arrive(tmp_path: Path) -> None:
    """With adapters, and an engine for text alone in a process of its own."""
    engine, own = started(tmp_path, own_process=True)
    try:
        trainer = Trainer(adapted(own))
        into = InProcess(engine)
        seen = [tuple(by_key(engine.generate(QUESTIONS))["long", 0].ids)]
        for version in (1, 2):
            trainer.step(version)
            with pytest.raises(Disagreement):
                agrees(engine, own, ITEMS)
            into.push(own, version)
            assert own.training
            assert agrees(engine, own, ITEMS) < TOLERANCE
            sample = by_key(engine.generate(QUESTIONS))["long", 0]
            assert sample.version == version
            seen.append(tuple(sample.ids))
        assert len(set(seen)) == 3
        trainer.close()
    finally:
        engine.close()


def test_an_engine_in_another_process_follows_a_folder(tmp_path: Path) -> None:
    folder, weights, out = tmp_path / "model", tmp_path / "weights", tmp_path / "out"
    out.mkdir()
    own = model("llama")
    own.save_pretrained(folder)
    arguments = [str(folder), str(weights), str(out), json.dumps(ITEMS), json.dumps([1, 3])]
    with (tmp_path / "log").open("w") as log:
        script = [sys.executable, str(Path(__file__).with_name("follower.py")), *arguments]
        other = subprocess.Popen(script, stdout=log, stderr=log)
    try:
        trainer = Trainer(own)
        into = Folder(weights, main=True)
        told = [_told(out, 0, other, tmp_path)]
        wanted = [_scores(own)]
        for version in (1, 2, 3):
            trainer.step(version)
            into.push(own, version)
            if version != 2:  # while it waits for 3, 2 may come and go
                told.append(_told(out, version, other, tmp_path))
                wanted.append(_scores(own))
        assert other.wait(timeout=60) == 0
        trainer.close()
    finally:
        other.kill()
    for found, want in zip(told, wanted, strict=True):
        for one, other_one in zip(found["scores"], want, strict=True):
            assert one == pytest.approx(other_one, abs=TOLERANCE)
    assert [{v for v, _ in t["answers"].values()} for t in told] == [{0}, {1}, {3}]
    assert len({json.dumps(t["answers"]["long"][1]) for t in told}) == 3


def _scores(own: Any) -> list[list[float]]:
    return list(score(own, ITEMS, max_batch=4, max_batch_tokens=4096))


def _told(out: Path, version: int, other: subprocess.Popen[bytes], logs: Path) -> dict[str, Any]:
    end = time.monotonic() + 200
    while not (out / f"{version}.json").exists():
        assert other.poll() is None, (logs / "log").read_text()[-3000:]
        assert time.monotonic() < end, "it does not answer"
        time.sleep(0.05)
    return json.loads((out / f"{version}.json").read_text())
