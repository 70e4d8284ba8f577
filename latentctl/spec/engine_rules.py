"""What the choice of an engine says against the rest of its stage."""

from __future__ import annotations

from collections.abc import Sequence

from latentctl.spec.contradictions import at
from latentctl.spec.engine import VLLM_TOP_K, EngineSpec
from latentctl.spec.explain import Found
from latentctl.spec.latent import SoftInput
from latentctl.spec.latent_rules import carries
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft


def engine(stage: StageBase, draft: Draft) -> list[Found]:
    """Settings that the chosen engine cannot serve, or that do nothing with it."""
    settings = stage.settings
    if not isinstance(settings, EngineSpec):
        return []
    found = _memory(stage, settings, draft)
    if settings.tensor_parallel > 1 and settings.engine == "transformers":
        words = f"{settings.tensor_parallel} GPUs for one copy of the model: transformers uses one"
        hint = "say engine: vllm, or leave tensor_parallel out"
        return [*found, at(draft, (draft.method, "tensor_parallel"), words, hint)]
    if settings.tensor_parallel > 1:
        found += _layout(stage, settings.tensor_parallel, draft)
    if settings.needs_vllm:
        found += _soft(stage, settings, draft)
    return found


def _memory(stage: StageBase, settings: EngineSpec, draft: Draft) -> list[Found]:
    if "gpu_memory" not in settings.model_fields_set:
        return []
    path = (draft.method, "gpu_memory")
    if settings.engine == "transformers":
        words, hint = "does nothing with engine: transformers", "max_batch_tokens bounds its memory"
    elif stage.resources.gpus == 0:
        words, hint = "does nothing without GPUs", "leave it out, or ask for resources.gpus"
    else:
        return []
    return [at(draft, path, words, hint)]


def _layout(stage: StageBase, parallel: int, draft: Draft) -> list[Found]:
    """A node's GPUs are shared out whole."""
    asked = stage.resources
    path = (draft.method, "tensor_parallel")
    if asked.gpus == 0:
        words = f"{parallel} GPUs for one copy of the model, and no GPU is asked for"
        return [at(draft, path, words, f"add resources.gpus: {parallel}")]
    if asked.gpus % parallel:
        words = f"{asked.gpus} GPUs of a node cannot be shared out by {parallel}"
        fit = [n for n in range(1, asked.gpus + 1) if asked.gpus % n == 0]
        hint = f"expected one of {', '.join(map(str, fit))}, or another resources.gpus"
        return [at(draft, path, words, hint)]
    if asked.tasks is not None and asked.tasks != asked.gpus // parallel:
        words = f"{asked.gpus} GPUs of a node by {parallel} are {asked.gpus // parallel} processes, not "
        words += str(asked.tasks)
        return [at(draft, ("resources", "tasks"), words, "leave resources.tasks out")]
    return []


def _soft(stage: StageBase, settings: EngineSpec, draft: Draft) -> list[Found]:
    """How many tokens vLLM can mix."""
    said = stage.latent.input if stage.latent else None
    if not isinstance(said, SoftInput):
        return []
    hint = f"at most {VLLM_TOP_K}" + ("" if settings.tensor_parallel > 1 else ", or engine: transformers")
    path = ("latent", "input")
    if said.max_topk is None:
        words = "vLLM mixes a bounded number of tokens, and null is as many as there are"
        return [at(draft, (*path, "max_topk"), words, hint)]
    for key, count in (("max_topk", said.max_topk), ("top_k", said.top_k)):
        if count > VLLM_TOP_K:
            return [at(draft, (*path, key), f"{count} tokens are more than vLLM looks at", hint)]
    return []


def text_alone(stages: Sequence[StageBase], drafts: Sequence[Draft]) -> list[Found]:
    """Calibrations on text by vLLM, which does not give the whole distribution of each token."""
    by_name = {s.name: s for s in stages}
    found: list[Found] = []
    for stage, draft in zip(stages, drafts, strict=True):
        settings, said = stage.settings, stage.latent
        if draft.method != "calibrate" or not isinstance(settings, EngineSpec) or not settings.needs_vllm:
            continue
        text = not carries(stage, by_name) if said is None else said.input and said.input.kind == "none"
        if text:
            words = "vLLM does not give the entropy of written tokens, and there are no latent steps here"
            key = "engine" if settings.engine == "vllm" else "tensor_parallel"
            hint = "say engine: transformers, without tensor_parallel"
            found.append(at(draft, (draft.method, key), words, hint))
    return found
