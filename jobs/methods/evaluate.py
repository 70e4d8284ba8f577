"""The method `eval`: generate answers to the problems of a dataset, grade them, count.

Data parallel over the processes of the job (`sharing`). A killed evaluation goes on sample by sample: one is
done when its row is on disk, and its trace was written before that.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from jobs.data.load import Loaded, load
from jobs.generate.protocol import Engine, Sample
from jobs.grade import diversity, samples
from jobs.grade.judge import judge, summary
from jobs.grade.registry import get
from jobs.methods.asking import Asking, Questions
from jobs.methods.descent import leakage
from jobs.methods.keeping import engine_for
from jobs.methods.peers import Peers
from jobs.methods.protocol import StageContext
from jobs.methods.rows import Rows
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
from latentctl.record.attempt import ensure_current
from latentctl.spec.methods import EvalSettings, GradedSettings
from latentctl.spec.tree import TreeSpec

DEBUG_ROWS = 4


class Evaluate:
    """One evaluation stage in one process."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.settings = cast(GradedSettings, ctx.stage.settings)
        self.tree: TreeSpec | None = getattr(self.settings, "tree", None)
        self.asking = Asking(ctx)
        self.peers = Peers(ctx.paths.root / "samples", ctx.attempt, ctx.world)
        self.part = ctx.paths.rank_samples(ctx.world.rank)

    def run(self) -> dict[str, Any]:
        """Generate this process's share; process 0 then grades all. Raises Preempted with all rows on
        disk."""
        ctx = self.ctx
        plugins = ctx.experiment.plugins
        data = load(ctx.stage.dataset, data_dir=ctx.data_dir, plugins=plugins)
        examples = data.examples[:DEBUG_ROWS] if ctx.debug else data.examples
        grader = data.grader if self.settings.grader == "auto" else self.settings.grader
        get(grader, plugins)  # a wrong name is better known before hours of generation
        questions = self.asking.put(data, examples)
        return in_turn(
            ctx,
            self.peers,
            lambda: self._generate(questions),
            lambda: self._grade(data, questions, grader),
        )

    def _generate(self, questions: Questions) -> dict[str, Any]:
        """Append the missing samples of this process's problems."""
        share = Share(self.ctx, self.peers, questions.examples, self._done(questions))
        if not share.asked:
            share.report()
            return NOTHING_LEFT
        requests = [
            questions.request(place, index, trace=self._trace(place), tree=self.tree)
            for (_, index), place in share.asked.items()
        ]

        def make() -> Engine:
            tokenizer = questions.tokenizer
            return open_engine(self.ctx, self.settings, tokenizer, requests, share.on_step, tree=self.tree)

        with engine_for(self.ctx, requests, share.on_step, make) as engine:
            check(self.ctx.stage.name, requests, engine)
            announce_engine(self.peers, engine)
            out = _Out(Rows(questions, self.asking.prompt), self.part, self._trace)
            try:
                return share.generate(engine, requests, out.add)
            finally:
                out.close()

    def _trace(self, place: int) -> int | None:
        """How many tokens are recorded of each latent step of the problem at `place`; None: no trace."""
        settings = self.settings
        if self.asking.latent is None or not isinstance(settings, EvalSettings):
            return None
        if settings.trace == "off" or place >= settings.trace_problems:
            return None
        return 1 if settings.trace == "summary" else settings.trace_top

    def _done(self, questions: Questions) -> set[tuple[str, int]]:
        """Samples whose row is on disk, and whose trace is where there is to be one."""
        traced = {e.id for i, e in enumerate(questions.examples) if self._trace(i) is not None}
        traces = {samples.key(row) for row in samples.read_parts(self.part.parent, "traces")}
        rows = map(samples.key, samples.read_parts(self.part.parent))
        done = {key for key in rows if key[0] not in traced or key in traces}
        if self.tree is None:
            return done
        count = Counter(id for id, _ in done)  # a tree that was not finished is searched again
        return {key for key in done if count[key[0]] == self.ctx.stage.sampling.samples}

    def _grade(self, data: Loaded, questions: Questions, grader: str) -> dict[str, Any]:
        """Merge all processes' rows, each sample once, in the order of the dataset; grade; count."""
        ctx = self.ctx
        held = {samples.key(row): row for row in samples.read_parts(self.part.parent)}
        wanted = [(e.id, index) for e in questions.examples for index in range(ctx.stage.sampling.samples)]
        missing = [key for key in wanted if key not in held]
        if missing:
            raise RuntimeError(f"{len(missing)} of {len(wanted)} samples are missing, such as {missing[0]}")
        rows = judge(
            [held[key] for key in wanted],
            grader,
            timeout=self.settings.grade_timeout,
            plugins=ctx.experiment.plugins,
        )
        facts = self.asking.facts()
        numbers = summary(rows, facts["latent"])
        if self.tree is not None:
            numbers["tree"] = diversity.searched(rows)
        if self.tree is not None or getattr(self.settings, "diversity", False):
            numbers["diversity"] = diversity.report(rows)
        ensure_current(ctx.job, ctx.attempt)
        traces = {samples.key(row): row for row in samples.read_parts(self.part.parent, "traces")}
        if traces:
            samples.write(ctx.paths.traces, [traces[key] for key in wanted if key in traces])
        samples.write(ctx.paths.samples, rows)
        for warning in numbers["warnings"]:
            print(f"{ctx.stage.name}: warning: {warning}", file=sys.stderr, flush=True)
        ctx.report.log(len(questions.examples), accuracy=numbers["accuracy"], truncated=numbers["truncated"])
        return {
            **numbers,
            **speed(self.peers.read("done"), ctx.stage.sampling.samples),
            **facts,
            "dataset": data.name,
            "split": data.split,
            "data_hash": questions.data_hash,
            "prompt_hash": questions.prompt_hash,
            "bad_rows": len(data.bad_rows),
            "grader": grader,
            **engine_facts(self.peers),
            "source": None if ctx.source is None else str(ctx.source),
            "leakage": leakage(ctx, questions.examples),
        }


class _Out:
    """This process's files: a sample's trace is written first, its row last."""

    def __init__(self, rows: Rows, part: Path, trace: Callable[[int], int | None]) -> None:
        self.rows, self.trace = rows, trace
        self.samples = samples.Appender(part)
        self.traces: samples.Appender | None = None
        self._traces_at = samples.trace_part(part)

    def add(self, sample: Sample, place: int) -> None:
        if self.trace(place) is not None:
            self.traces = self.traces or samples.Appender(self._traces_at)
            self.traces.add(self.rows.trace(sample))
        self.samples.add(self.rows.sample(sample, place))

    def close(self) -> None:
        if self.traces is not None:
            self.traces.close()
        self.samples.close()
