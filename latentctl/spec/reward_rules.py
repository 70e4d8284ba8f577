"""What rewards say against the rest of their stage: those that would do nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from latentctl.spec.contradictions import at
from latentctl.spec.explain import Found
from latentctl.spec.latent import LatentSpec
from latentctl.spec.latent_rules import carries
from latentctl.spec.rewards import BUILT_IN, RewardsSpec
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft

_BARE = {"coconut": "one step a line, then ### and the answer", "answer": "the answer alone"}
"""Forms without markers around the reasoning."""


class Idle(NamedTuple):
    """A weight, or another key of `grpo.rewards`, that does nothing; `path` leads to it from there."""

    path: tuple[str, ...]
    message: str
    hint: str


def idle(
    spec: RewardsSpec, *, form: str | None, latent: LatentSpec | None, text: bool, grader: str | None
) -> Iterator[Idle]:
    """What of `spec` means nothing. `form` and `grader`: None where they are not known yet; `text`: there are
    surely no latent steps; `latent`: as far as it is known."""
    weights = spec.weights()
    if not weights:
        yield Idle((), "every weight is 0: no rollout would be better than another", "give one a weight")
    for name in spec.own.keys() & set(BUILT_IN):
        yield Idle(("own", name), f"{name} needs no plugin", f"write it as grpo.rewards.{name}")
    if form in _BARE:
        yield from _bare(form, weights, text=text)
    if "latent_len" in weights:
        yield from _latent_len(latent, text=text)
    if "answer_format" in weights and grader == "prosqa":
        words = "the grader prosqa takes sentences, whose form says nothing"
        yield Idle(("answer_format",), words, "leave answer_format out")
    if spec.reasoning != "auto" and "answer_len" not in weights:
        yield Idle(("reasoning",), "does nothing without answer_len", "leave it out")


def _bare(form: str, weights: dict[str, float], *, text: bool) -> Iterator[Idle]:
    for name in ("loose_format", "strict_format"):
        if name in weights:
            words = f"looks for the parts of the forms plain and xml; prompt.form: {form} is {_BARE[form]}"
            yield Idle((name,), words, f"leave {name} out, or say another prompt.form")
    for name in ("answer_len", "response_think"):
        if text and name in weights:
            words = (
                f"prompt.form: {form} has no markers that end the reasoning, and there are no latent steps"
            )
            yield Idle((name,), words, f"leave {name} out, or say another prompt.form")


def _latent_len(latent: LatentSpec | None, *, text: bool) -> Iterator[Idle]:
    path = ("latent_len",)
    if text:
        yield Idle(path, "there are no latent steps to count", "add a latent block, or leave latent_len out")
        return
    stop = latent.stop if latent else None
    if latent is None or stop is None or latent.start == "model":
        return
    counted = "fixed" if stop.fixed is not None else "per_step" if stop.per_step is not None else None
    if stop.max_len == 0:
        yield Idle(
            path, "latent.stop.max_len: 0 leaves no latent steps to count", "raise latent.stop.max_len"
        )
    elif counted and not stop.end_marker and stop.entropy is None:
        words = f"latent.stop.{counted} gives all rollouts of a problem the same number of latent steps"
        yield Idle(path, words, "let the model end its spans: latent.stop.end_marker: true, with max_len")


def rewards(stages: Sequence[StageBase], drafts: Sequence[Draft]) -> list[Found]:
    """Rewards that would do nothing, each where it is written: of every stage whose method has some."""
    by_name = {s.name: s for s in stages}
    found: list[Found] = []
    for stage, draft in zip(stages, drafts, strict=True):
        spec = getattr(stage.settings, "rewards", None)
        if not isinstance(spec, RewardsSpec):
            continue
        form = stage.prompt.form if stage.prompt else None
        grader = getattr(stage.settings, "grader", "auto")
        grader = None if grader == "auto" else grader
        text = _text(stage, by_name)
        for one in idle(spec, form=form, latent=stage.latent, text=text, grader=grader):
            found.append(at(draft, (draft.method, "rewards", *one.path), one.message, one.hint))
    return found


def _text(stage: StageBase, by_name: Mapping[str, StageBase]) -> bool:
    """Whether there are surely no latent steps."""
    said = stage.latent
    if said is None:
        return not carries(stage, by_name)
    return said.input is not None and said.input.kind == "none"
