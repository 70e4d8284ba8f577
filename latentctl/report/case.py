"""One problem of an evaluation with everything that is known of its chain, and how to choose the problem."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from latentctl.errors import Exit, UserError
from latentctl.report.case_files import Evaluation, Row
from latentctl.report.case_tree import Limb, limbs

Key = tuple[str, int]
"""A sample: (problem id, index among its samples)."""

_LATENT_ENDS = {
    "fixed": "the fixed number of steps was reached",
    "end_marker": "the end marker became the most likely next token",
    "entropy": "the entropy stayed below the threshold",
    "max_len": "the cap max_len was reached",
    "budget": "max_new_tokens ran out inside the span",
}
_TEXT_ENDS = {
    "eos": "the model ended it",
    "stop": "a stop text ended it",
    "length": "cut at max_new_tokens",
    "error": "it was not generated",
}


class Step(NamedTuple):
    """One latent step of a trace."""

    entropy: float
    """In nats."""
    mass: float
    """Probability mass of the tokens that were mixed (soft input); else 1."""
    noised: bool
    tokens: tuple[tuple[str, float], ...]
    """Most likely first, with their probabilities."""


class Choice(NamedTuple):
    """A sample, and in words why this one."""

    key: Key
    words: str


class Changed(NamedTuple):
    """A sample that both runs judged, and not alike."""

    key: Key
    before: Row
    after: Row


@dataclass(frozen=True)
class Case:
    """One sample of an evaluation."""

    evaluation: Evaluation
    row: Row
    number: int
    """Of its problem, from 1, in the order of the samples."""
    problems: int
    samples: int
    """Of this problem."""
    steps: tuple[Step, ...] | None
    """The trace of all its spans; None where there is none."""
    input: str | None
    """How a latent step is fed: soft, hidden, contextual, pause."""
    tree: tuple[Limb, ...] = ()
    """The problem's answers as a search found them; empty where they were sampled."""
    notes: list[str] = field(default_factory=list)

    @property
    def latents(self) -> int:
        """Latent steps taken, traced or not."""
        return len(self.steps) if self.steps is not None else int(self.row.get("latents") or 0)

    @property
    def verdict(self) -> str | None:
        return self.row.get("verdict")

    @property
    def logp_per_token(self) -> float | None:
        return _logp(self.row)

    def chain(self) -> Iterator[str | range]:
        """What the model did, in order: pieces of text, and latent spans as ranges of steps (from 0)."""
        text, done, begin = self.row.get("text") or "", 0, 0
        for before, length in _spans(self.row, self.latents):
            if text[begin:before]:
                yield text[begin:before]
            begin = max(begin, before)
            yield range(done, done + length)
            done += length
        if text[begin:]:
            yield text[begin:]

    def dump(self) -> dict[str, Any]:
        """For `--json`."""
        at = self.evaluation
        steps = None if self.steps is None else [s._asdict() for s in self.steps]
        return {
            "run": at.run.id,
            "stage": at.stage,
            "problem": self.number,
            "problems": self.problems,
            "samples": self.samples,
            "sample": self.row,
            "logp_per_token": self.logp_per_token,
            "input": self.input,
            "steps": steps,
            "tree": [limb.dump() for limb in self.tree],
            "notes": self.notes,
        }


def case_of(at: Evaluation, key: Key) -> Case | None:
    """The sample of that key; None where this evaluation has none."""
    ids = list(dict.fromkeys(r["id"] for r in at.rows))
    row = next((r for r in at.rows if (r["id"], r["index"]) == key), None)
    if row is None:
        return None
    notes: list[str] = []
    steps, kind = _trace(at, row, notes)
    if row.get("verdict") is None and at.graded:
        notes.append("this sample has no verdict; `latentctl grade` judges again")
    samples = [r for r in at.rows if r["id"] == key[0]]
    number = ids.index(key[0]) + 1
    return Case(at, row, number, len(ids), len(samples), steps, kind, limbs(samples), notes)


def default(at: Evaluation, rows: Sequence[Row]) -> Choice:
    """The first problem; of a training the newest rollouts."""
    if at.spec.get("method") != "grpo":
        return Choice(_key(rows[0]), "the first problem")
    newest = next(row for row in rows if row["id"] == rows[-1]["id"])
    return Choice(_key(newest), "the newest rollouts that were kept")


