"""What GRPO's settings say against the rest of their stage."""

from __future__ import annotations

from latentctl.spec.contradictions import at
from latentctl.spec.explain import Found
from latentctl.spec.grpo import GrpoSettings
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft

_IDLE = {
    "max_len": "grpo.max_completion_len bounds rollouts",
    "overlong": "grpo.mask_truncated and grpo.overlong are about long rollouts",
    "workers": "rollouts are made by the engine",
}
"""Keys of `train` that mean rows of a data set."""


def grpo(stage: StageBase, draft: Draft) -> list[Found]:
    """Settings that cannot stand together, or of which one would do nothing."""
    settings = stage.settings
    if not isinstance(settings, GrpoSettings):
        return []
    return [
        *_sizes(stage, settings, draft),
        *_processes(stage, settings, draft),
        *_latent(stage, settings, draft),
        *_idle(draft),
    ]


def _processes(stage: StageBase, settings: GrpoSettings, draft: Draft) -> list[Found]:
    """Those that generate and those that train."""
    count, world = settings.rollout.processes, stage.resources.world_size
    if count == 0:
        return []
    path = ("grpo", "rollout", "processes")
    if count >= world:
        words = f"{count} of {world} processes generate, and none is left to train"
        return [at(draft, path, words, "ask for more: resources.tasks, gpus or nodes")]
    if settings.tensor_parallel > 1:
        words = "processes that generate beside a trainer have one GPU each, like those that train"
        return [
            at(draft, ("grpo", "tensor_parallel"), words, "leave tensor_parallel out, or rollout.processes")
        ]
    return []


def _sizes(stage: StageBase, settings: GrpoSettings, draft: Draft) -> list[Found]:
    found: list[Found] = []
    rollouts, group = stage.train.batch * settings.minibatches, settings.group_size
    if rollouts % group:
        words = f"{rollouts} rollouts (train.batch × minibatches) are no whole number of groups of {group}"
        below = rollouts // group * group
        near = f"{below} or {below + group}" if below else str(group)
        hint = f"make train.batch × minibatches {near}, or change group_size"
        said = "group_size" in settings.model_fields_set
        found.append(at(draft, ("grpo", "group_size") if said else ("train", "batch"), words, hint))
    local = settings.local_rows
    if local is not None and stage.train.batch % local:
        words = f"{stage.train.batch} rollouts of a step are no whole number of local batches of {local}"
        found.append(at(draft, ("grpo", "local_rows"), words, "expected a divisor of train.batch"))
    if settings.aggregation == "bnpo" and local is None and stage.train.batch % group:
        words = f"its local batch is a group of {group}, and a step has {stage.train.batch} rollouts"
        found.append(at(draft, ("grpo", "aggregation"), words, "say local_rows, a divisor of train.batch"))
    if settings.zero_variance == "resample" and settings.rollout.ahead:
        words = "redraws problems once their rewards are known; rollout.ahead has begun the next ones by then"
        found.append(at(draft, ("grpo", "zero_variance"), words, "say drop"))
    return found


def _latent(stage: StageBase, settings: GrpoSettings, draft: Draft) -> list[Found]:
    found: list[Found] = []
    said, disturbance = stage.latent, stage.disturbance
    text = said is not None and said.input is not None and said.input.kind == "none"
    noise = None if said is None else said.noise
    floor = disturbance is not None and disturbance.floor > 0
    if disturbance is not None and (text or (noise is None and not floor)):
        words = "does nothing without noise to apply" if not text else "does nothing without latent steps"
        hint = "add latent.noise, such as {kind: concrete}; or give a floor"
        found.append(at(draft, ("disturbance",), words, hint))
    kind = settings.latent_loss.kind
    if kind != "pg" and noise is None:
        words = f"{kind} is about disturbed latent steps, and there is no noise"
        found.append(at(draft, ("grpo", "latent_loss", "kind"), words, "add latent.noise"))
    if kind == "kl" and noise is not None and noise.kind == "gaussian" and noise.on == "input":
        words = "kl compares weights of tokens, and this noise falls on the vector that is fed"
        found.append(at(draft, ("grpo", "latent_loss", "kind"), words, "expected pg, l1 or l2"))
    if settings.rollout.ahead and (noise is not None or floor):
        words = "rollouts of an older policy cannot be corrected for: no engine knows the density of its "
        words += "latent steps"
        found.append(at(draft, ("grpo", "rollout", "ahead"), words, "leave it out, or train on text alone"))
    several = settings.updates > 1 and (noise is not None or floor)
    if several and kind == "pg" and settings.latent_loss.reduction == "sum":
        words = f"{settings.updates} updates on one set of rollouts: after the first the ratio of a latent "
        words += "step's whole density explodes"
        hint = "say latent_loss: {reduction: mean_over_dims}, or minibatches: 1 and passes: 1"
        found.append(at(draft, ("grpo", "latent_loss"), words, hint))
    stop = None if said is None else said.stop
    longest = 0 if stop is None else min((n for n in (stop.max_len, stop.fixed) if n is not None), default=0)
    if longest >= settings.max_completion_len:
        words = f"up to {longest} latent steps leave no room for text within grpo.max_completion_len "
        words += f"({settings.max_completion_len}), which counts both"
        hint = f"set grpo.max_completion_len above {longest}"
        found.append(at(draft, ("latent", "stop"), words, hint))
    return found


def _idle(draft: Draft) -> list[Found]:
    """Keys that the stage itself says and that mean nothing to it; what it inherits may be for others."""
    train = draft.own.get("train")
    found: list[Found] = []
    for key, hint in _IDLE.items() if train is not None and train.is_map else ():
        node = train.get(key) if train else None
        if node is not None and node.value is not None:
            found.append(at(draft, ("train", key), "does nothing to rollouts", hint))
    return found
