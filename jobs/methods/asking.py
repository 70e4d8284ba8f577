"""How the problems of a stage are put to its model: prompts, latent steps, requests."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.data.example import Example
from jobs.data.load import Loaded
from jobs.data.render import Renderer
from jobs.generate.protocol import Request, Thoughts
from jobs.generate.thoughts import thoughts
from jobs.methods.protocol import StageContext
from jobs.models import load_tokenizer, read_latent
from jobs.models.latent_settings import settle
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import LatentSpec
from latentctl.spec.prompt import PromptSpec
from latentctl.spec.sampling import SamplingSpec
from latentctl.spec.tree import TreeSpec

_TRAINED = ("input", "markers", "start")
"""Parts of the latent settings that belong to the weights; when a span stops is the evaluation's choice."""


class Asking:
    """Prompt and latent settings of a stage: the recipe's, else those that the checkpoint carries.

    Raises JobUserError where both are silent, and where they do not go together.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        carried = (read_latent(ctx.source) if isinstance(ctx.source, Path) else None) or {}
        self.prompt = _prompt(ctx, carried)
        self.latent = _latent(ctx, carried, self.prompt)
        """Settled; None: text alone."""
        self.overrides = _overrides(ctx.stage.latent, carried)
        """{part: {"recipe", "checkpoint"}}: where the recipe evaluates otherwise than was trained."""
        for part, said in self.overrides.items() if ctx.world.main else ():
            here, there = json.dumps(said["recipe"]), json.dumps(said["checkpoint"])
            words = f"latent.{part} is the recipe's, {here}; the checkpoint was trained with {there}"
            print(f"{ctx.stage.name}: note: {words}", file=sys.stderr, flush=True)

    def put(self, data: Loaded, examples: Sequence[Example], *, tokenizer: Any = None) -> Questions:
        """The examples as this stage's model gets them; `tokenizer`: the stage's, where it is there."""
        if tokenizer is None:
            plain = Renderer(None, self.prompt, data.instruction)
            target = "answer" if self.prompt.form == "answer" else "cot"
            tokenizer = load_tokenizer(self.ctx.stage, self.ctx.source, lambda: plain.texts(examples, target))
        renderer = Renderer(tokenizer, self.prompt, data.instruction)
        return Questions(self, renderer, examples)

    def facts(self) -> dict[str, Any]:
        """For result.json: what was asked of the model."""
        return {
            "latent": None if self.latent is None else self.latent.model_dump(mode="json"),
            "latent_overrides": self.overrides or None,
            "sampling": self.ctx.stage.sampling.model_dump(mode="json"),
        }


class Questions:
    """The problems of a stage, as token ids."""

    def __init__(self, asking: Asking, renderer: Renderer, examples: Sequence[Example]) -> None:
        ctx = asking.ctx
        self.latent = asking.latent
        self.examples = examples
        self.tokenizer = renderer.tokenizer
        self.markers = asking.prompt.markers.start, asking.prompt.markers.end
        self.sampling = _seeded(ctx.stage.sampling, ctx.experiment.seed)
        self._where = f"{ctx.stage.name}.latent"
        self._made: dict[tuple[int, int | None], Thoughts] = {}
        self._check_steps()
        self.prompts = [self._prompt(renderer, e) for e in examples]
        """Text and ids; with `start: prompt` they end with the start marker."""
        self.prompt_hash = _hash([ids for _, ids in self.prompts])
        self.data_hash = _hash([(e.id, e.question, e.answer) for e in examples])

    def request(
        self, place: int, index: int, *, trace: int | None = None, tree: TreeSpec | None = None
    ) -> Request:
        """Sample `index` of the problem at `place`; `trace` as in `Thoughts`, `tree` as in `Request`."""
        example = self.examples[place]
        ids = self.prompts[place][1]
        asked = self._thoughts(len(example.steps), trace)
        return Request(example.id, index, ids, self.sampling, self.markers, asked, tree)

    def marker_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids around a latent span; empty for text alone."""
        asked = self._thoughts(0, None)
        return ((), ()) if asked is None else (asked.start, asked.end)

    def _thoughts(self, steps: int, trace: int | None) -> Thoughts | None:
        if self.latent is None:
            return None
        if (steps, trace) not in self._made:
            self._made[steps, trace] = thoughts(
                self.latent, self.tokenizer, steps=steps, trace=trace, where=self._where
            )
        return self._made[steps, trace]

    def _prompt(self, renderer: Renderer, example: Example) -> tuple[str, list[int]]:
        if self.latent is None or self.latent.start != "prompt":
            return renderer.prompt(example)
        assert self.latent.markers is not None, "not settled"
        marker = self.latent.markers.start
        text, ids = renderer.prompt(example, opens=marker)
        return text + marker, [*ids, *self.marker_ids()[0]]

    def _check_steps(self) -> None:
        """Raises JobUserError where a count needs reference steps that a problem lacks."""
        if self.latent is None or self.latent.stop is None or self.latent.stop.per_step is None:
            return
        lacking = [e.id for e in self.examples if not e.steps]
        if lacking:
            raise JobUserError(
                f"per_step counts latent steps from a problem's reference steps, and {len(lacking)} of "
                f"{len(self.examples)} problems have none, such as {lacking[0]}",
                hint="give a number instead, such as stop: 6",
                where=f"{self._where}.stop.per_step",
            )


def _prompt(ctx: StageContext, carried: dict[str, Any]) -> PromptSpec:
    if ctx.stage.prompt is not None:
        return ctx.stage.prompt
    if not carried.get("prompt"):
        raise JobUserError(
            "neither the recipe nor the checkpoint says how to put a problem to this model",
            hint="give the eval stage a prompt block, such as prompt: {template: auto, form: plain}",
            where=f"{ctx.stage.name}.prompt",
        )
    return PromptSpec.model_validate(carried["prompt"])


def _latent(ctx: StageContext, carried: dict[str, Any], prompt: PromptSpec) -> LatentSpec | None:
    where = f"{ctx.stage.name}.latent"
    try:
        return settle(ctx.stage.latent, carried, prompt.markers, where=where)
    except ValidationError as error:
        raise JobUserError(
            f"the recipe's latent settings and the checkpoint's do not go together: "
            f"{error.errors()[0]['msg']}",
            hint="say the parts that clash in the recipe: it wins",
            where=where,
        ) from error


def _overrides(recipe: LatentSpec | None, carried: dict[str, Any]) -> dict[str, dict[str, Any]]:
    held = LatentSpec.model_validate({k: carried.get(k) for k in _TRAINED})
    if recipe is None or held.input is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for part in _TRAINED:
        own, other = getattr(recipe, part), getattr(held, part)
        if own is not None and other is not None and own != other:
            said = recipe.model_dump(mode="json")[part], held.model_dump(mode="json")[part]
            found[part] = dict(zip(("recipe", "checkpoint"), said, strict=True))
    return found


def _seeded(sampling: SamplingSpec, seed: int) -> SamplingSpec:
    """Each of the recipe's `seeds` draws its own samples."""
    return sampling.model_copy(update={"seed": sampling.seed + 1_000_003 * seed})


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
