"""What a tree search says against the rest of its stage."""

from __future__ import annotations

from latentctl.spec.contradictions import at
from latentctl.spec.engine import EngineSpec
from latentctl.spec.explain import Found
from latentctl.spec.grpo import GrpoSettings
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft
from latentctl.spec.tree import TreeSpec


def searching(stage: StageBase, draft: Draft) -> list[Found]:
    """Settings that a search cannot go with, or of which one would do nothing."""
    settings = stage.settings
    spec = getattr(settings, "tree", None)
    if not isinstance(spec, TreeSpec) or not isinstance(settings, EngineSpec):
        return []
    path = (draft.method, "tree")
    found: list[Found] = []
    if settings.needs_vllm:
        words = "a tree is searched by the engine transformers: vLLM cannot copy a row's keys and values"
        found.append(at(draft, path, words, "say engine: transformers, without tensor_parallel"))
    said = stage.latent
    if said is not None and said.input is not None and said.input.kind != "none":
        found.append(at(draft, path, "a tree is searched in text, and here steps are latent", "latent: null"))
    if isinstance(settings, GrpoSettings):
        return found + _rollouts(stage, settings, draft)
    if stage.sampling.samples < 2:
        words = "one answer is no tree: sampling.samples is how many are searched for"
        found.append(at(draft, path, words, "set sampling.samples, such as 16"))
    if stage.sampling.temperature == 0:
        words = "a candidate is looked at after temperature and filters, and greedy leaves one"
        found.append(at(draft, path, words, "set sampling.temperature"))
    return found


def _rollouts(stage: StageBase, settings: GrpoSettings, draft: Draft) -> list[Found]:
    """A problem's rows are searched together, in one process."""
    world = stage.resources.world_size - settings.rollout.processes
    if settings.group_size * world > 0 and stage.train.batch % (settings.group_size * world):
        words = f"a problem is searched in one process: {stage.train.batch} rollouts of a step are no whole "
        words += f"number of groups of {settings.group_size} for each of {world} processes"
        return [at(draft, ("grpo", "tree"), words, "change train.batch or grpo.group_size")]
    return []