def with_index(at: Evaluation, index: int | None) -> list[Row]:
    """The samples of that index; all of them for None. Raises UserError where there is none."""
    rows = [r for r in at.rows if index is None or r["index"] == index]
    if not rows:
        there = sorted({r["index"] for r in at.rows})
        raise _not_found(
            f"{at.name} has no sample {index} of any problem",
            f"samples are numbered {there[0]} to {there[-1]}"
            if len(there) > 1
            else f"there is only {there[0]}",
        )
    return rows


def by_id(rows: Sequence[Row], text: str) -> Choice:
    """The problem that a person means, in this order: the id itself; the only id that ends in it after a
    separator (`17` for `gsm8k-test-17`); a number n: the n-th problem, from 1; the only id that begins with
    it. Raises UserError with code 3: unknown, with the nearest ids, or ambiguous."""
    keys: dict[str, Key] = {}
    for row in rows:
        keys.setdefault(row["id"], _key(row))
    ids = list(keys)
    if text in keys:
        return Choice(keys[text], f"id {text}")
    ending = [i for i in ids if re.search(rf"[^0-9A-Za-z]{re.escape(text)}$", i)] if text else []
    if len(ending) == 1:
        return Choice(keys[ending[0]], f"the only id that ends in {text}")
    if text.isdecimal() and 1 <= int(text) <= len(ids):
        return Choice(
            keys[ids[int(text) - 1]], f"problem {int(text)} of {len(ids):,}; no single id ends in {text}"
        )
    beginning = [i for i in ids if text and i.startswith(text)]
    if len(beginning) == 1:
        return Choice(keys[beginning[0]], f"the only id that begins with {text}")
    many = ending or beginning
    if many:
        shown = ", ".join(many[:5]) + (", ..." if len(many) > 5 else "")
        raise UserError(
            f"{text!r} is ambiguous: {len(many)} ids {'end in' if ending else 'begin with'} it",
            hint=f"one of {shown}", code=Exit.NOT_FOUND, kind="ambiguous",
        )  # fmt: skip
    near = difflib.get_close_matches(text, ids, n=3, cutoff=0.4) or ids[:3]
    raise _not_found(
        f"no problem {text!r} among {len(ids):,}",
        f"ids look like {', '.join(near)}; or a number from 1 to {len(ids)}",
    )


def worst(at: Evaluation, rows: Sequence[Row]) -> Choice:
    """The wrong answer with the largest mean entropy over its latent steps; where no wrong answer has a
    trace, the one with the lowest log-probability per token. Raises UserError where nothing is wrong."""
    wrong = {_key(r): r for r in rows if r.get("verdict") == "wrong"}
    if not wrong:
        judged = sum(r.get("verdict") is not None for r in rows)
        if not judged:
            raise _not_found(
                f"{at.name} has no verdicts yet", f"`latentctl status {at.run.id}`, or choose by --id"
            )
        raise _not_found(f"none of {judged:,} answers of {at.name} is wrong", "choose a problem by --id")
    means = {_key(t): m for t in at.traces() if _key(t) in wrong and (m := _mean_entropy(t)) is not None}
    if means:
        key = max(means, key=lambda k: means[k])
        rest = len(wrong) - len(means)
        without = f"; {rest:,} without" if rest else ""
        return Choice(
            key,
            f"the wrong answer with the largest mean entropy of its latent steps "
            f"({means[key]:.3g} nats; wrong answers with a trace: {len(means):,}{without})",
        )
    scored = {k: s for k, r in wrong.items() if (s := _logp(r)) is not None}
    if not scored:
        return Choice(
            next(iter(wrong)), "the first wrong answer: there are neither traces nor log-probabilities"
        )
    key = min(scored, key=lambda k: scored[k])
    return Choice(
        key,
        f"the wrong answer with the lowest log-probability per token "
        f"({scored[key]:.3g}; wrong answers: {len(wrong):,}, none with a trace)",
    )


