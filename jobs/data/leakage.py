"""Whether questions of an evaluation set stand in the training data.

The rule. A question is cut into words (letters and digits, any case, compatibility forms folded) and signs of
arithmetic; other punctuation and spaces are left out. Exact: an evaluation question has the same words, in
order, as a training question. Near: at least 80 % of its distinct 8-grams stand in one single training
question. 8-grams that stand in more than 1 % of the training questions (and in more than 20) are boilerplate
and count for neither side; a question with fewer than 4 others is judged exactly alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.data.example import Example
from jobs.data.load import load
from latentctl.spec.dataset import DatasetSpec
from latentctl.spec.experiment import Experiment

N = 8
SHARE = 0.8
BOILERPLATE = 0.01
BOILERPLATE_LEAST = 20
LEAST = 4
SHOWN = 5

_WORD = re.compile(r"\w+|[-+*/=<>^]")


@dataclass(frozen=True)
class Leak:
    """An evaluation question that the training data holds. `share`: of its 8-grams; 1 for an exact copy."""

    eval_id: str
    train_id: str
    kind: str
    share: float
    question: str


@dataclass(frozen=True)
class Leakage:
    """One training set against one evaluation set."""

    train: str
    eval: str
    train_rows: int
    eval_rows: int
    exact: int
    near: int
    examples: list[Leak] = field(default_factory=list)
    """The first few, exact ones first."""

    @property
    def found(self) -> bool:
        return self.exact + self.near > 0


def words(question: str) -> tuple[str, ...]:
    """What is compared of a question."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", question).casefold()))


def _grams(sequence: tuple[str, ...]) -> set[int]:
    return {hash(sequence[i : i + N]) for i in range(len(sequence) - N + 1)}


def find_leaks(train: Sequence[Example], evaluation: Sequence[Example]) -> list[Leak]:
    """One leak per evaluation question that has any: an exact copy, else its nearest copy."""
    seen = {}
    for example in train:
        seen.setdefault(words(example.question), example.id)
    exact: dict[str, str] = {}
    open_: dict[str, set[int]] = {}
    questions = {e.id: e.question for e in evaluation}
    for example in evaluation:
        sequence = words(example.question)
        if sequence in seen:
            exact[example.id] = seen[sequence]
        else:
            open_[example.id] = _grams(sequence)
    near = _near(list(seen.items()), open_)
    leaks = [Leak(e, t, "exact", 1.0, questions[e]) for e, t in exact.items()]
    return leaks + [Leak(e, t, "near", share, questions[e]) for e, (t, share) in near.items()]


def _near(
    train: list[tuple[tuple[str, ...], str]], evaluation: dict[str, set[int]]
) -> dict[str, tuple[str, float]]:
    """Evaluation id -> (training id, share). Memory grows with the evaluation set alone: training rows stream
    by.
    """
    wanted = set().union(*evaluation.values()) if evaluation else set()
    hits = [(id, _grams(sequence) & wanted) for sequence, id in train]
    hits = [(id, grams) for id, grams in hits if grams]
    often = Counter(g for _, grams in hits for g in grams)
    limit = max(BOILERPLATE_LEAST, BOILERPLATE * len(train))
    kept = {e: {g for g in grams if often[g] <= limit} for e, grams in evaluation.items()}
    owners: dict[int, list[str]] = {}
    for e, grams in kept.items():
        if len(grams) >= LEAST:
            for gram in grams:
                owners.setdefault(gram, []).append(e)
    best: dict[str, tuple[str, float]] = {}
    for id, grams in hits:
        shared = Counter(e for g in grams for e in owners.get(g, ()))
        for e, count in shared.items():
            share = count / len(kept[e])
            if share >= SHARE and share > best.get(e, ("", 0.0))[1]:
                best[e] = (id, round(share, 4))
    return best


def compare(train: Sequence[Example], evaluation: Sequence[Example], *, names: tuple[str, str]) -> Leakage:
    """Counts and the first few leaks between a training and an evaluation set."""
    leaks = find_leaks(train, evaluation)
    exact = sum(leak.kind == "exact" for leak in leaks)
    return Leakage(*names, len(train), len(evaluation), exact, len(leaks) - exact, leaks[:SHOWN])


def datasets_of(experiment: Experiment) -> tuple[dict[str, DatasetSpec], dict[str, DatasetSpec]]:
    """(training sets, evaluation sets) of an experiment, by a name to show, each set once."""
    train: dict[str, DatasetSpec] = {}
    evaluation: dict[str, DatasetSpec] = {}
    for stage in experiment.stages:
        if stage.settings.trains:
            _add(train, stage.name, stage.dataset)
            if stage.validation is not None:
                _add(evaluation, f"{stage.name} (validation)", stage.validation)
        elif stage.settings.reads_dataset:
            _add(evaluation, stage.name, stage.dataset)
    return train, evaluation


def _add(sets: dict[str, DatasetSpec], name: str, spec: DatasetSpec) -> None:
    if spec not in sets.values():
        sets[name] = spec


def check(experiment: Experiment, *, data_dir: str | None = None) -> list[Leakage]:
    """Every training set of an experiment against each of its evaluation sets."""
    train, evaluation = datasets_of(experiment)
    if not train or not evaluation:
        return []
    plugins = experiment.plugins
    held = {n: load(s, data_dir=data_dir, plugins=plugins).examples for n, s in evaluation.items()}
    found = []
    for name, spec in train.items():
        examples = load(spec, data_dir=data_dir, plugins=plugins).examples
        found += [compare(examples, rows, names=(name, other)) for other, rows in held.items()]
    return found


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Verb `leakage`: {"experiment": dump, "data_dir"} -> {"rule", "found": bool, "pairs": [...]}."""
    experiment = Experiment.model_validate(payload["experiment"])
    pairs = check(experiment, data_dir=payload.get("data_dir"))
    return {"rule": RULE, "found": any(p.found for p in pairs), "pairs": [asdict(p) for p in pairs]}


RULE = (
    f"same words (case, punctuation and spaces aside), or {SHARE:.0%} of a question's {N}-grams of words "
    "in one training question"
)
