"""The tokenizer that a stage of a recipe will have, found without running anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.data.load import load
from jobs.data.render import Renderer, Target
from jobs.runtime.errors import JobUserError
from latentctl.spec.experiment import Experiment
from latentctl.spec.prompt import PromptSpec
from latentctl.spec.stage import StageBase


def origins(experiment: Experiment, stage: StageBase) -> Iterator[StageBase]:
    """The stage, the one it starts from, and so on to the first."""
    by_name = {s.name: s for s in experiment.stages}
    seen: set[str] = set()
    current: StageBase | None = stage
    while current is not None and current.name not in seen:
        seen.add(current.name)
        yield current
        current = by_name.get((current.from_ or "").partition("@")[0])


def target_of(stage: StageBase) -> tuple[Target, str]:
    """(target, steps) that a stage trains on; what training by default would take where it trains nothing."""
    target: Target = "answer" if getattr(stage.settings, "target", "cot") == "answer" else "cot"
    return target, str(getattr(stage.settings, "steps", "auto"))


class Tokenizers:
    """Loads (or trains, for a random model) each tokenizer of an experiment once."""

    def __init__(self, experiment: Experiment, data_dir: str | None) -> None:
        self.experiment, self.data_dir = experiment, data_dir
        self.known: dict[str, tuple[Any, str | None]] = {}

    def of(self, stage: StageBase) -> tuple[Any, str | None]:
        """(tokenizer, None); or (None, why there is none): the weights' origin is not at hand."""
        first = list(origins(self.experiment, stage))[-1]
        if first.name not in self.known:
            try:
                self.known[first.name] = self._load(first), None
            except JobUserError as error:
                self.known[first.name] = None, str(error)
        return self.known[first.name]

    def _load(self, first: StageBase) -> Any:
        from jobs.models import load_tokenizer  # imports transformers

        source = first.from_
        if source in (None, "model"):
            return load_tokenizer(first, first.model.path, lambda: self._texts(first))
        if not Path(source).expanduser().is_dir():
            raise JobUserError(f"{source} is not looked up here")
        return load_tokenizer(first, source, lambda: ())

    def _texts(self, stage: StageBase) -> list[str]:
        """What a random model's tokenizer is trained on: the rows of the stage's dataset."""
        loaded = load(stage.dataset, data_dir=self.data_dir, plugins=self.experiment.plugins)
        renderer = Renderer(None, stage.prompt or PromptSpec(), loaded.instruction)
        target, steps = target_of(stage)
        return list(renderer.texts((e for e in loaded.examples if e.answer), target, steps))
