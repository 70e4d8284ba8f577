"""What latent settings say against the rest of their stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latentctl.spec.contradictions import at
from latentctl.spec.explain import Found
from latentctl.spec.latent import ContextualInput, StopSpec
from latentctl.spec.methods import TEXT_ONLY, CoconutSettings
from latentctl.spec.source import parse_source
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft


def latent(stage: StageBase, draft: Draft) -> list[Found]:
    """Settings that cannot stand together, or of which one would do nothing."""
    settings = stage.settings
    if isinstance(settings, CoconutSettings):
        return _training(stage, settings, draft) if settings.variant == "coconut" else []
    return _decoding(stage, draft) if settings.generates else []


def unsettled(stages: Sequence[StageBase], drafts: Sequence[Draft]) -> list[Found]:
    """Evaluations that ask for latent steps of a model that carries no such settings, and say too little."""
    by_name = {s.name: s for s in stages}
    found: list[Found] = []
    for stage, draft in zip(stages, drafts, strict=True):
        said = stage.latent
        if said is None or not stage.settings.generates or carries(stage, by_name):
            continue
        hint = "or latent: null in this stage, for text alone"
        if said.input is None:
            words = "neither this stage nor its checkpoint says which kind of latent step it takes"
            found.append(at(draft, ("latent",), words, f"add latent.input, such as soft; {hint}"))
        elif said.stop is None and said.input.kind != "none":
            words = "neither this stage nor its checkpoint says when a latent span ends"
            found.append(at(draft, ("latent",), words, f"add latent.stop, such as 6; {hint}"))
    return found


def carries(stage: StageBase, by_name: Mapping[str, StageBase]) -> bool:
    """Whether the weights that a stage starts from may come with latent settings."""
    source = parse_source(stage.from_ or "model", by_name)
    if source.kind == "stage" and source.stage is not None:
        settings = by_name[source.stage].settings
        return settings.latent and getattr(settings, "variant", None) not in TEXT_ONLY
    return source.kind != "model" or stage.model.init is None


def _training(stage: StageBase, settings: CoconutSettings, draft: Draft) -> list[Found]:
    found: list[Found] = []
    said = stage.latent
    kind = said.input.kind if said and said.input else "hidden"
    if kind == "none":
        words = "takes no latent steps, and coconut trains them: expected hidden, contextual, soft or pause"
        hint = "coconut.variant: no_thoughts is the curriculum without latent steps"
        found.append(at(draft, ("latent", "input"), words, hint))
    if kind == "pause" and settings.schedule == "jacobi":
        words = "does nothing to the input pause, whose steps run all at once anyway"
        found.append(at(draft, ("coconut", "schedule"), words, "leave schedule and sweeps out"))
    if settings.count == "difficulty" and not settings.dynamic and not (said and said.stop):
        words = "an evaluation cannot know a problem's difficulty: say when its latent spans end"
        hint = "add coconut.dynamic: true (the model decides), or latent.stop such as 6"
        found.append(at(draft, ("coconut", "count"), words, hint))
    if stage.train.gradient_checkpointing and kind != "pause":
        words = "latent steps read the cache of earlier positions, which checkpointing switches off"
        found.append(at(draft, ("train", "gradient_checkpointing"), words, "lower train.micro_batch instead"))
    return found


def _decoding(stage: StageBase, draft: Draft) -> list[Found]:
    said = stage.latent
    if said is None:
        return []
    found: list[Found] = []
    if isinstance(said.input, ContextualInput) and said.input.weights == "learned":
        words = "nothing is learned here"
        hint = "leave latent.input out: the checkpoint carries its weights; or give them as a list"
        found.append(at(draft, ("latent", "input", "weights"), words, hint))
    think = stage.sampling.max_think_tokens
    if think is not None and said.input is not None and said.input.kind != "none":
        words = "bounds reasoning in words, and here it is latent"
        found.append(
            at(draft, ("sampling", "max_think_tokens"), words, "latent.stop.max_len bounds latent steps")
        )
    key, longest = _longest(said.stop)
    room = stage.sampling.max_new_tokens
    unread = stage.settings.trains and stage.validation is None
    if longest >= room and not unread:
        words = f"up to {longest} latent steps leave no room for text: sampling.max_new_tokens ({room}) "
        words += "counts both"
        hint = f"set sampling.max_new_tokens above {longest}"
        found.append(at(draft, ("latent", "stop", key), words, hint))
    return found


def _longest(stop: StopSpec | None) -> tuple[str, int]:
    """The most latent steps that these rules allow in a span, and the key that says so."""
    if stop is None:
        return "max_len", 0
    counts = {"max_len": stop.max_len, "fixed": stop.fixed}
    bounds = {key: count for key, count in counts.items() if count is not None}
    key = min(bounds, key=lambda k: bounds[k], default="max_len")
    return key, bounds.get(key, 0)
