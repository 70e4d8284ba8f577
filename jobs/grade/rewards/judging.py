"""All rewards of a stage: what each attempt is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from jobs.grade.pool import Pool
from jobs.grade.protocol import Verdict
from jobs.grade.rewards import formats, lengths
from jobs.grade.rewards.own import Runner
from jobs.grade.rewards.protocol import Attempt, Rewarded
from jobs.grade.rewards.view import Frame, View
from jobs.grade.workers import failure
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import LatentSpec
from latentctl.spec.reward_rules import idle
from latentctl.spec.rewards import RewardsSpec


class Rewards:
    """The rewards of one stage. A context: processes of graders and of own rewards live as long as it does.

    `form`: of the prompt; `latent`: settled, None for text alone; `max_len`: positions of the longest
    completion; `model`: its name or path; `timeout`: seconds for the grader, and for each own reward, on one
    attempt; `plugins`: files that bring own ones. Raises JobUserError for what would do nothing, and for
    names that nobody knows.
    """

    def __init__(
        self,
        spec: RewardsSpec,
        grader: str,
        *,
        form: str,
        latent: LatentSpec | None,
        max_len: int,
        model: str | None,
        timeout: float,
        plugins: Sequence[str] = (),
        workers: int | None = None,
    ) -> None:
        for one in idle(spec, form=form, latent=latent, text=latent is None, grader=grader):
            raise JobUserError(one.message, hint=one.hint, where=".".join(("grpo.rewards", *one.path)))
        self.weights = spec.weights()
        self.failed: Counter[str] = Counter()
        """How often there was no value: by the name of the reward, or `grader`."""
        self.why: dict[str, str] = {}
        """The same names -> what went wrong last."""
        self._frame = Frame(form, latent)
        self._built_in = _built_in(
            grader,
            longest=_longest(latent, max_len),
            reasoning=lengths.is_reasoning(model) if spec.reasoning == "auto" else spec.reasoning,
        )
        with ExitStack() as held:
            self._pool = held.enter_context(Pool(grader, timeout=timeout, workers=workers, plugins=plugins))
            self._own: dict[str, Runner] = {}
            for name in self.weights:
                if name not in self._built_in:
                    runner = Runner(name, timeout=timeout, workers=workers, plugins=plugins)
                    held.callback(runner.close)
                    self._own[name] = runner
            self._held = held.pop_all()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that have a weight, own ones last."""
        return tuple(self.weights)

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._held.close()

    def judge(self, attempts: Sequence[Attempt]) -> list[Rewarded]:
        """What each is worth, in order. Never raises for what a model wrote, nor for what a grader or an own
        reward does with it."""
        views = [View(attempt, self._frame) for attempt in attempts]
        verdicts = list(self._pool.grade(view.answered for view in views))
        asked = list(zip(attempts, verdicts, strict=True))
        columns: dict[str, list[float | str | None]] = {}
        for name in self.weights:
            if name in self._own:
                columns[name] = list(self._own[name].ask(asked))
            else:
                columns[name] = [self._one(name, *pair) for pair in zip(views, verdicts, strict=True)]
        return [
            self._rewarded(verdict, {name: columns[name][row] for name in columns})
            for row, verdict in enumerate(verdicts)
        ]

    def _one(self, name: str, view: View, verdict: Verdict) -> float | str | None:
        """A value; in words, why there is none; None where the grader has said why."""
        if name in _OF_VERDICTS and verdict.status == "error":
            return None
        try:
            return self._built_in[name](view, verdict)
        except (KeyError, TypeError, ValueError) as error:  # a problem whose meta lacks what is needed
            return f"{name} cannot be worked out: {failure(error)}"

    def _rewarded(self, verdict: Verdict, found: dict[str, float | str | None]) -> Rewarded:
        values: dict[str, float | None] = {
            name: None if isinstance(v, str) else v for name, v in found.items()
        }
        failures = {name: v for name, v in found.items() if isinstance(v, str)}
        if verdict.status == "error":
            failures["grader"] = verdict.reason
        self.failed.update(failures.keys())
        self.why.update(failures)
        total: float | None = 0.0
        for name, value in values.items():
            total = None if total is None or value is None else total + self.weights[name] * value
        return Rewarded(values, None if verdict.status == "error" else total, verdict, failures)


_OF_VERDICTS = ("correctness", "latent_len")
"""Rewards that are not known where the grader failed."""


def _built_in(grader: str, *, longest: int, reasoning: bool) -> dict[str, Callable[[View, Verdict], float]]:
    return {
        "correctness": lambda view, verdict: float(verdict.correct),
        "answer_format": lambda view, verdict: formats.answer_format(view, grader),
        "loose_format": lambda view, verdict: formats.loose_format(view),
        "strict_format": lambda view, verdict: formats.strict_format(view),
        "latent_len": lambda view, verdict: lengths.latent_len(
            correct=verdict.correct, latents=view.attempt.latents, longest=longest
        ),
        "answer_len": lambda view, verdict: lengths.answer_len(view, reasoning=reasoning),
        "answer_no_think": lambda view, verdict: lengths.answer_no_think(view),
        "response_think": lambda view, verdict: lengths.response_think(view),
    }


def _longest(latent: LatentSpec | None, max_len: int) -> int:
    """The most latent steps of a span; that of a completion where nothing else bounds them."""
    stop = latent.stop if latent else None
    bounds = (stop.max_len, stop.fixed) if stop else ()
    return max(1, min([b for b in bounds if b is not None], default=max_len))
