"""Everything that can be wrong with a recipe is told with its place, its value and what is allowed."""

from __future__ import annotations

import pytest
from spec_recipes import HEAD, Recipes

UNKNOWN_KEYS = [
    ("method: sft\nmethd: eval\n", "r.yaml:4:1: methd: unknown key\nhint: did you mean method?"),
    ("method: sft\nlr: 1e-4\n", "r.yaml:4:1: lr: unknown key\nhint: lr belongs under train"),
    ("method: sft\ntop_p: 1\n", "hint: top_p belongs under latent.input or sampling"),
    ("method: sft\ntarget: cot\n", "hint: target belongs under sft"),
    ("method: sft\ntrain: {lrr: 1}\n", "r.yaml:4:9: train.lrr: unknown key\nhint: did you mean lr?"),
    ("method: sft\ntrain: {learning_rate: 1}\n", "hint: the key here is train.lr"),
    ("method: sft\ntrain: {lerning_rate: 1}\n", "hint: the key here is train.lr"),
    ("method: sft\ntrain: {max_grad_norm: 1}\n", "hint: the key here is train.clip"),
    ("method: sft\ntrain: {gpus: 1}\n", "hint: gpus belongs under resources"),
    (
        "method: sft\ntrain: {keep: {bset: loss}}\n",
        "r.yaml:4:16: train.keep.bset: unknown key\nhint: did you mean best?",
    ),
    (
        "method: sft\ntrain: {lora: {rank: 3}}\n",
        "train.lora.rank: unknown key\nhint: known here: alpha, dropout, r,",
    ),
    ("method: sft\nsft: {targett: cot}\n", "sft.targett: unknown key\nhint: did you mean target?"),
    ("method: sft\nseeds: 2\nwandb: {projct: x}\n", "wandb.projct: unknown key\nhint: did you mean project?"),
    ("method: sft\ntrain: {seeds: 2}\n", "hint: seeds stands at the top of the recipe"),
    (
        "method: sft\ntrain: {resources: {gpus: 1}}\n",
        "hint: resources stands at the top of the recipe or of a stage",
    ),
    ("stages:\n- {method: sft, jobs: auto}\n", "hint: jobs stands at the top of the recipe"),
    (
        "stages:\n- {method: sft, trian: {}}\n",
        "r.yaml:4:17: stages.sft.trian: unknown key\nhint: did you mean train?",
    ),
    ("stages:\n- {method: sft, train: {lr_: 1}}\n", "stages.sft.train.lr_: unknown key"),
    ("method: sft\nlrr: null\n", "lrr: unknown key"),
    ("method: sft\nfrom_: model\n", "from_: unknown key\nhint: did you mean from?"),
    ("method: sft\nmodel_path: x\n", "hint: the key here is model.path"),
    ("method: sft\ntokenizer: x\n", "hint: tokenizer belongs under model"),
    (
        "method: sft\nsampling.top_p: 1\n",
        "hint: write it as sampling: {top_p: ...}; dotted keys stand under sweep.grid",
    ),
    (
        "method: sft\npartition: gpu\n",
        "hint: partition belongs in a cluster profile: `latentctl clusters list`",
    ),
    (
        "method: sft\ncluster: lab\n",
        "hint: a recipe runs anywhere: choose the cluster with `latentctl submit --cluster",
    ),
    (
        "method: sft\nsweep: {train.lr: [1]}\n",
        "sweep.train.lr: unknown key\nhint: write it as train: {lr: ...}",
    ),
    ("method: sft\nlatnet: {}\n", "latnet: unknown key\nhint: did you mean latent?"),
    (
        "method: sft\nzzzz: x\n",
        "zzzz: unknown key\nhint: known here: calibrate, coconut, dataset, disturbance, divergence,",
    ),
]


@pytest.mark.parametrize(("text", "expected"), UNKNOWN_KEYS, ids=[t.strip()[-30:] for t, _ in UNKNOWN_KEYS])
def test_unknown_keys_name_the_nearest_or_where_they_belong(
    recipes: Recipes, text: str, expected: str
) -> None:
    (line,) = recipes.lines(HEAD + text)
    assert expected in line


