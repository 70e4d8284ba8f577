"""The method `eval`: generate answers to the problems of a dataset, grade them, count.

Data parallel over the processes of the job: each takes every n-th problem and appends a row per sample to a
file of its own. Processes meet through files alone: a slow one may take hours longer than the first, which
no collective waits for. A killed evaluation goes on sample by sample, with any number of processes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from jobs.data.example import Example
from jobs.data.load import Loaded, load
from jobs.data.render import Renderer
from jobs.generate.make import make_engine
from jobs.generate.protocol import Engine, Request, Sample
from jobs.generate.text import count_before
from jobs.grade import samples
from jobs.grade.judge import judge, summary
from jobs.grade.registry import get
from jobs.methods.descent import leakage
from jobs.methods.peers import Peers
from jobs.methods.protocol import Preempted, StageContext
from jobs.models import load_model, load_tokenizer, read_latent
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from latentctl.record.attempt import ensure_current
from latentctl.spec.methods import EvalSettings
from latentctl.spec.prompt import PromptSpec
from latentctl.spec.sampling import SamplingSpec

DEBUG_ROWS = 4
_TICK_S = 0.5


class Evaluate:
    """One evaluation stage in one process."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.settings = cast(EvalSettings, ctx.stage.settings)
        self.prompt = _prompt(ctx)
        self.peers = Peers(ctx.paths.root / "samples", ctx.attempt, ctx.world)

    def run(self) -> dict[str, Any]:
        """Generate this process's share; process 0 then grades all. Raises Preempted with all rows on
        disk."""
        ctx = self.ctx
        plugins = ctx.experiment.plugins
        data = load(ctx.stage.dataset, data_dir=ctx.data_dir, plugins=plugins)
        examples = data.examples[:DEBUG_ROWS] if ctx.debug else data.examples
        grader = data.grader if self.settings.grader == "auto" else self.settings.grader
        get(grader, plugins)  # a wrong name is better known before hours of generation
        try:
            mine, digest = self._generate(data, examples)
            self.peers.announce("done", mine)
            self.peers.wait_for("done", self.stopped)
            if not ctx.world.main:
                self.peers.wait_for("graded", self.stopped, only=0)
                return {}
            numbers = self._grade(data, examples, grader)
            self.peers.announce("graded", {})
        except Preempted:
            self.peers.announce("stopped", {})
            raise
        return {**numbers, "prompt_hash": digest}

    def stopped(self) -> bool:
        """This process or one of its peers was told to stop."""
        return self.ctx.stop.set or self.peers.any_said("stopped")

    def _generate(self, data: Loaded, examples: list[Example]) -> tuple[dict[str, Any], str]:
        """Append the missing samples of this process's problems; (its tokens and seconds, hash of all
        prompts)."""
        ctx = self.ctx
        plain = Renderer(None, self.prompt, data.instruction)
        tokenizer = load_tokenizer(ctx.stage, ctx.source, lambda: plain.texts(examples))
        renderer = Renderer(tokenizer, self.prompt, data.instruction)
        prompts = [renderer.prompt(e) for e in examples]
        digest = hashlib.sha256(repr([ids for _, ids in prompts]).encode()).hexdigest()[:16]
        asked, total = self._missing(examples)
        progress = _Progress(self, len(examples), total, total - len(asked))
        if not asked:
            progress.report()
            return {"tokens": 0, "samples": 0, "seconds": 0.0}, digest
        sampling = _seeded(ctx.stage.sampling, ctx.experiment.seed)
        markers = self.prompt.markers.start, self.prompt.markers.end
        requests = [Request(id, k, prompts[i][1], sampling, markers) for (id, k), i in asked.items()]
        engine = self._engine(tokenizer, progress.on_step)
        _check(requests, engine.refuses)
        out = samples.Appender(ctx.paths.rank_samples(ctx.world.rank))
        tokens = 0
        try:
            progress.begin = time.monotonic()
            for sample in engine.generate(requests):
                i = asked[sample.id, sample.index]
                out.add(self._row(sample, examples[i], prompts[i], tokenizer))
                progress.finished += 1
                tokens += len(sample.ids)
        finally:
            out.close()
            engine.close()
        if progress.finished < total:
            why = ctx.stop.reason or "another process stopped"
            raise Preempted(f"{progress.finished} of {total} samples are on disk: {why}")
        progress.report()
        return {"tokens": tokens, "samples": len(asked), "seconds": time.monotonic() - progress.begin}, digest

    def _missing(self, examples: list[Example]) -> tuple[dict[tuple[str, int], int], int]:
        """Samples of this process's problems that no file has: (id, index) -> place of the problem; and
        how many samples its problems have in all. The split does not depend on what is done, so
        processes need not agree."""
        ctx = self.ctx
        done = {samples.key(row) for row in samples.read_parts(ctx.paths.rank_samples(0).parent)}
        mine = range(ctx.world.rank, len(examples), ctx.world.size)
        every = {(examples[i].id, k): i for i in mine for k in range(ctx.stage.sampling.samples)}
        return {key: i for key, i in every.items() if key not in done}, len(every)

    def _engine(self, tokenizer: Any, on_step: Callable[[int], bool]) -> Engine:
        model = load_model(
            self.ctx.stage,
            self.ctx.source,
            precision=self.settings.precision,
            device=distributed.device(self.ctx.world),
            vocab_size=len(tokenizer),
        )
        return make_engine(
            self.settings.engine,
            model,
            tokenizer,
            max_batch=self.settings.max_batch,
            max_batch_tokens=self.settings.max_batch_tokens,
            on_step=on_step,
        )

    def _row(
        self, sample: Sample, example: Example, prompt: tuple[str, list[int]], tokenizer: Any
    ) -> samples.Row:
        markers = self.prompt.markers.start, self.prompt.markers.end
        row = {
            "id": sample.id,
            "index": sample.index,
            "question": example.question,
            "prompt": prompt[0],
            "prompt_tokens": len(prompt[1]),
            "gold": example.answer,
            "meta": example.meta,
            "markers": list(("", "") if self.prompt.form == "coconut" else markers),
            "text": sample.text,
            "tokens": len(sample.ids),
            "think_tokens": count_before(tokenizer, sample.ids, markers[1]),
            "cause": sample.cause,
            "forced": sample.forced,
            "logp_sum": round(sum(sample.logps), 4),
        }
        return row | ({"error": sample.error} if sample.error else {})

    def _grade(self, data: Loaded, examples: list[Example], grader: str) -> dict[str, Any]:
        """Merge all processes' rows, each sample once, in the order of the dataset; grade; count."""
        ctx = self.ctx
        held = {samples.key(row): row for row in samples.read_parts(ctx.paths.rank_samples(0).parent)}
        wanted = [(e.id, index) for e in examples for index in range(ctx.stage.sampling.samples)]
        missing = [key for key in wanted if key not in held]
        if missing:
            raise RuntimeError(f"{len(missing)} of {len(wanted)} samples are missing, such as {missing[0]}")
        rows = judge(
            [held[key] for key in wanted],
            grader,
            timeout=self.settings.grade_timeout,
            plugins=ctx.experiment.plugins,
        )
        ensure_current(ctx.job, ctx.attempt)
        samples.write(ctx.paths.samples, rows)
        numbers = summary(rows)
        ctx.report.log(len(examples), accuracy=numbers["accuracy"], truncated=numbers["truncated"])
        return {
            **numbers,
            **self._speed(),
            "dataset": data.name,
            "split": data.split,
            "bad_rows": len(data.bad_rows),
            "grader": grader,
            "engine": "transformers",
            "source": None if ctx.source is None else str(ctx.source),
            "leakage": leakage(ctx, examples),
        }

    def _speed(self) -> dict[str, Any]:
        """Of this attempt's generation, loading aside: all tokens over the slowest process's seconds."""
        said = self.peers.read("done")
        seconds = max(s["seconds"] for s in said)
        if seconds <= 0:
            return {"problems_per_s": None, "tokens_per_s": None, "generation_seconds": 0.0}
        k = self.ctx.stage.sampling.samples
        return {
            "problems_per_s": sum(s["samples"] for s in said) / k / seconds,
            "tokens_per_s": sum(s["tokens"] for s in said) / seconds,
            "generation_seconds": round(seconds, 3),
        }