def changed(before: Evaluation, after: Evaluation, rows: Sequence[Row]) -> tuple[list[Changed], int]:
    """The samples among `rows` (of `before`) whose verdicts differ between the two evaluations, and how many
    both have judged. Raises UserError where they have none in common."""
    there = {_key(r): r for r in after.rows}
    common = [(r, there[_key(r)]) for r in rows if _key(r) in there]
    judged = [(a, b) for a, b in common if a.get("verdict") is not None and b.get("verdict") is not None]
    if not judged:
        why = (
            f"{len(common):,} are common, but not graded in both"
            if common
            else "their problems have other ids"
        )
        raise _not_found(
            f"{before.name} and {after.name} have no judged samples in common",
            f"{why}; name the evaluations as RUN/STAGE",
        )
    found = [Changed(_key(a), a, b) for a, b in judged if a["verdict"] != b["verdict"]]
    return found, len(judged)


def steps_apart(steps: Iterable[Step]) -> tuple[float, float, float] | None:
    """(smallest, mean, largest) entropy; None for no steps."""
    values = [s.entropy for s in steps]
    return (min(values), sum(values) / len(values), max(values)) if values else None


def endings(case: Case) -> tuple[str | None, str | None]:
    """Why the last latent span ended, and why the text did, in words."""
    latent, text = case.row.get("latent_cause"), case.row.get("cause")
    return (
        f"{latent}: {_LATENT_ENDS.get(latent, '')}".rstrip(": ") if latent else None,
        f"{text}: {_TEXT_ENDS.get(text, '')}".rstrip(": ") if text else None,
    )


def _trace(at: Evaluation, row: Row, notes: list[str]) -> tuple[tuple[Step, ...] | None, str | None]:
    """Its steps and input kind; where there are latent steps without a trace, a note says why."""
    settled = ((at.result().get("latent") or {}).get("input") or {}).get("kind")
    if not row.get("latents"):
        return None, settled
    trace = at.trace(row["id"], row["index"])
    if trace is None:
        notes.append(_why_untraced(at, row))
        return None, settled
    try:
        steps = tuple(
            Step(
                float(s["entropy"]),
                float(s.get("mass", 1.0)),
                bool(s.get("noised")),
                tuple((str(t), float(p)) for t, p in s["tokens"]),
            )
            for s in trace["steps"]
        )
    except (KeyError, TypeError, ValueError):
        notes.append("the trace of this sample is damaged")
        return None, settled
    if len(steps) != row["latents"]:
        notes.append(f"the trace has {len(steps):,} of {row['latents']:,} latent steps")
    return steps, trace.get("input") or settled


def _why_untraced(at: Evaluation, row: Row) -> str:
    if at.spec.get("method") == "grpo":
        return "latent steps of rollouts are not traced; evaluate the checkpoint to see what they say"
    settings = at.spec.get("eval") or {}
    if settings.get("trace") == "off":
        return "its latent steps were not traced; evaluate again with `eval: {trace: full}` in the recipe"
    limit = settings.get("trace_problems")
    place = list(dict.fromkeys(r["id"] for r in at.rows)).index(row["id"])
    if limit is not None and place >= limit:
        return (
            f"its latent steps were not traced: only the first {limit:,} problems are; evaluate again with"
            f" `eval: {{trace_problems: {place + 1}}}` in the recipe"
        )
    return f"no trace of its latent steps is in {at.paths.traces}"


def _spans(row: Row, latents: int) -> list[tuple[int, int]]:
    """(characters of text before, steps) of each latent span; one at the front where the row does not say."""
    said = row.get("spans")
    if isinstance(said, list):
        try:
            spans = [(max(0, int(chars)), int(steps)) for chars, steps in said if steps > 0]
        except (TypeError, ValueError):
            spans = []
        if sum(n for _, n in spans) == latents and all(a[0] <= b[0] for a, b in pairwise(spans)):
            return spans
    return [(0, latents)] if latents else []


def _mean_entropy(trace: Row) -> float | None:
    try:
        values = [float(s["entropy"]) for s in trace["steps"]]
    except (KeyError, TypeError, ValueError):
        return None
    return sum(values) / len(values) if values else None


def _logp(row: Row) -> float | None:
    """Mean log-probability of a token of the text."""
    total, tokens = row.get("logp_sum"), row.get("tokens")
    return total / tokens if isinstance(total, int | float) and isinstance(tokens, int) and tokens else None


def _key(row: Row) -> Key:
    return row["id"], row["index"]


def _not_found(message: str, hint: str) -> UserError:
    return UserError(message, hint=hint, code=Exit.NOT_FOUND, kind="not_found")
