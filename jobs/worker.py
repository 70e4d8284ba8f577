"""One process of a job: `python -m jobs.worker RUN_DIR JOB ATTEMPT`, its place given by RANK, WORLD_SIZE, ...

Runs the job's stages one after the other, leaving out those that an earlier attempt finished. Exit codes: 0
done; 85 checkpointed, wants more time; 2 something that a person can mend; 1 any other failure. A rank that
fails says why in `failure-<rank>.json` of its attempt and leaves at once: its peers may never answer again.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import multiprocessing
import os
import pdb
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.runtime.errors import JobUserError, classify
from jobs.runtime.signals import StopFlag
from latentctl.faults.rules import Rules
from latentctl.record.adjust import micro_batches
from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.attempt import ensure_current
from latentctl.record.journal import Journal, now
from latentctl.record.paths import AttemptPaths, RunPaths
from latentctl.record.plan import EXIT_REQUEUE, JobPlan

# Stop signals must find a listener before the spec, torch and the rest are imported: see `main`.
if TYPE_CHECKING:
    from jobs.methods.protocol import StageContext, World
    from jobs.runtime.wandb import WandbSink
    from latentctl.spec.stage import StageBase

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
_WANDB_FINISH_S = 10.0
_WANDB_FINISH_HURRY_S = 3.0
"""After a failure or a preemption."""


class Worker:
    """The job in this process."""

    def __init__(self, run: RunPaths, job: str, attempt: int, stop: StopFlag) -> None:
        """Checks everything that can be checked before torch is loaded. Raises JobUserError."""
        from jobs.runtime import guard

        guard.check_snapshot(run)
        self.run, self.attempt, self.stop = run, attempt, stop
        self.world: World = guard.world_from_env()
        self.plan, self.job_plan = guard.load_plan(run, job)
        self.world = replace(self.world, gpus=self.job_plan.gpus_per_task)
        guard.check_world(self.world, self.job_plan)
        self.world = guard.place(self.world, self.job_plan.generators)
        self.job = run.job(job)
        ensure_current(self.job, attempt)
        self.experiment, self.spec_hash = guard.load_experiment(run)
        if self.world.main:
            guard.check_content(run, self.plan)
        guard.check_parents(run, self.job_plan)
        self.wandb: WandbSink | None = None

    @property
    def debug(self) -> bool:
        return self.plan.debug

    def main(self) -> None:
        """Run the stages. Raises what a stage raises, `Preempted` where the job is to stop."""
        from jobs.methods.protocol import Preempted
        from jobs.runtime import distributed

        _threads(self.job_plan, self.world)
        if self.world.trainers:
            return self._generate()
        self._open_wandb()
        distributed.init(self.world)
        for name in distributed.broadcast(self._left()):
            if self.stop.agreed():
                raise Preempted(f"before stage {name}: {self.stop.reason}")
            self._stage(self._adjusted(name))
            _free_memory()
        if self.world.main:
            self._finish()
        distributed.shutdown()

    def _adjusted(self, name: str) -> StageBase:
        """The stage; with the smaller micro-batch at which it is tried again."""
        stage = self.experiment.stage(name)
        rows = micro_batches(self.job).get(name)
        if rows is None:
            return stage
        if self.world.main:
            print(f"stage {name}: train.micro_batch {rows}, since it failed with more", flush=True)
        return stage.model_copy(update={"train": stage.train.model_copy(update={"micro_batch": rows})})

    def _left(self) -> list[str]:
        """The stages without a committed result."""
        return [s for s in self.job_plan.stages if not self.job.stage(s).result.exists()]

    def _generate(self) -> None:
        """For the processes that train, until each stage has its result."""
        from jobs.runtime import rng

        for name in self._left():
            stage = self._adjusted(name)
            ctx = self._context(stage)
            rng.seed_all(self.experiment.seed)
            try:
                _implementation(stage)(ctx).generate()
            finally:
                ctx.report.close()
            _free_memory()

    def _stage(self, stage: StageBase) -> None:
        from jobs.runtime import distributed, rng

        ctx = self._context(stage)
        ctx.report.event("stage_started", source=None if ctx.source is None else str(ctx.source))
        ctx.report.progress(0, None)
        rng.seed_all(self.experiment.seed)  # a stage draws the same whether it shares its process or not
        begin = time.monotonic()
        if self.world.main:
            print(f"stage {stage.name} ({stage.method}) begins, attempt {self.attempt}", flush=True)
        try:
            method = _implementation(stage)(ctx)
            numbers = method.run()
        finally:
            ctx.report.close()
        if close := getattr(method, "close", None):
            close()
        distributed.barrier()
        if self.world.main:
            self._commit(ctx, numbers, seconds=time.monotonic() - begin)
            print(f"stage {stage.name} is done after {time.monotonic() - begin:.0f} s", flush=True)
        distributed.barrier()
        ctx.report.event("stage_finished")

    def _context(self, stage: StageBase) -> StageContext:
        from jobs.methods.protocol import StageContext
        from jobs.runtime import sources
        from jobs.runtime.reporter import Reporter

        paths = self.job.stage(stage.name)
        paths.root.mkdir(parents=True, exist_ok=True)
        report = Reporter(
            self.job,
            stage=stage.name,
            attempt=self.attempt,
            main=self.world.main,
            journal=Journal(self.run.journal),
            wandb=self.wandb,
        )
        return StageContext(
            run=self.run,
            job=self.job,
            paths=paths,
            experiment=self.experiment,
            stage=stage,
            attempt=self.attempt,
            world=self.world,
            source=sources.resolve(self.run, self.plan, stage),
            report=report,
            stop=self.stop,
            data_dir=os.environ.get("LATENTCTL_DATA_DIR") or self.plan.cluster.get("data_dir"),
            debug=self.debug,
            spec_hash=self.spec_hash,
        )

    def _commit(self, ctx: StageContext, numbers: dict[str, Any], *, seconds: float) -> None:
        from jobs.runtime.reporter import plain

        whose = {
            "stage": ctx.stage.name,
            "method": ctx.stage.method,
            "attempt": self.attempt,
            "time": now(),
            "seconds": round(seconds, 3),
        }
        ensure_current(self.job, self.attempt)
        write_json(ctx.paths.result, {**whose, **plain(numbers), **whose})

    def _finish(self) -> None:
        results = {s: try_read_json(self.job.stage(s).result) for s in self.job_plan.stages}
        ensure_current(self.job, self.attempt)
        write_json(self.job.result, {"attempt": self.attempt, "time": now(), "stages": results})

    def _open_wandb(self) -> None:
        spec = self.experiment.wandb
        if spec is None or not self.world.main:
            return
        if self.debug:
            print("debug: nothing is sent to W&B", file=sys.stderr)
            return
        from jobs.runtime.wandb import WandbSink

        self.wandb = WandbSink(spec, run_id=self.run.id, job=self.job, config=self.experiment.dump())


def _implementation(stage: StageBase) -> Any:
    """The class that `settings.implementation` ("package.module:Class") names."""
    path = type(stage.settings).implementation
    module, colon, name = path.partition(":")
    if not colon:
        raise JobUserError(f"method {stage.method}: implementation {path!r} is not like module:Class")
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise JobUserError(f"method {stage.method}: module {module} has no {name}")
    return found


def _threads(job: JobPlan, world: World) -> None:
    """As many threads as this process has CPUs. Set before torch is loaded."""
    cpus = job.cpus_per_task or max(1, len(os.sched_getaffinity(0)) // world.local_size)
    os.environ.setdefault("OMP_NUM_THREADS", str(cpus))


def _free_memory() -> None:
    """Between stages: what a stage held must not weigh on the next."""
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _report_failure(exc: BaseException, run: RunPaths, attempt: AttemptPaths, rank: int) -> int:
    """Say why, on stderr and in the attempt. Returns the exit code."""
    failure = classify(exc, Rules.load(run.faults) if run.faults.exists() else None)
    if isinstance(exc, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    elif failure.kind == "user_error":
        hint = f"\nhint: {failure.hint}" if failure.hint else ""
        where = f"{failure.where}: " if failure.where else ""
        print(f"error: {where}{failure.message}{hint}", file=sys.stderr)
    else:
        traceback.print_exception(exc)
        print(f"rank {rank} failed ({failure.kind}): {failure.message}", file=sys.stderr)
    try:
        if attempt.root.is_dir():
            write_json(attempt.failure(rank), failure.record(rank))
    except OSError as err:
        print(f"{attempt.failure(rank)} was not written: {err}", file=sys.stderr)
    return EXIT_USER_ERROR if failure.kind == "user_error" else EXIT_FAILED


def _is_a_riddle(exc: BaseException) -> bool:
    """Worth a debugger: neither Ctrl-C nor a mistake that is already told in words."""
    return isinstance(exc, Exception) and not isinstance(exc, JobUserError)


def _leave(code: int) -> None:
    """End without teardown: what counts is on disk, and NCCL, gloo or a network may hang on the way out."""
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _arguments(argv: list[str]) -> tuple[RunPaths, str, int]:
    if len(argv) != 3 or not argv[2].isdecimal():
        print("usage: python -m jobs.worker RUN_DIR JOB ATTEMPT", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    return RunPaths(Path(argv[0]).resolve()), argv[1], int(argv[2])


def main(argv: list[str]) -> None:
    """Never returns."""
    stop = StopFlag()
    stop.install()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    run, job, attempt = _arguments(argv)
    rank = int(rank) if (rank := os.environ.get("RANK", "0")).isdecimal() else 0
    worker = None
    try:
        from jobs.methods.protocol import Preempted

        try:
            worker = Worker(run, job, attempt, stop)
            worker.main()
            code = 0
        except Preempted as exc:
            print(f"stopped, to go on in the next attempt: {exc or stop.reason}", file=sys.stderr)
            code = EXIT_REQUEUE
    except BaseException as exc:
        code = _report_failure(exc, run, run.job(job).attempt(attempt), rank)
        if worker and worker.debug and _is_a_riddle(exc) and worker.world.size == 1 and sys.stdin.isatty():
            pdb.post_mortem(exc.__traceback__)
    if worker and worker.wandb:
        worker.wandb.finish(_WANDB_FINISH_HURRY_S if code else _WANDB_FINISH_S, code)
    _leave(code)


if __name__ == "__main__":
    main(sys.argv[1:])