WRONG_VALUES = [
    ("train: {lr: fast}", "r.yaml:4:13: train.lr: 'fast': expected a number above 0 and below 10"),
    (
        'train: {lr: "1e-3"}',
        "'1e-3': expected a number above 0 and below 10\nhint: it is a text: write 1e-3 without quotes",
    ),
    ("train: {lr: 0}", "0: expected a number above 0 and below 10"),
    ("train: {lr: 10}", "10: expected a number above 0 and below 10"),
    ("train: {lr: [1e-3]}", "a list of 1: expected a number"),
    ("train: {lr: {a: 1}}", "a map (a): expected a number"),
    ("train: {lr: .nan}", "nan: expected a number above 0"),
    ("train: {lr: .inf}", "inf: expected a number above 0"),
    ("train: {lr: true}", "true: expected a number"),
    ("train: {steps: 1e3}", "1000.0: expected a whole number of at least 1\nhint: write 1000"),
    ("train: {steps: 1.5}", "1.5: expected a whole number of at least 1"),
    (
        "train: {steps: 010}",
        "'010': expected a whole number of at least 1\nhint: a leading zero makes it a text: write 10",
    ),
    ("train: {steps: 0}", "train.steps: 0: expected a whole number of at least 1"),
    ("train: {zero_stage: 4}", "4: expected one of 0, 1, 2, 3"),
    (
        "train: {schedule: cosin}",
        "'cosin': expected one of constant, linear, cosine\nhint: did you mean cosine?",
    ),
    ("train: {gradient_checkpointing: no}", "'no': expected true or false\nhint: write false"),
    ("train: {gradient_checkpointing: 1}", "1: expected true or false"),
    ("train: {betas: [0.9]}", "a list of 1: expected at least 2 items"),
    ("train: {betas: [0.9, high]}", "r.yaml:4:22: train.betas.1: 'high': wrong in a list of numbers"),
    ("train: {betas: [0.9, 1.5]}", "betas are two numbers from 0 to below 1"),
    ("train: {keep: many}", "'many': expected a whole number or a map with some of the keys best, last"),
    ("train: 3", "3: expected a map with some of the keys batch,"),
    ("train: [lr]", "a list of 1: expected a map"),
    ("resources: {time: soon}", "'soon': a duration is written like 30m, 12h, 1d12h or 12:00:00"),
    ("resources: {time: 1:30}", "'1:30': a duration is written like"),
    ("resources: {time: 0}", "0: a duration must be longer than zero"),
    ("resources: {mem: lots}", "'lots': a size is written like 512M, 16G or 1T"),
    ("resources: {nodes: 5000}", "5000: expected a whole number from 1 to 4,096"),
    ("resources: {gpus: -1}", "-1: expected a whole number from 0 to 64"),
    ("dataset: {split: train}", "give a name (see `latentctl data --list`) or a path"),
    ("dataset: 3", "3: expected a text or a map with some of the keys"),
    ("dataset: {name: ''}", "an empty text is not allowed"),
    ("dataset: {name: gsm8k, on_bad_row: ignore}", "'ignore': expected one of error, skip"),
    ("model: {}", "give either path"),
    ("model: {path: a/b, init: {arch: gpt2}}", "give either path"),
    ("model: {init: {hidden: 10, heads: 4}}", "hidden (10) must be a multiple of heads (4)"),
    (
        "model: {init: {arch: gpt3}}",
        "'gpt3': expected one of qwen3, qwen2, llama, gpt2\nhint: did you mean gpt2?",
    ),
    ("model: {path: a/b, tokenizer: {kind: word}}", "a tokenizer is trained only for a random model"),
    ("model: {init: {}, tokenizer: 3}", "3: expected a text or a map with some of the keys kind, vocab_size"),
    ("model: {init: {}, tokenizer: {vocab_size: 3}}", "3: expected a whole number from 32 to 262,144"),
    ("train: {lora: {target_modules: 3}}", "3: expected a list of texts or all-linear"),
    ("train: {lora: {dropout: 1}}", "1: expected a number from 0 to below 1"),
    ("prompt: {markers: {start: ''}}", "an empty text is not allowed"),
    ("prompt: {markers: 3}", "3: expected think or a map with some of the keys end, start"),
    ("sft: {target: answers}", "'answers': expected one of cot, answer\nhint: did you mean answer?"),
    ("sft: 3", "3: expected a map"),
    ("name: My Run", "'My Run': expected lower-case letters, digits"),
    ("name: 3", "3: expected a text"),
    ("seeds: 0", "0: expected a whole number from 1 to 1,000"),
    ("seeds: []", "a list of 0: expected at least 1 items"),
    ("seeds: [1, x]", "'x': "),
    ("seeds: [1, 1]", "a seed is listed twice"),
    ("seeds: many", "'many': expected a whole number from 1 to 1,000 or a list of whole numbers"),
    ("seed: -1", "-1: expected a whole number of at least 0"),
    ("schema_version: 2", "2: expected 1"),
    ("jobs: per-stage", "'per-stage': expected one of auto, per_stage\nhint: did you mean per_stage?"),
    ("plugins: mine.py", "'mine.py': expected a list of texts\nhint: write [mine.py]"),
    ("plugins: [3]", "3: wrong in a list of texts"),
    ("wandb: true", "true: expected a map"),
    ("sweep: {grid: [1]}", "a list of 1: expected a map"),
    ("sweep: {grid: {train.lr: 3}}", "3: "),
    ("from: 3", "3: expected a text"),
    ("from: ''", "an empty text is not allowed"),
]