class _Progress:
    """What the heartbeat says while an engine generates, and when the engine is to stop."""

    def __init__(self, method: Evaluate, problems: int, total: int, finished: int) -> None:
        self.method, self.problems = method, problems
        self.total, self.finished = total, finished
        self.begin = self.ticked = time.monotonic()
        self.tokens = 0

    def on_step(self, tokens: int) -> bool:
        """After each decoding step. True: stop."""
        self.tokens = tokens
        if time.monotonic() - self.ticked < _TICK_S:
            return self.method.ctx.stop.set
        self.ticked = time.monotonic()
        self.report()
        return self.method.stopped()

    def report(self) -> None:
        """Process 0's share stands for all: the others are about as far."""
        share = self.finished / self.total if self.total else 1.0
        rate = round(self.tokens / max(1e-9, time.monotonic() - self.begin), 1)
        step = int(share * self.problems)
        self.method.ctx.report.progress(step, self.problems, unit="problem", tokens_per_s=rate)


def _prompt(ctx: StageContext) -> PromptSpec:
    """The recipe's, else what the checkpoint carries. Raises JobUserError where both are silent."""
    if ctx.stage.prompt is not None:
        return ctx.stage.prompt
    latent = read_latent(ctx.source) if isinstance(ctx.source, Path) else None
    if latent is None or not latent.get("prompt"):
        raise JobUserError(
            "neither the recipe nor the checkpoint says how to put a problem to this model",
            hint="give the eval stage a prompt block, such as prompt: {template: auto, form: plain}",
            where=f"{ctx.stage.name}.prompt",
        )
    return PromptSpec.model_validate(latent["prompt"])


def _seeded(sampling: SamplingSpec, seed: int) -> SamplingSpec:
    """Each of the recipe's `seeds` draws its own samples."""
    return sampling.model_copy(update={"seed": sampling.seed + 1_000_003 * seed})


def _check(requests: list[Request], refuses: Any) -> None:
    """Where no request can be served, the recipe is wrong. Raises JobUserError."""
    reasons = [reason for request in requests if (reason := refuses(request))]
    if len(reasons) == len(requests):
        raise JobUserError(
            f"no problem can be put to this model: {reasons[0]}",
            hint="lower sampling.max_new_tokens",
            where="sampling.max_new_tokens",
        )
