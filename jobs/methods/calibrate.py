"""The method `calibrate`: entropies of latent steps over a dataset, and the thresholds that they give.

For text alone the entropies of the tokens of the reasoning are taken, up to where the answer begins. Data
parallel and resumed as an evaluation is.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from jobs.data.load import load
from jobs.generate.protocol import Engine, Sample
from jobs.generate.text import count_before
from jobs.grade import samples
from jobs.methods import thresholds
from jobs.methods.asking import Asking, Questions
from jobs.methods.evaluate import DEBUG_ROWS
from jobs.methods.keeping import engine_for
from jobs.methods.peers import Peers
from jobs.methods.protocol import StageContext
from jobs.methods.sharing import (
    NOTHING_LEFT,
    Share,
    announce_engine,
    check,
    engine_facts,
    in_turn,
    open_engine,
    speed,
)
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import write_json
from latentctl.record.attempt import ensure_current
from latentctl.record.calibration import Calibration
from latentctl.spec.latent import LatentSpec, SoftInput
from latentctl.spec.methods import CalibrateSettings
from latentctl.spec.prompt import PromptSpec


class Calibrate:
    """One calibration stage in one process."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.settings = cast(CalibrateSettings, ctx.stage.settings)
        self.asking = Asking(ctx)
        self.peers = Peers(ctx.paths.root / "samples", ctx.attempt, ctx.world)
        self.part = ctx.paths.rank_samples(ctx.world.rank)

    def run(self) -> dict[str, Any]:
        """Measure this process's share; process 0 then counts all. Raises Preempted with all rows on disk,
        JobUserError where there is no step to measure."""
        ctx = self.ctx
        data = load(ctx.stage.dataset, data_dir=ctx.data_dir, plugins=ctx.experiment.plugins)
        examples = data.examples[:DEBUG_ROWS] if ctx.debug else data.examples
        questions = self.asking.put(data, examples)

        def finish() -> dict[str, Any]:
            found, numbers = self._count(questions, f"{data.name} {data.split}")
            ensure_current(ctx.job, ctx.attempt)
            write_json(ctx.paths.calibration, found.dump())
            ctx.report.log(len(examples), steps=found.steps, **numbers)
            return {
                "calibration": found.dump(),
                "steps": found.steps,
                "problems": found.problems,
                **numbers,
                **speed(self.peers.read("done"), ctx.stage.sampling.samples),
                **self.asking.facts(),
                "dataset": data.name,
                "split": data.split,
                "data_hash": questions.data_hash,
                "prompt_hash": questions.prompt_hash,
                "bad_rows": len(data.bad_rows),
                **engine_facts(self.peers),
                "source": None if ctx.source is None else str(ctx.source),
            }

        return in_turn(ctx, self.peers, lambda: self._generate(questions), finish)

    def _generate(self, questions: Questions) -> dict[str, Any]:
        """Append the entropies of this process's missing samples."""
        done = {samples.key(row) for row in samples.read_parts(self.part.parent)}
        share = Share(self.ctx, self.peers, questions.examples, done)
        if not share.asked:
            share.report()
            return NOTHING_LEFT
        trace = None if self.asking.latent is None else 0
        requests = [questions.request(place, index, trace=trace) for (_, index), place in share.asked.items()]
        text = "it does not give the entropy of written tokens, and there are no latent steps"
        only = text if self.asking.latent is None else None

        def make() -> Engine:
            tokenizer = questions.tokenizer
            return open_engine(self.ctx, self.settings, tokenizer, requests, share.on_step, only=only)

        with engine_for(self.ctx, requests, share.on_step, make) as engine:
            check(self.ctx.stage.name, requests, engine)
            announce_engine(self.peers, engine)
            out = _Out(self, engine, questions)
            try:
                return share.generate(engine, requests, out.add)
            finally:
                out.close()

    def _count(self, questions: Questions, dataset: str) -> tuple[Calibration, dict[str, float]]:
        ctx, latent = self.ctx, self.asking.latent
        kept: dict[str, list[float]] = {e.id: [] for e in questions.examples}
        for row in sorted(samples.read_parts(self.part.parent), key=samples.key):
            if row["id"] in kept:
                kept[row["id"]] += row["entropies"]
        measured = [np.array(values) for values in kept.values() if values]
        if not measured:
            what = "token of reasoning was written" if latent is None else "latent step was taken"
            raise JobUserError(
                f"no {what}: there is nothing to calibrate on",
                hint="do the prompt's form, the markers and the latent settings fit this checkpoint?",
                where=ctx.stage.name,
            )
        ratio = self.settings.target_ratio
        on, temperature = measured_on(latent)
        found = Calibration(
            model="a random model" if ctx.source is None else str(ctx.source),
            dataset=dataset,
            steps=sum(map(len, measured)),
            problems=len(measured),
            rows=tuple(thresholds.shares(measured, self.settings.thresholds)),
            target=None if ratio is None else thresholds.target(measured, ratio),
            latent=None if latent is None else latent.model_dump(mode="json"),
            on=on,
            temperature=temperature,
        )
        return found, {"entropy_mean": float(np.concatenate(measured).mean())}


def measured_on(latent: LatentSpec | None) -> tuple[str, float]:
    """Whose entropy it is, and its temperature. That of latent steps is the one at which `stop.entropy`
    looks."""
    if latent is None:
        return "text", 1.0
    entropy = latent.stop.entropy if latent.stop else None
    if entropy is not None and entropy.on == "model":
        return "model", 1.0
    return "input", latent.input.temperature if isinstance(latent.input, SoftInput) else 1.0


def reasoning_end(prompt: PromptSpec) -> str | None:
    """The text before which the reasoning stands; None where the whole answer is taken."""
    return {"plain": prompt.markers.end, "xml": "</think>", "coconut": "###"}.get(prompt.form)


class _Out:
    """This process's file: a row of entropies per sample. Text is measured a batch at a time."""

    def __init__(self, method: Calibrate, engine: Any, questions: Questions) -> None:
        self.settings, self.latent = method.settings, method.asking.latent
        self.end = reasoning_end(method.asking.prompt)
        self.engine, self.questions = engine, questions
        self.waiting: list[tuple[Sample, int]] = []
        self.file = samples.Appender(method.part)

    def add(self, sample: Sample, place: int) -> None:
        if self.latent is not None:
            self._write(sample, [thought.entropy for thought in sample.thoughts or ()])
            return
        self.waiting.append((sample, place))
        if len(self.waiting) >= self.settings.max_batch:
            self._measure()

    def close(self) -> None:
        self._measure()
        self.file.close()

    def _measure(self) -> None:
        items = ((self.questions.prompts[place][1], self._reasoning(s)) for s, place in self.waiting)
        found = self.engine.entropies(items) if self.waiting else ()
        for (sample, _), values in zip(self.waiting, found, strict=True):
            self._write(sample, values)
        self.waiting = []

    def _reasoning(self, sample: Sample) -> list[int]:
        before = None if self.end is None else count_before(self.questions.tokenizer, sample.ids, self.end)
        return sample.ids[:before]

    def _write(self, sample: Sample, values: list[float]) -> None:
        row: dict[str, Any] = {"id": sample.id, "index": sample.index, "cause": sample.cause}
        self.file.add({**row, "latents": sample.latents, "entropies": [round(v, 6) for v in values]})
