"""Verb `data`: what a model would see of a dataset, and whether anything is wrong with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jobs.data import leakage
from jobs.data.example import Example
from jobs.data.listing import listing
from jobs.data.load import load
from jobs.data.measure import measure
from jobs.data.render import Renderer, Target
from jobs.data.stage_tokenizer import Tokenizers, origins, target_of
from jobs.runtime.errors import JobUserError
from latentctl.spec.dataset import DatasetSpec
from latentctl.spec.experiment import Experiment
from latentctl.spec.prompt import PromptSpec
from latentctl.spec.stage import StageBase

MOST_BAD_ROWS = 20
"""So many are listed; all are counted."""


@dataclass(frozen=True)
class View:
    """One dataset of a recipe, as one stage uses it."""

    name: str
    stage: StageBase
    dataset: DatasetSpec
    prompt: PromptSpec
    target: Target
    steps: str


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """{"list": true}, or {"recipe": Experiment dump, "data_dir", "rows": n, "tokens": bool}.

    Gives {"datasets": [...]}, or {"ok", "sets": [...], "leakage": {...} | None}: per set its counts, bad rows
    with reasons, lengths, and the first rows as rendered. With "tokens" false nothing is tokenised.
    """
    if payload.get("list"):
        return {"datasets": listing()}
    experiment = Experiment.model_validate(payload["recipe"])
    data_dir = payload.get("data_dir")
    tokenizers = Tokenizers(experiment, data_dir) if payload.get("tokens", True) else None
    rows = payload.get("rows", 3)
    views = [_describe(view, experiment, data_dir, tokenizers, rows=rows) for view in views_of(experiment)]
    leaks = None
    if not any(v["error"] for v in views):
        tolerant = _skipping(experiment)
        pairs = leakage.check(tolerant, data_dir=data_dir)
        if pairs:
            leaks = {
                "rule": leakage.RULE,
                "found": any(p.found for p in pairs),
                "pairs": [asdict(p) for p in pairs],
            }
    ok = all(v["ok"] for v in views) and not (leaks and leaks["found"])
    return {"ok": ok, "sets": views, "leakage": leaks}


def views_of(experiment: Experiment) -> list[View]:
    """Every dataset of every stage, each use once."""
    views: list[View] = []
    for stage in experiment.stages:
        if not stage.settings.reads_dataset:
            continue
        target, steps = target_of(_trainer(experiment, stage))
        prompt = _prompt(experiment, stage)
        views.append(View(stage.name, stage, stage.dataset, prompt, target, steps))
        if stage.validation is not None:
            views.append(View(f"{stage.name} (validation)", stage, stage.validation, prompt, target, steps))
    return views


def _trainer(experiment: Experiment, stage: StageBase) -> StageBase:
    """The stage that taught the weights of this one how to answer: itself, or the nearest before it that
    trains.
    """
    return next((s for s in origins(experiment, stage) if s.settings.trains), stage)


def _prompt(experiment: Experiment, stage: StageBase) -> PromptSpec:
    """The stage's own, else that of the stage it starts from."""
    said = (s.prompt for s in origins(experiment, stage) if s.prompt is not None)
    return next(said, PromptSpec())


def _skipping(experiment: Experiment) -> Experiment:
    """The same with bad rows skipped: they are judged by themselves."""

    def skip(spec: DatasetSpec | None) -> DatasetSpec | None:
        return spec and spec.model_copy(update={"on_bad_row": "skip"})

    stages = [
        s.model_copy(update={"dataset": skip(s.dataset), "validation": skip(s.validation)})
        for s in experiment.stages
    ]
    return experiment.model_copy(update={"stages": stages})


def _describe(
    view: View, experiment: Experiment, data_dir: str | None, tokenizers: Tokenizers | None, *, rows: int
) -> dict[str, Any]:
    """One set, as a mapping; `error` where it cannot be used at all."""
    base: dict[str, Any] = {
        "name": view.name,
        "dataset": view.dataset.name or view.dataset.path,
        "error": None,
    }
    try:
        loaded = load(
            view.dataset.model_copy(update={"on_bad_row": "skip"}),
            data_dir=data_dir,
            plugins=experiment.plugins,
        )
        tokenizer, lacking = tokenizers.of(view.stage) if tokenizers else (None, None)
        note = lacking and f"lengths are in characters, for want of a tokenizer: {lacking}"
        renderer = Renderer(tokenizer, view.prompt, loaded.instruction)
        shown = [_show(renderer, view, example) for example in loaded.examples[:rows]]
        lengths = measure(renderer, loaded.examples, view.target, view.steps)
    except JobUserError as error:
        problem = {"message": error.message, "hint": error.hint, "where": error.where}
        return {**base, "ok": False, "error": problem}
    lengths["over"] = _over(view, lengths["unit"], lengths.pop("all"))
    return {
        **base,
        "ok": view.dataset.on_bad_row == "skip" or not loaded.bad_rows,
        "dataset": loaded.name,
        "split": loaded.split,
        "source": loaded.source,
        "rows": len(loaded.examples),
        "total": loaded.total,
        "without_answer": sum(not e.answer for e in loaded.examples),
        "grader": loaded.grader,
        "form": view.prompt.form,
        "template": "chat" if renderer.chat else "plain",
        "on_bad_row": view.dataset.on_bad_row,
        "bad": len(loaded.bad_rows),
        "bad_rows": [asdict(b) for b in loaded.bad_rows[:MOST_BAD_ROWS]],
        "lengths": lengths,
        "note": note,
        "samples": shown,
    }


def _over(view: View, unit: str, sizes: list[int]) -> dict[str, Any] | None:
    """How many of the measured rows are longer than the training's `max_len`."""
    if not view.stage.settings.trains or unit != "tokens":
        return None
    limit = view.stage.train.max_len
    return {"max_len": limit, "rows": sum(n > limit for n in sizes), "overlong": view.stage.train.overlong}


def _show(renderer: Renderer, view: View, example: Example) -> dict[str, Any]:
    """An example as the model gets it. The loss falls on `target` and `end`, never on `prompt`."""
    tokenizer = renderer.tokenizer
    prompt, prompt_ids = renderer.prompt(example) if tokenizer else (renderer.prompt_text(example), [])
    shown: dict[str, Any] = {"id": example.id, "prompt": prompt, "target": None, "gold": example.answer}
    if example.answer:
        shown["target"] = renderer.target_text(example, view.target, view.steps)
    if tokenizer:
        shown["prompt_tokens"] = pieces(tokenizer, prompt_ids)
        if example.answer:
            row = renderer.row(example, view.target, view.steps)
            shown["target_tokens"] = pieces(tokenizer, row.target_ids)
    return shown


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token by itself; the token's own name where it is part of a character."""
    texts = [tokenizer.decode([i]) for i in ids]
    names = tokenizer.convert_ids_to_tokens(ids)
    return [n if not t or "\ufffd" in t else t for t, n in zip(texts, names, strict=True)]
