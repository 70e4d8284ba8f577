"""Stages to train in tests, in this process or in several real ones. Run as a script it is one rank of a
job."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[3]
PREEMPTED = "preempted"
INIT = {"arch": "llama", "hidden": 32, "layers": 2, "heads": 2, "max_len": 128}


def write_rows(path: Path, count: int, *, seed: int = 0) -> Path:
    """Questions and answers of very different lengths."""
    rng = random.Random(seed)
    words = [f"w{c}" for c in "abcdefghijkl"]
    with path.open("w") as f:
        for i in range(count):
            question = " ".join(rng.choices(words, k=rng.randint(2, 14)))
            steps = [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 5))]
            row = {"question": question, "answer": rng.choice(words), "steps": steps, "id": f"r{i}"}
            f.write(json.dumps(row) + "\n")
    return path


def dataset(path: Path) -> dict[str, Any]:
    return {"path": str(path), "fields": {"steps": "steps", "id": "id"}}


def experiment(rows: Path, train: dict[str, Any], **stage: Any) -> dict[str, Any]:
    """A recipe of one stage (sft), as a resolved experiment. `stage` overrides parts of the stage."""
    base: dict[str, Any] = {
        "name": "sft",
        "method": "sft",
        "from": "model",
        "model": {"init": INIT, "tokenizer": {"kind": "word", "vocab_size": 64}},
        "dataset": dataset(rows),
        "prompt": {"form": "coconut", "template": "plain"},
        "train": {"lr": 3e-3, "batch": 8, "max_len": 128, "precision": "fp32", **train},
    }
    return {"name": "test", "seed": 3, "stages": [{**base, **stage}]}


@dataclass
class Case:
    """One attempt of a stage."""

    root: str
    experiment: dict[str, Any]
    attempt: int = 1
    source: str | None = None
    debug: bool = False
    kill_at: int | None = None
    """SIGKILL of this process right after so many optimizer steps of this attempt."""
    kill_sample: int | None = None
    """SIGKILL once its engine has handed out so many samples."""
    stop_at: int | None = None
    """USR2, likewise."""
    on_rank: int = 0
    """Which rank gets the signal."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> Path:
        return Path(self.root) / "jobs" / "train" / "stages" / self.experiment["stages"][0]["name"]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        path = Path(self.root) / "jobs" / "train" / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def losses(self) -> list[tuple[int, float]]:
        return [(r["step"], r["loss"]) for r in self.rows() if "loss" in r]

    def norms(self) -> list[float]:
        return [r["grad_norm"] for r in self.rows() if "loss" in r]

    def result(self) -> Any:
        """What rank 0's `run` gave; PREEMPTED where it asked for more time."""
        return json.loads((Path(self.root) / f"result-{self.attempt}.json").read_text())


def context(case: Case, *, rank: int = 0, size: int = 1) -> Any:
    """The stage's `StageContext` in this process, which may be one that generates for the others."""
    from jobs.methods.protocol import StageContext, World
    from jobs.runtime.guard import place
    from jobs.runtime.reporter import Reporter
    from jobs.runtime.signals import StopFlag
    from latentctl.record.paths import RunPaths
    from latentctl.spec.experiment import Experiment

    spec = Experiment.model_validate(case.experiment)
    stage = spec.stages[0]
    run = RunPaths(Path(case.root))
    job = run.job("train")
    job.attempt(case.attempt).root.mkdir(parents=True, exist_ok=True)
    stop = StopFlag()
    if case.stop_at is not None:
        stop.install()
    return StageContext(
        run=run,
        job=job,
        paths=job.stage(stage.name),
        experiment=spec,
        stage=stage,
        attempt=case.attempt,
        world=place(World(rank, size, rank, size), 0 if case.debug else stage.settings.generators),
        source=Path(case.source) if case.source else None,
        report=Reporter(job, stage=stage.name, attempt=case.attempt, main=rank == 0),
        stop=stop,
        data_dir=None,
        debug=case.debug,
    )