@pytest.mark.parametrize(("line", "expected"), WRONG_VALUES, ids=[t for t, _ in WRONG_VALUES])
def test_wrong_values_are_shown_with_what_is_allowed(recipes: Recipes, line: str, expected: str) -> None:
    key = line.split(":")[0]
    head = "".join(h + "\n" for h in HEAD.splitlines() if not h.startswith(f"{key}:"))
    pad = "#\n" * (2 - head.count("\n"))
    (found,) = recipes.lines(f"{pad}{head}method: sft\n{line}\n")
    assert expected in found
    assert found.startswith("r.yaml:4:")


TOGETHER = [
    ("method: sft\ntrain: {steps: 3, epochs: 2}\n", "r.yaml:4:19: train: give epochs or steps, not both"),
    (
        "method: sft\ntrain: {micro_batch: 9, batch: 8}\n",
        "micro_batch (9) cannot exceed the global batch (8)",
    ),
    ("method: sft\ntrain: {keep: {best: loss}}\n", "early_stop and keep.best need eval_every"),
    (
        "method: sft\ntrain: {eval_every: 3}\n",
        "r.yaml:4:9: train.eval_every: does nothing without validation problems",
    ),
    ("method: sft\nvalidation: gsm8k\n", "r.yaml:4:1: validation: does nothing without train.eval_every"),
    (
        "method: sft\ntrain: {batch: 10}\nresources: {tasks: 4}\n",
        "r.yaml:4:9: train.batch: a global batch of 10 rows cannot be shared evenly by 4 processes\n"
        "hint: set train.batch to 8 or 12",
    ),
    (
        "method: sft\ntrain: {batch: 16, micro_batch: 8}\nresources: {nodes: 2, tasks: 2}\n",
        "r.yaml:4:20: train.micro_batch: train.batch 16 is not a multiple of train.micro_batch × processes "
        "(8 × 4)\nhint: set train.batch to 32, or train.micro_batch to one of 1, 2, 4",
    ),
    (
        "method: sft\nvalidation: gsm8k\ntrain: {eval_every: 3, keep: {best: acuracy}}\n",
        "r.yaml:5:31: train.keep.best: 'acuracy' is not a validation metric of sft: "
        "expected one of loss, accuracy\nhint: did you mean accuracy?",
    ),
    (
        "method: sft\nvalidation: gsm8k\ntrain: {eval_every: 3, early_stop: {metric: f1}}\n",
        "'f1' is not a validation metric of sft",
    ),
    ("method: eval\nsampling: {samples: 4}\n", "several samples of a greedy answer are all the same"),
    ("method: eval\nsampling: {top_k: 4}\n", "do nothing at temperature 0"),
    ("method: eval\nsampling: {max_think_tokens: 300}\n", "must leave room for an answer"),
    (
        "method: sft\nseed: 1\nseeds: 3\n",
        "r.yaml:5:1: give seed or seeds, not both\nhint: seed stands at r.yaml:4:1",
    ),
    ("method: eval\ntrain: {lr: 1}\n", "r.yaml:4:1: train: does nothing: there is no stage that reads it"),
    ("method: sft\nsampling: {top_p: 1}\n", "sampling: does nothing: there is no stage that reads it"),
    ("method: sft\neval: {max_batch: 1}\n", "eval: does nothing: there is no stage of the method eval"),
    ("stages:\n- {method: eval, train: {lr: 1}}\n", "train: does nothing in a stage of the method eval"),
    ("stages:\n- {method: sft, sampling: {}}\n", "sampling: does nothing in a stage of the method sft"),
    (
        "stages:\n- {method: sft, eval: {}}\n- eval\n",
        "stages.sft.eval: does nothing in a stage of the method sft",
    ),
    (
        "method: stf\n",
        "r.yaml:3:9: method: 'stf' is not a known method\nhint: did you mean sft? methods: calibrate, "
        "coconut, divergence",
    ),
    ("stages: [sft, evall]\n", "'evall' is not a known method\nhint: did you mean eval?"),
    ("train: {lr: 1}\n", "method: missing"),
    ("stages:\n- {sft: {target: cot}}\n", "method: missing\nhint: add method: sft"),
    ("stages: []\n", "a list of 0: expected a list of stages"),
    ("stages: {sft: {}}\n", "a map (sft): expected a list of stages"),
    ("stages: sft\n", "'sft': expected a list of stages"),
    ("stages: [3]\n", "r.yaml:3:10: stages.0: 3: a stage is a method's name or a map"),
    (
        "stages:\n- {name: a, method: sft}\n- {name: a, method: sft}\n",
        "two stages are named 'a'\nhint: the first one stands at r.yaml:4:10",
    ),
    ("stages:\n- {name: A b, method: sft}\n", "'A b': expected lower-case letters"),
]


