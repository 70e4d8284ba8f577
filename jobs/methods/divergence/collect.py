"""`method: divergence-data`: trees of answers, and of every branch and its parent whether they came to the
same answer."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

from jobs.data.load import Loaded
from jobs.grade import samples
from jobs.grade.pool import Pool
from jobs.grade.protocol import Answered
from jobs.grade.samples import Row
from jobs.methods.asking import Questions
from jobs.methods.divergence.labels import EQUAL, OTHER
from jobs.methods.divergence.rows import Pair, balanced, pairs, windows
from jobs.methods.evaluate import Evaluate
from latentctl.record.attempt import ensure_current
from latentctl.spec.divergence import DivergenceDataSettings


class Collect(Evaluate):
    """An evaluation by tree search whose samples become a data set. Texts are tokenized anew where they are
    cut into windows."""

    settings: DivergenceDataSettings

    def _grade(self, data: Loaded, questions: Questions, grader: str) -> dict[str, Any]:
        numbers = super()._grade(data, questions, grader)
        graded = samples.read(self.ctx.paths.samples)
        found = [
            pair for _, group in groupby(graded, key=lambda r: r["id"]) for pair in pairs(list(group), grader)
        ]
        known = self._labelled(found, grader)
        settings = self.settings
        rows = [
            row
            for pair in known
            for row in windows(pair, questions.tokenizer, settings.windows, settings.before)
        ]
        kept = balanced(rows) if settings.balance else rows
        ensure_current(self.ctx.job, self.ctx.attempt)
        samples.write(self.ctx.paths.dataset, kept)
        branches = sum(bool(r.get("branch")) and r["branch"]["parent"] is not None for r in graded)
        return {**numbers, "pairs": {"branches": branches, "answered": len(known), **_told(rows, kept)}}

    def _labelled(self, found: list[Pair], grader: str) -> list[Pair]:
        """With what the grader says of answers that are written differently; those that it fails on are left
        out."""
        asked = [pair for pair in found if pair.label is None]
        items = [Answered(f"\\boxed{{{a}}}", b, markers=("", "")) for a, b in (p.answers for p in asked)]
        with Pool(grader, timeout=self.settings.grade_timeout, plugins=self.ctx.experiment.plugins) as pool:
            verdicts = {id(p): v for p, v in zip(asked, pool.grade(items), strict=True)}
        known = []
        for pair in found:
            if pair.label is not None:
                known.append(pair)
            elif (verdict := verdicts[id(pair)]).status != "error":
                known.append(pair._replace(label=EQUAL if verdict.correct else OTHER))
        return known


def _told(rows: list[Row], kept: list[Row]) -> dict[str, Any]:
    """How many rows of each label there were, and how many were kept."""
    names = {0.0: "other", 0.5: "equal", 1.0: "same"}
    count, left = (Counter(names[r["label"]] for r in each) for each in (rows, kept))
    return {
        "rows": len(kept),
        "problems": len({r["problem"] for r in kept}),
        "found": dict(count),
        "kept": dict(left),
    }