def run_case(case: Case, *, rank: int = 0, size: int = 1) -> Any:
    """One attempt in this process. Returns what the method's `run` gives, or PREEMPTED."""
    from jobs.methods.protocol import Preempted

    ctx = context(case, rank=rank, size=size)
    module, _, name = type(ctx.stage.settings).implementation.partition(":")
    restore = _signal_after(case) if rank == case.on_rank else lambda: None
    if ctx.world.trainers and case.stop_at is not None:
        threading.Thread(target=_stop_with_the_trainers, args=[case], daemon=True).start()
    try:
        method: Any = getattr(importlib.import_module(module), name)(ctx)
        result: Any = method.generate() if ctx.world.trainers else method.run()
        if rank == 0:  # as the worker commits
            ctx.paths.result.write_text(json.dumps(result, default=str))
    except Preempted:
        result = PREEMPTED
    finally:
        restore()
    if rank == 0:
        (Path(case.root) / f"result-{case.attempt}.json").write_text(json.dumps(result))
    return result


def _stop_with_the_trainers(case: Case) -> None:
    """A scheduler tells every process of a job; here those that train are told first."""
    while not (Path(case.root) / f"result-{case.attempt}.json").exists():
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGUSR2)


def _signal_after(case: Case) -> Any:
    from jobs.generate.transformers_engine import TransformersEngine
    from jobs.train.engine import Engine

    plain, generate, done, made = Engine.step, TransformersEngine.generate, 0, 0

    def samples(self: TransformersEngine, requests: Any) -> Any:
        nonlocal made
        for sample in generate(self, requests):
            made += 1
            if made == case.kill_sample:
                os.kill(os.getpid(), signal.SIGKILL)
            yield sample

    def step(self: Engine, batches: Any) -> Any:
        nonlocal done
        stepped = plain(self, batches)
        done += 1
        if done == case.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if done == case.stop_at:
            os.kill(os.getpid(), signal.SIGUSR2)
        return stepped

    def restore() -> None:
        Engine.step, TransformersEngine.generate = plain, generate

    Engine.step, TransformersEngine.generate = step, samples
    return restore


def launch(folder: Path, cases: Sequence[Case], *, size: int, killed: bool = False) -> None:
    """Run cases one after another in one group of `size` real processes. With `killed`, the job must die."""
    spec = folder / f"cases-{len(list(folder.glob('cases-*')))}.json"
    spec.write_text(json.dumps([vars(c) for c in cases]))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = []
    for rank in range(size):
        env = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
        }
        env.pop("DS_ACCELERATOR", None)
        log = (folder / f"{spec.stem}-rank{rank}.log").open("w")
        processes.append(
            subprocess.Popen([sys.executable, __file__, str(spec)], env=env, stdout=log, stderr=log)
        )
    codes = _wait(processes)
    logs = [(folder / f"{spec.stem}-rank{r}.log").read_text()[-3000:] for r in range(size)]
    if killed:
        assert -signal.SIGKILL in codes, (codes, *logs)
    else:
        assert codes == [0] * size, "\n".join([str(codes), *logs])


def _wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """As the entry of a job does: when one rank dies, the others are ended."""
    deadline = 240
    try:
        while any(p.poll() is None for p in processes):
            if any(p.poll() not in (None, 0) for p in processes):
                break
            deadline -= 0.1
            assert deadline > 0, "the job does not end"
            time.sleep(0.1)
        return [p.poll() if p.poll() is not None else _end(p) for p in processes]  # type: ignore[misc]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
            p.wait()


def _end(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


def main() -> None:
    """One rank: run every case of the file named on the command line."""
    import torch

    torch.set_num_threads(1)
    from jobs.train import config

    config._PERSIST = 0  # models of tests are so small that ZeRO-3 would share nothing out
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for raw in json.loads(Path(sys.argv[1]).read_text()):
        run_case(Case(**raw), rank=rank, size=size)
    from jobs.runtime import distributed

    distributed.shutdown()


if __name__ == "__main__":
    main()
