"""What the settings of a divergence model say against the rest of their stage."""

from __future__ import annotations

from latentctl.spec.contradictions import at
from latentctl.spec.divergence import DivergenceDataSettings, DivergenceSettings
from latentctl.spec.explain import Found
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft


def divergence(stage: StageBase, draft: Draft) -> list[Found]:
    """Settings that cannot go together, or of which one would do nothing."""
    settings = stage.settings
    if isinstance(settings, DivergenceDataSettings):
        return _collecting(settings, draft)
    if not isinstance(settings, DivergenceSettings):
        return []
    train, found = stage.train, list[Found]()
    if "overlong" in train.model_fields_set:
        words = (
            "does nothing here: rows are cut at the far end of the text before, then of both continuations"
        )
        found.append(at(draft, ("train", "overlong"), words, None))
    if train.lora is not None:
        words = "a divergence model is trained whole"
        found.append(at(draft, ("train", "lora"), words, "leave train.lora out"))
    world = stage.resources.world_size
    if settings.norm == "batch" and train.uneven(world) is None and train.micro(world) < 2:
        words = "norm: batch has no deviation of a single row"
        hint = "set train.micro_batch to 2 or more, or divergence.norm to layer"
        found.append(at(draft, ("train", "micro_batch"), words, hint))
    return found


def _collecting(settings: DivergenceDataSettings, draft: Draft) -> list[Found]:
    if settings.tree.divergence is None:
        return []
    words = "the data of a divergence model is searched without one"
    return [at(draft, (draft.method, "tree", "divergence"), words, "leave it out")]
