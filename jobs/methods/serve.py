"""The method `serve`: vLLM's server until it is stopped or the job's time is over."""

from __future__ import annotations

import os
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from sys import executable
from typing import Any, cast

from jobs.methods.protocol import Preempted, StageContext
from jobs.models import read_latent
from jobs.models.source import check_weights
from jobs.runtime.errors import JobUserError
from jobs.serve.process import ServerProcess, environment, listen
from jobs.serve.settling import settled
from jobs.serve.told import Told
from latentctl.record.atomic import try_read_json
from latentctl.record.journal import now
from latentctl.record.plan import Plan
from latentctl.record.serving import KEY_VARIABLE, Serving
from latentctl.spec.engine import EngineSpec
from latentctl.spec.serving import ServeSettings

_TICK_S = 0.5
_COUNT_S = 2.0
_EARLY_S = 90.0
"""Slurm's signal may come a minute early, and a process takes a while to get here."""
_SAY_S = 60.0
"""A server that nobody asks anything says so often that it lives."""


class Serve:
    """One server; one process starts and watches it."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.settings = cast(ServeSettings, ctx.stage.settings)

    def run(self) -> dict[str, Any]:
        """Its numbers, once its time is over. Raises Preempted where it is stopped or moved before that,
        JobUserError where it cannot start, `jobs.serve.process.ServerFailed`
        where it ends by itself."""
        ctx = self.ctx
        self._check()
        begin = time.monotonic()
        with listen(self.settings.host, self.settings.port) as sock:
            told = self._told(sock.getsockname()[1])
            server = ServerProcess(told.save(ctx.paths.root), sock, told.host, told.port, self._environment())
        try:
            ctx.report.progress(0, None, unit="request")
            if server.wait_until_ready(self.settings.ready_timeout, lambda: ctx.stop.set):
                ready = time.monotonic()
                self._announce(told, server)
                answered = self._watch(server)
                self._stop(begin, f"after {answered} requests")
                return {
                    "requests": answered,
                    "start_seconds": round(ready - begin, 3),
                    "served_seconds": round(time.monotonic() - ready, 3),
                    "latent": told.latent,
                }
            self._stop(begin, "before it was ready")
            raise JobUserError(
                "the time limit came before the server was ready",
                hint="give it longer: --time",
                where="resources.time",
            )
        finally:
            server.end()

    def _check(self) -> None:
        ctx = self.ctx
        if ctx.world.size > 1:
            raise JobUserError(
                f"one process starts the server; this job has {ctx.world.size}",
                hint="give tensor_parallel as many GPUs as resources.gpus, and one node",
                where=f"{ctx.stage.name}.resources",
            )
        if ctx.source is None:
            raise JobUserError(
                "there are no weights to serve: model.init is a random model",
                hint="name a checkpoint: from: RUN/STAGE, or model: DIRECTORY",
                where=f"{ctx.stage.name}.from",
            )
        if isinstance(ctx.source, Path):
            check_weights(ctx.source)
        if find_spec("vllm") is None:
            raise JobUserError(
                f"vllm is not installed in {executable}",
                hint="pip install 'latentctl[vllm]', or name a python that has it under interpreter.eval of "
                "the cluster profile",
            )
        if self.settings.api_key and not os.environ.get(KEY_VARIABLE):
            raise JobUserError(
                f"this server asks for a key, and {KEY_VARIABLE} is not set where it starts",
                hint=f"set {KEY_VARIABLE} in the shell that submits or retries it",
            )

    def _told(self, port: int) -> Told:
        ctx, settings = self.ctx, self.settings
        carried = (read_latent(ctx.source) if isinstance(ctx.source, Path) else None) or {}
        latent = settled(ctx.stage.latent, carried, where=f"{ctx.stage.name}.latent")
        return Told(
            source=str(ctx.source),
            revision=ctx.stage.model.revision if str(ctx.source) == ctx.stage.model.path else None,
            trust_remote_code=ctx.stage.model.trust_remote_code,
            served_name=settings.served_name or _name(ctx),
            host=settings.host,
            port=port,
            api_key=settings.api_key,
            latent=None if latent is None else latent.model_dump(mode="json"),
            carried=carried,
            unasked=settings.unasked,
            engine=settings.model_dump(mode="json", include=set(EngineSpec.model_fields)),
            max_len=settings.max_len,
        )

    def _environment(self) -> dict[str, str]:
        env = environment()
        if not self.settings.api_key:
            env.pop(KEY_VARIABLE, None)
        return env

    def _announce(self, told: Told, server: ServerProcess) -> None:
        """Say where it answers, in serving.json and in the journal."""
        about = server.ask("/v1/latent")
        Serving(
            attempt=self.ctx.attempt,
            node=_node(self.ctx),
            host=told.host,
            port=told.port,
            model=told.served_name,
            api_key=told.api_key,
            latent=about["latent"],
            unasked=told.unasked,
            example=about["example"],
            time=now(),
        ).save(self.ctx.paths.root)
        self.ctx.report.event("ready", host=told.host, port=told.port)
        print(f"ready: {told.served_name} on {told.host}, port {told.port}", flush=True)

    def _watch(self, server: ServerProcess) -> int:
        """Until it is to stop. Returns how many requests were answered."""
        ctx, answered, counted, said = self.ctx, 0, 0.0, 0.0
        while not ctx.stop.set:
            server.check()
            if time.monotonic() - counted > _COUNT_S:
                counted = time.monotonic()
                ctx.report.alive(int(counted))  # nobody may ask for hours
                before, answered = answered, server.requests() or answered
                if answered != before or counted - said > _SAY_S:
                    said = counted
                    ctx.report.progress(answered, None, unit="request")
            time.sleep(_TICK_S)
        return server.requests() or answered

    def _stop(self, begin: float, when: str) -> None:
        """Raises Preempted where the signal was not that of the time limit: it goes on in another attempt, or
        whoever stopped it knows better."""
        ctx = self.ctx
        plan = Plan.load(ctx.run.plan)
        limit = plan.job(ctx.job.name).time_s
        lead = min(float(plan.cluster.get("signal_lead") or 0), limit / 2)
        over = time.monotonic() - begin > limit - lead - _EARLY_S
        if ctx.stop.reason != "USR2" or not over:
            raise Preempted(f"{ctx.stop.reason} {when}")


def _node(ctx: StageContext) -> str:
    """This machine, as its scheduler calls it."""
    started = try_read_json(ctx.job.attempt(ctx.attempt).info) or {}
    return started.get("host") or socket.gethostname()


def _name(ctx: StageContext) -> str:
    """What requests call the model: `RUN/STAGE`, the directory's name, or the Hub id."""
    said = ctx.stage.from_ or "model"
    if said.startswith("run:"):
        return said.removeprefix("run:")
    if said != "model" and isinstance(ctx.source, Path) and ctx.run.root in ctx.source.parents:
        return f"{ctx.run.id}/{said}"
    return ctx.source.name if isinstance(ctx.source, Path) else str(ctx.source)
