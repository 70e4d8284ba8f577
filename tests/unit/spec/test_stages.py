"""One stage or many: inheritance, names, and where each stage starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.spec.experiment import Experiment


def stages(recipes: Recipes, text: str, *sets: str) -> Experiment:
    return recipes.point(HEAD + text, *sets).experiment


def test_one_stage_form(recipes: Recipes) -> None:
    experiment = stages(recipes, "method: sft\ntrain: {lr: 1e-3}\n")
    (stage,) = experiment.stages
    assert (stage.name, stage.from_, stage.train.lr) == ("sft", "model", 1e-3)
    assert experiment.name == "r"


def test_maps_merge_deep_lists_replace_null_removes(recipes: Recipes) -> None:
    experiment = stages(
        recipes,
        """\
train: {lr: 1e-3, batch: 16, betas: [0.9, 0.99], keep: {last: 3}, lora: {r: 4}}
prompt: {form: xml}
stages:
- {name: a, method: sft}
- {name: b, method: sft, train: {lr: null, betas: [0.8, 0.9], lora: null}, prompt: null}
- {name: c, method: sft, train: {keep: 5, lora: {alpha: 8.0}}}
""",
    )
    a, b, c = experiment.stages
    assert (a.train.lr, a.train.betas, a.train.keep.last, a.prompt is not None) == (
        1e-3,
        [0.9, 0.99],
        3,
        True,
    )
    assert (b.train.lr, b.train.batch, b.train.betas, b.train.lora, b.prompt) == (
        1e-5,
        16,
        [0.8, 0.9],
        None,
        None,
    )
    assert c.train.keep.last == 5
    assert c.train.lora is not None
    assert (c.train.lora.r, c.train.lora.alpha) == (4, 8.0)


def test_short_forms_merge_with_maps(recipes: Recipes) -> None:
    experiment = stages(
        recipes, "stages:\n- sft\n- {method: eval, dataset: {limit: 5}}\n- {method: eval, dataset: math}\n"
    )
    _, limited, other = experiment.stages
    assert (limited.dataset.name, limited.dataset.limit, limited.dataset.split) == ("gsm8k", 5, "test")
    assert (other.dataset.name, other.dataset.limit) == ("math", None)


def test_stages_may_share_their_settings_by_an_alias(recipes: Recipes) -> None:
    text = "stages:\n- &first {method: sft, train: &t {lr: 1e-3}}\n- *first\n"
    text += "- {method: sft, train: {<<: *t, batch: 4}}\n"
    experiment = stages(recipes, text)
    assert [(s.name, s.train.lr, s.train.batch) for s in experiment.stages] == [
        ("sft-1", 1e-3, 32),
        ("sft-2", 1e-3, 32),
        ("sft-3", 1e-3, 4),
    ]
    (line,) = recipes.lines(HEAD + text.replace("lr:", "lrr:"))[1:2]
    assert line.startswith("r.yaml:4:35: stages.sft-2.train.lrr: unknown key")


def test_a_method_block_at_the_top_is_for_the_stages_of_that_method(recipes: Recipes) -> None:
    experiment = stages(
        recipes,
        "sft: {target: answer}\neval: {max_batch: 3}\nsampling: {max_new_tokens: 9}\ntrain: {steps: 3}\n"
        "stages: [sft, eval]\n",
    )
    sft, evaluation = experiment.stages
    assert sft.settings.model_dump()["target"] == "answer"
    assert evaluation.settings.model_dump()["max_batch"] == 3
    assert (sft.sampling.max_new_tokens, evaluation.sampling.max_new_tokens) == (256, 9)
    assert evaluation.train.steps is None


def test_splits_that_are_unsaid(recipes: Recipes) -> None:
    experiment = stages(
        recipes,
        "stages:\n- {method: sft, validation: math, train: {eval_every: 5}}\n- eval\n"
        "- {method: eval, dataset: {split: train}}\n",
    )
    sft, default, said = experiment.stages
    assert sft.dataset.split == "train"
    assert sft.validation is not None
    assert sft.validation.split == "valid"
    assert (default.dataset.split, said.dataset.split) == ("test", "train")


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("[sft, eval]", ["sft", "eval"]),
        ("[sft, eval, sft, eval]", ["sft-1", "eval-1", "sft-2", "eval-2"]),
        ("[{method: sft, name: eval}, eval]", ["eval", "eval-1"]),
        ("[{method: sft, name: sft-1}, sft, sft]", ["sft-1", "sft-2", "sft-3"]),
        ("[{method: sft}]", ["sft"]),
    ],
)
def test_names_that_are_unsaid_are_the_methods_numbered(
    recipes: Recipes, listed: str, names: list[str]
) -> None:
    assert [s.name for s in stages(recipes, f"stages: {listed}\n").stages] == names


def test_a_stage_starts_from_the_nearest_checkpoint_before(recipes: Recipes) -> None:
    experiment = stages(recipes, "stages: [eval, sft, eval, eval, sft, eval]\n")
    assert [s.from_ for s in experiment.stages] == ["model", "model", "sft-1", "sft-1", "sft-1", "sft-2"]


def test_from_names_a_stage_a_step_a_run_or_the_model(recipes: Recipes) -> None:
    experiment = stages(
        recipes,
        """\
