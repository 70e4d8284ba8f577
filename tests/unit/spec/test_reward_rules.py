"""Rewards of a recipe: what may be said, and what would do nothing."""

from __future__ import annotations

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.spec.rewards import BUILT_IN, RewardsSpec

INIT = "model: {init: {layers: 2, hidden: 32, heads: 2}, tokenizer: bytes}\ndataset: gsm8k\n"
SPANS = "latent: {input: soft, stop: {end_marker: true, max_len: 100}}\n"


def stage(text: str, head: str = HEAD) -> str:
    return f"{head}method: grpo\n{text.rstrip()}\n"


BAD = [
    (
        "grpo: {rewards: {correctness: 0}}",
        "r.yaml:4:8: grpo.rewards: every weight is 0: no rollout would be better than another\n"
        "hint: give one a weight",
    ),
    (
        "grpo: {rewards: {correctness: -1}}",
        "r.yaml:4:31: grpo.rewards.correctness: -1: expected a number of at least 0",
    ),
    (
        "grpo: {rewards: {corectness: 1}}",
        "r.yaml:4:18: grpo.rewards.corectness: unknown key\nhint: did you mean correctness?",
    ),
    (
        "grpo: {rewards: {own: {correctness: 1}}}",
        "r.yaml:4:24: grpo.rewards.own.correctness: correctness needs no plugin\n"
        "hint: write it as grpo.rewards.correctness",
    ),
    (
        "grpo: {rewards: {own: {short: a lot}}}",
        "r.yaml:4:31: grpo.rewards.own.short: 'a lot': expected a number",
    ),
    (
        "grpo: {rewards: {own: {'no name': 1}}}",
        "r.yaml:4:35: grpo.rewards.own.no name: 1: expected lower-case letters, digits",
    ),
    (
        "grpo: {rewards: {reasoning: true}}",
        "r.yaml:4:18: grpo.rewards.reasoning: does nothing without answer_len\nhint: leave it out",
    ),
    (
        "grpo: {rewards: {answer_len: 1, reasoning: maybe}}",
        "r.yaml:4:44: grpo.rewards.reasoning: 'maybe': expected auto or true or false",
    ),
    (
        "grpo: {rewards: {latent_len: 1}}\nlatent: {input: none}",
        "r.yaml:4:18: grpo.rewards.latent_len: there are no latent steps to count\n"
        "hint: add a latent block, or leave latent_len out",
    ),
    (
        "grpo: {rewards: {latent_len: 1}}\nlatent: {input: soft, stop: 6}",
        "r.yaml:4:18: grpo.rewards.latent_len: latent.stop.fixed gives all rollouts of a problem the same",
    ),
    (
        "grpo: {rewards: {latent_len: 1}}\nlatent: {input: soft, stop: {per_step: {latents: 2}}}",
        "r.yaml:4:18: grpo.rewards.latent_len: latent.stop.per_step gives all rollouts of a problem",
    ),
    (
        "grpo: {rewards: {latent_len: 1}}\nlatent: {input: soft, stop: {end_marker: true, max_len: 0}}",
        "r.yaml:4:18: grpo.rewards.latent_len: latent.stop.max_len: 0 leaves no latent steps to count",
    ),
    (
        "grpo: {rewards: {strict_format: 0.1}}\nprompt: {form: coconut}",
        "r.yaml:4:18: grpo.rewards.strict_format: looks for the parts of the forms plain and xml; "
        "prompt.form: coconut is one step a line, then ### and the answer\n"
        "hint: leave strict_format out, or say another prompt.form",
    ),
    (
        "grpo: {rewards: {loose_format: 0.1}}\nprompt: {form: answer}",
        "r.yaml:4:18: grpo.rewards.loose_format: looks for the parts of the forms plain and xml; "
        "prompt.form: answer is the answer alone",
    ),
    (
        "grpo: {rewards: {answer_len: 0.1}}\nprompt: {form: answer}\nlatent: {input: none}",
        "r.yaml:4:18: grpo.rewards.answer_len: prompt.form: answer has no markers that end the reasoning, "
        "and there are no latent steps",
    ),
    (
        "grpo: {rewards: {response_think: 0.1}}\nprompt: {form: coconut}\nlatent: {input: none}",
        "r.yaml:4:18: grpo.rewards.response_think: prompt.form: coconut has no markers that end the",
    ),
    (
        "grpo: {rewards: {answer_format: 0.1}, grader: prosqa}",
        "r.yaml:4:18: grpo.rewards.answer_format: the grader prosqa takes sentences, whose form says nothing",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[t.replace("\n", " ") for t, _ in BAD])
def test_what_would_do_nothing(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(stage(text))
    assert line.startswith(expected)


def test_a_model_from_scratch_surely_takes_no_latent_steps(recipes: Recipes) -> None:
    lines = recipes.lines(stage("grpo: {rewards: {latent_len: 1}}", INIT))
    assert any("there are no latent steps to count" in line for line in lines)


GOOD = [
    "grpo: {rewards: {correctness: 0, own: {mine: -0.5}}}",
    "grpo: {rewards: {response_think: -0.1}}",
    "grpo: {rewards: {answer_len: 0.1, reasoning: true}}",
    "grpo: {rewards: {answer_len: 0.1, reasoning: auto}}",
    "grpo: {rewards: {latent_len: 0.1}}",
    "grpo: {rewards: {latent_len: 0.1}}\n" + SPANS,
    "grpo: {rewards: {latent_len: 0.1}}\nlatent: {input: soft, start: model, stop: 6}",
    "grpo: {rewards: {answer_len: 0.1, response_think: 0.1}}\nprompt: {form: coconut}\n" + SPANS,
    "grpo: {rewards: {answer_format: 0.1, answer_no_think: 0.1}}\nprompt: {form: answer}",
    "grpo: {rewards: {loose_format: 0.1, strict_format: 0.1}}\nprompt: {form: xml}",
]


@pytest.mark.parametrize("text", GOOD, ids=[t.replace("\n", " ") for t in GOOD])
def test_what_may_be_said(recipes: Recipes, text: str) -> None:
    recipes.point(stage(text))


def test_the_weights_that_count() -> None:
    spec = RewardsSpec(answer_len=0.5, correctness=0, own={"mine": -1.0, "other": 0})
    assert spec.weights() == {"answer_len": 0.5, "mine": -1.0}
    assert RewardsSpec().weights() == {"correctness": 1.0}
    assert BUILT_IN == (
        "correctness", "answer_format", "loose_format", "strict_format", "latent_len", "answer_len",
        "answer_no_think", "response_think",
    )  # fmt: skip


def test_every_key_says_what_it_means() -> None:
    assert all(field.description for field in RewardsSpec.model_fields.values())