@pytest.mark.parametrize(("text", "expected"), TOGETHER, ids=[t.strip()[-40:] for t, _ in TOGETHER])
def test_contradictions_and_settings_that_would_do_nothing(
    recipes: Recipes, text: str, expected: str
) -> None:
    (line,) = recipes.lines(HEAD + text)
    assert expected in line


def test_all_problems_come_at_once_in_the_order_of_the_file(recipes: Recipes) -> None:
    lines = recipes.lines(
        """\
        nmae: x
        model: {init: {arch: gpt3, layers: 0}}
        dataset: {name: gsm8k, limit: none}
        train: {lr: fast, steps: 0, stepps: 3, micro_batch: 9, batch: 8}
        stages:
          - sft
          - {method: evl}
          - {method: eval, from: sftt, sampling: {top_p: 3}}
        """
    )
    places = [tuple(map(int, line.split(":")[1:3])) for line in lines]
    assert places == sorted(places)
    assert [line.split(": ")[1] for line in lines] == [
        "nmae",
        "model.init.arch",
        "model.init.layers",
        "dataset.limit",
        "train.lr",
        "train.steps",
        "train.stepps",
        "train",
        "stages.evl.method",
        "stages.eval.sampling.top_p",
    ]


def test_a_problem_at_the_top_is_told_once_for_all_stages(recipes: Recipes) -> None:
    (line,) = recipes.lines(HEAD + "train: {lr: 0}\nstages: [sft, sft, eval]\n")
    assert line.startswith("r.yaml:3:13: train.lr: 0")


def test_a_wrong_value_that_every_stage_replaces_is_wrong_all_the_same(recipes: Recipes) -> None:
    (line,) = recipes.lines(HEAD + "train: {lr: fast}\nstages:\n- {method: sft, train: {lr: 1e-3}}\n")
    assert line.startswith("r.yaml:3:13: train.lr: 'fast'")


def test_what_every_stage_lacks_is_told_once(recipes: Recipes) -> None:
    model, data = recipes.lines("stages: [sft, eval]\n")
    assert (
        model
        == "r.yaml:1:1: model: missing in every stage\nhint: say it once at the top: every stage inherits it"
    )
    assert "dataset: missing in every stage" in data


def test_what_one_stage_lacks_is_told_there(recipes: Recipes) -> None:
    (line,) = recipes.lines("dataset: gsm8k\nstages:\n- {method: sft, model: a/b}\n- method: eval\n")
    assert line == "r.yaml:4:3: stages.eval.model: missing"


def test_a_contradiction_across_levels_names_both_places(recipes: Recipes) -> None:
    (line,) = recipes.lines(HEAD + "train: {steps: 9}\nstages:\n- method: sft\n  train: {epochs: 1}\n")
    assert (
        line
        == "r.yaml:6:11: stages.sft.train: give epochs or steps, not both\nhint: steps stands at r.yaml:3:9"
    )


def test_contradictions_are_not_guessed_from_a_value_that_is_wrong(recipes: Recipes) -> None:
    (line,) = recipes.lines(HEAD + "method: eval\nsampling: {samples: 4, temperature: hot}\n")
    assert "'hot': expected a number" in line


def test_long_values_are_cut(recipes: Recipes) -> None:
    (line,) = recipes.lines(HEAD + f"method: sft\ntrain: {{lr: {'x' * 5000}}}\n")
    assert len(line) < 160