stages:
- name: a
  method: sft
  validation: math
  train: {steps: 50, save_every: 20, eval_every: 5, keep: {best: loss}}
- {name: b, method: sft, from: model}
- {method: eval, name: c, from: a}
- {method: eval, name: d, from: a@best}
- {method: eval, name: e, from: a@40}
- {method: eval, name: f, from: a@50}
- {method: eval, name: g, from: "run:x-12345678/sft@best"}
- {method: eval, name: h, from: "run:@last"}
""",
    )
    assert [s.from_ for s in experiment.stages][1:] == [
        "model", "a", "a@best", "a@40", "a@50", "run:x-12345678/sft@best", "run:@last"
    ]  # fmt: skip


def test_from_a_directory_is_made_absolute(recipes: Recipes, here: Path) -> None:
    (here / "ckpt").mkdir()
    for said in ("ckpt", "./ckpt", str(here / "ckpt")):
        assert stages(recipes, f"method: eval\nfrom: {said}\n").stages[0].from_ == str(here / "ckpt")


def test_from_at_the_top_is_every_stages_default(recipes: Recipes, here: Path) -> None:
    (here / "ckpt").mkdir()
    experiment = stages(
        recipes, "from: ./ckpt\nmethod: eval\nstages:\n- {name: a}\n- {name: b, dataset: math}\n"
    )
    assert {s.from_ for s in experiment.stages} == {str(here / "ckpt")}


SFT = "- {name: a, method: sft}\n"
BAD_LINKS = [
    (
        "- {name: a, method: sft, from: a}\n",
        "r.yaml:4:32: stages.a.from: 'a': a stage cannot start from itself",
    ),
    (
        "- {name: a, method: sft, from: b}\n- {name: b, method: sft, from: model}\n",
        "'b': the stage b comes later\nhint:",
    ),
    (
        "- {name: a, method: sft, from: b}\n- {name: b, method: sft, from: a}\n",
        "'b': the stage b comes later, and the two form a cycle: a → b → a",
    ),
    (
        "- {name: a, method: sft, from: c}\n- {name: b, method: sft}\n- {name: c, method: sft}\n",
        "'c': the stage c comes later, and the two form a cycle: a → c → b → a",
    ),
    (
        SFT + "- {method: eval, from: aa}\n",
        "'aa': there is no such stage, and no such directory\nhint: did you mean a?",
    ),
    (SFT + "- {method: eval, from: zzz}\n", "hint: earlier stages: a; or model, run:ID/STAGE, a directory"),
    (
        SFT + "- {method: eval, from: Qwen/Qwen3-1.7B}\n",
        "hint: for a model of the Hub, write model: Qwen/Qwen3-1.7B and from: model",
    ),
    (
        SFT + "- {method: eval, name: b}\n- {method: eval, from: b}\n",
        "'b': the stage b (eval) makes no checkpoint\nhint: stages before it that do: a",
    ),
    (
        "- {method: eval, name: b}\n- {method: eval, from: b}\n",
        "makes no checkpoint\nhint: write from: model",
    ),
    (
        SFT + "- {method: eval, from: a@best}\n",
        "the stage a keeps no best checkpoint\nhint: set train.keep.best in a",
    ),
    (SFT + "- {method: eval, from: a@first}\n", "expected @best or a step's number, not @first"),
    (SFT + "- {method: eval, from: a@}\n", "nothing stands after the @"),
    (
        SFT + "- {method: eval, from: a@7}\n",
        "saves no checkpoint at step 7\nhint: set train.save_every in a to a divisor of 7",
    ),
    (
        "- {name: a, method: sft, train: {steps: 5}}\n- {method: eval, from: a@7}\n",
        "the stage a ends after step 5",
    ),
    (SFT + "- {method: eval, from: ./nope}\n", "'./nope': no such file or directory"),
    (SFT + "- {method: eval, from: ./r.yaml}\n", "'./r.yaml': this is a file, not a directory"),
    (SFT + "- {method: eval, from: 'run:'}\n", "expected run:ID, run:ID/STAGE or run:ID/STAGE@best"),
    (SFT + "- {method: eval, from: 'run:a/b/c'}\n", "expected run:ID"),
]


@pytest.mark.parametrize(("listed", "expected"), BAD_LINKS, ids=[t.strip()[-34:] for t, _ in BAD_LINKS])
def test_a_stage_cannot_start_from_what_is_not_there(recipes: Recipes, listed: str, expected: str) -> None:
    text = "\n".join(recipes.lines(HEAD + "stages:\n" + listed))
    assert expected in text


def test_local_paths_are_found_and_made_absolute(recipes: Recipes, here: Path) -> None:
    (here / "m").mkdir()
    (here / "d.jsonl").write_text("{}")
    text = "model: {path: m, tokenizer: ./m}\ndataset: d.jsonl\nmethod: sft\n"
    text += "validation: {path: ./d.jsonl}\ntrain: {eval_every: 2}\n"
    (stage,) = recipes.point(text).experiment.stages
    assert (stage.model.path, stage.model.tokenizer) == (str(here / "m"), str(here / "m"))
    assert stage.dataset.path == str(here / "d.jsonl")
    assert stage.validation is not None
    assert stage.validation.path == str(here / "d.jsonl")


def test_the_home_folder_is_expanded(recipes: Recipes, here: Path) -> None:
    (here / "home" / "m").mkdir(parents=True)
    (stage,) = recipes.point("model: ~/m\ndataset: gsm8k\nmethod: sft\n").experiment.stages
    assert stage.model.path == str(here / "home" / "m")


def test_ids_of_the_hub_stay_as_they_are(recipes: Recipes) -> None:
    (stage,) = recipes.point("model: Qwen/Qwen3-1.7B\ndataset: openai/gsm8k\nmethod: sft\n").experiment.stages
    assert (stage.model.path, stage.dataset.path, stage.dataset.name) == (
        "Qwen/Qwen3-1.7B",
        "openai/gsm8k",
        None,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model: ./m\ndataset: gsm8k\n",
            "r.yaml:1:8: model.path: './m': no such file or directory\nhint: paths are relative to",
        ),
        ("model: /no/such/dir\ndataset: gsm8k\n", "'/no/such/dir': no such file or directory"),
        ("model: ~/m\ndataset: gsm8k\n", "'~/m': no such file or directory"),
        (
            "model: a/b\ndataset: rows.jsonl\n",
            "r.yaml:2:10: dataset.path: 'rows.jsonl': no such file or directory",
        ),
        (
            "model: a/b\ndataset: {path: data/rows.parquet}\n",
            "'data/rows.parquet': no such file or directory",
        ),
        ("model: {path: a/b, tokenizer: ../t}\ndataset: gsm8k\n", "model.tokenizer: '../t': no such file"),
        ('model: "./a\\0b"\ndataset: gsm8k\n', "a path may not hold a null byte"),
        (f"model: ./{'x' * 5000}\ndataset: gsm8k\n", "File name too long"),
    ],
)
def test_a_path_that_is_not_there_is_refused(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(text + "method: sft\n")
    assert expected in line


def test_the_spec_is_read_back_as_it_was_written(recipes: Recipes) -> None:
    experiment = stages(
        recipes,
        "stages:\n- {method: sft, train: {lora: {r: 4}}}\n- {method: eval, prompt: {markers: think}}\n",
    )
    again = Experiment.model_validate(experiment.dump())
    assert again == experiment
    assert again.dump() == experiment.dump()
