"""GRPO and the disturbance of latent steps: what a recipe may say, and what cannot stand together."""

from __future__ import annotations

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.spec.disturbance import TargetRatio
from latentctl.spec.grpo import GrpoSettings

NOISY = "latent: {input: soft, stop: 6, noise: {kind: concrete}}\n"


def stage(text: str) -> str:
    return f"{HEAD}method: grpo\n{text.rstrip()}\n"


BAD = [
    (
        "grpo: {group_size: 1}",
        "r.yaml:4:20: grpo.group_size: 1: expected a whole number",
    ),
    (
        "train: {batch: 12}",
        "r.yaml:4:9: train.batch: 12 rollouts (train.batch × minibatches) are no whole number of groups of "
        "8\n"
        "hint: make train.batch × minibatches 8 or 16, or change group_size",
    ),
    (
        "grpo: {group_size: 5}\ntrain: {batch: 4}",
        "r.yaml:4:8: grpo.group_size: 4 rollouts (train.batch × minibatches) are no whole number of groups",
    ),
    (
        "grpo: {local_rows: 4}",
        "r.yaml:4:8: grpo: local_rows belongs to aggregation: bnpo, not dapo",
    ),
    (
        "grpo: {aggregation: bnpo, local_rows: 5}",
        "r.yaml:4:27: grpo.local_rows: 32 rollouts of a step are no whole number of local batches of 5",
    ),
    (
        "grpo: {aggregation: bnpo, group_size: 16, minibatches: 4}\ntrain: {batch: 8}",
        "r.yaml:4:8: grpo.aggregation: its local batch is a group of 16, and a step has 8 rollouts",
    ),
    (
        "grpo: {rollout: {ahead: 1}}",
        "r.yaml:4:8: grpo: rollout.ahead needs rollout.processes: engines that generate meanwhile",
    ),
    (
        "grpo: {rollout: {processes: 2}}\nresources: {tasks: 2}",
        "r.yaml:4:18: grpo.rollout.processes: 2 of 2 processes generate, and none is left to train\n"
        "hint: ask for more: resources.tasks, gpus or nodes",
    ),
    (
        "grpo: {rollout: {processes: 1}, engine: vllm, tensor_parallel: 2}\nresources: {gpus: 4}\n"
        "train: {batch: 48, micro_batch: 8}",
        "r.yaml:4:47: grpo.tensor_parallel: processes that generate beside a trainer have one GPU each",
    ),
    (
        "grpo: {rollout: {processes: 1, ahead: 2}}\nresources: {tasks: 2}",
        "r.yaml:4:39: grpo.rollout.ahead: 2: expected a whole number from 0 to 1",
    ),
    (
        "grpo: {rollout: {processes: 1, ahead: 1}, zero_variance: resample}\nresources: {tasks: 2}",
        "r.yaml:4:43: grpo.zero_variance: redraws problems once their rewards are known; rollout.ahead has",
    ),
    (
        "grpo: {rollout: {processes: 1, ahead: 1}}\nresources: {tasks: 2}\n" + NOISY,
        "r.yaml:4:32: grpo.rollout.ahead: rollouts of an older policy cannot be corrected for: no engine",
    ),
    (
        "grpo: {rollout: {processes: 1, ahead: 1}}\nresources: {tasks: 5}\n"
        "train: {batch: 32, micro_batch: 8}",
        None,
    ),
    (
        "grpo: {rollout: {processes: 1}}\nresources: {tasks: 4}\ntrain: {batch: 32, micro_batch: 8}",
        "r.yaml:6:9: train.batch: a global batch of 32 rows cannot be shared evenly by 3 processes",
    ),
    (
        "grpo: {overlong: {buffer: 500}}",
        "r.yaml:4:8: grpo: overlong.buffer (500) is longer than max_completion_len (256)",
    ),
    (
        "disturbance: {entropy_threshold: 1.0}\nlatent: {input: soft, stop: 6}",
        "r.yaml:4:1: disturbance: does nothing without noise to apply\nhint: add latent.noise, such as",
    ),
    (
        "disturbance: {entropy_threshold: 1.0}\nlatent: {input: none}",
        "r.yaml:4:1: disturbance: does nothing without latent steps",
    ),
    (
        "disturbance: {max_ratio: 0}\n" + NOISY,
        "r.yaml:4:26: disturbance.max_ratio: 0: expected a number above 0 and at most 1",
    ),
    (
        "disturbance: {entropy_threshold: {target_ratio: 1.5}}\n" + NOISY,
        "r.yaml:4:49: disturbance.entropy_threshold.target_ratio: 1.5: expected a number above 0 and below 1",
    ),
    (
        "grpo: {latent_loss: {kind: l2}}",
        "r.yaml:4:22: grpo.latent_loss.kind: l2 is about disturbed latent steps, and there is no noise",
    ),
    (
        "grpo: {latent_loss: {kind: kl}}\nlatent: {input: soft, stop: 6, noise: {kind: gaussian}}",
        "r.yaml:4:22: grpo.latent_loss.kind: kl compares weights of tokens, and this noise falls on the",
    ),
    (
        "grpo: {passes: 2}\n" + NOISY,
        "r.yaml:4:1: grpo: 2 updates on one set of rollouts: after the first the ratio of a latent step's "
        "whole density explodes\nhint: say latent_loss: {reduction: mean_over_dims}, or minibatches: 1",
    ),
    (
        "grpo: {max_completion_len: 50}\nlatent: {input: soft, stop: 60}",
        "r.yaml:5:23: latent.stop: up to 60 latent steps leave no room for text within "
        "grpo.max_completion_len (50), which counts both\nhint: set grpo.max_completion_len above 60",
    ),
    (
        "grpo: {tree: {}, engine: vllm}",
        "r.yaml:4:8: grpo.tree: a tree is searched by the engine transformers",
    ),
    (
        "grpo: {tree: {}}\nlatent: {input: soft, stop: 6}",
        "r.yaml:4:8: grpo.tree: a tree is searched in text, and here steps are latent",
    ),
    (
        "grpo: {tree: {}}\nresources: {tasks: 3}\ntrain: {batch: 24, micro_batch: 1, steps: 1}",
        None,
    ),
    (
        "grpo: {tree: {}}\nresources: {tasks: 2}\ntrain: {batch: 8}",
        "r.yaml:4:8: grpo.tree: a problem is searched in one process: 8 rollouts of a step are no whole",
    ),
    (
        "train: {max_len: 99}",
        "r.yaml:4:9: train.max_len: does nothing to rollouts\nhint: grpo.max_completion_len bounds rollouts",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[t.replace("\n", " ") for t, _ in BAD])
def test_what_cannot_stand_together(recipes: Recipes, text: str, expected: str | None) -> None:
    if expected is None:
        recipes.point(stage(text))
        return
    (line,) = recipes.lines(stage(text))
    assert line.startswith(expected)


def test_a_disturbance_belongs_to_rollouts_alone(recipes: Recipes) -> None:
    (line,) = recipes.lines(f"{HEAD}method: eval\ndisturbance: {{max_ratio: 0.1}}\n")
    assert line.startswith("r.yaml:4:1: disturbance: does nothing: there is no stage that reads it")


def test_a_threshold_is_a_number_or_a_ratio_to_calibrate(recipes: Recipes) -> None:
    number = recipes.point(stage("disturbance: {entropy_threshold: 1.2}\n" + NOISY)).experiment.stages[0]
    ratio = recipes.point(
        stage("disturbance: {entropy_threshold: {target_ratio: 0.05}}\n" + NOISY)
    ).experiment.stages[0]
    assert number.disturbance is not None
    assert number.disturbance.entropy_threshold == 1.2
    assert ratio.disturbance is not None
    assert ratio.disturbance.entropy_threshold == TargetRatio(target_ratio=0.05)


def test_noise_at_the_top_is_for_rollouts_and_not_for_evaluations(recipes: Recipes) -> None:
    text = f"""\
    {HEAD.strip().replace(chr(10), chr(10) + "    ")}
    latent: {{input: soft, stop: 6, noise: {{kind: concrete}}}}
    stages:
      - grpo
      - eval
      - {{name: noisy, method: eval, latent: {{noise: {{kind: dirichlet}}}}}}
    """
    stages = recipes.point(text).experiment.stages
    kinds = {s.name: s.latent and s.latent.noise and s.latent.noise.kind for s in stages}
    assert kinds == {"grpo": "concrete", "eval": None, "noisy": "dirichlet"}


def test_without_rollouts_noise_at_the_top_is_for_evaluations(recipes: Recipes) -> None:
    point = recipes.point(f"{HEAD}method: eval\n{NOISY}")
    latent = point.experiment.stages[0].latent
    assert latent is not None
    assert latent.noise is not None


def test_a_long_rollout_needs_no_room_in_sampling_unless_there_is_validation(recipes: Recipes) -> None:
    text = "grpo: {max_completion_len: 900}\nlatent: {input: soft, stop: 800}\n"
    recipes.point(stage(text))
    more = text + "validation: gsm8k\ntrain: {eval_every: 5}\n"
    (line,) = recipes.lines(stage(more))
    assert "up to 800 latent steps leave no room for text: sampling.max_new_tokens (256)" in line
    recipes.point(stage(more + "sampling: {max_new_tokens: 1000}\n"))


EVAL = [
    ("eval: {tree: {}}", "r.yaml:4:8: eval.tree: one answer is no tree: sampling.samples is how many"),
    (
        "eval: {tree: {}, engine: vllm}\nsampling: {samples: 8, temperature: 0.6}",
        "r.yaml:4:8: eval.tree: a tree is searched by the engine transformers",
    ),
    (
        "eval: {tree: {min_prob: 1.5}}\nsampling: {samples: 8, temperature: 0.6}",
        "r.yaml:4:25: eval.tree.min_prob: 1.5: expected a number",
    ),
]


@pytest.mark.parametrize(("text", "expected"), EVAL, ids=[t.replace("\n", " ") for t, _ in EVAL])
def test_a_searched_evaluation(recipes: Recipes, text: str, expected: str) -> None:
    lines = recipes.lines(f"{HEAD}method: eval\n{text}\n")
    assert any(line.startswith(expected) for line in lines), lines


def test_every_key_says_what_it_means() -> None:
    unsaid = {"temperature", "precision"}
    lacking = [k for k, f in GrpoSettings.model_fields.items() if not f.description and k not in unsaid]
    described = {"kl", "mismatch", "overlong", "latent_loss", "rewards", "rollout"}  # their classes say it
    assert set(lacking) <= described
