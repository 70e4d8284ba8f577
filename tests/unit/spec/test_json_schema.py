"""The JSON Schemas: what ships satisfies them, and what `check` refuses for its form they refuse too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from spec_recipes import HEAD, Recipes

from latentctl import shipped
from latentctl.errors import UserError
from latentctl.spec.json_schema import cluster_schema, recipe_schema
from latentctl.spec.load import load_recipe
from latentctl.spec.yaml_marks import parse

RECIPES = sorted(shipped.folder("recipes").glob("*.yaml"))
PROFILES = sorted(shipped.folder("cluster").glob("*.yaml"))


def data(text: str) -> Any:
    node = parse(text, "r.yaml")
    assert node is not None
    return node.plain()


@pytest.fixture(scope="module")
def recipe() -> Draft202012Validator:
    return Draft202012Validator(recipe_schema())


@pytest.fixture(scope="module")
def cluster() -> Draft202012Validator:
    return Draft202012Validator(cluster_schema())


def test_the_schemas_are_schemas() -> None:
    Draft202012Validator.check_schema(recipe_schema())
    Draft202012Validator.check_schema(cluster_schema())
    assert json.loads(json.dumps(recipe_schema())) == recipe_schema()


def test_there_are_recipes_to_check() -> None:
    assert {"shell-game", "smollm2-gsm8k", "gsm8k-eval"} <= {p.stem for p in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_satisfy_it_and_load(recipe: Draft202012Validator, path: Path) -> None:
    assert list(recipe.iter_errors(data(path.read_text(encoding="utf-8")))) == []
    points = load_recipe(path).points
    assert points[0].experiment.name == path.stem


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_shipped_profiles_satisfy_it(cluster: Draft202012Validator, path: Path) -> None:
    assert list(cluster.iter_errors(data(path.read_text(encoding="utf-8")))) == []


GOOD = [
    HEAD + "method: sft\n",
    HEAD + "stages: [sft, eval]\n",
    HEAD + "method: eval\nstages:\n- {name: a}\n- {name: b, dataset: math}\n",
    HEAD + "train: {lora: {r: 4}}\nstages:\n- {method: sft, train: {lora: null, lr: null}, prompt: null}\n",
    HEAD
    + "method: sft\ntrain: {keep: 3, warmup: 0.1}\nresources: {time: 1-12:00:00, mem: 16G}\nseeds: [1, 2]\n",
    HEAD
    + "method: eval\nprompt: {markers: think}\nsweep: {grid: {sampling.top_k: [0]}}\nwandb: {project: x}\n",
    HEAD
    + "method: coconut\ncoconut: {epochs: 6 3^4, eval_each: {dataset: {limit: 3}}}\nlatent: {input: pause}\n",
    HEAD + "latent: {input: soft, stop: 4}\nstages:\n- {method: eval, latent: {input: {top_p: 0.9}}}\n",
    HEAD
    + "method: eval\nlatent: {markers: think, stop: {max_len: 3}, noise: {kind: concrete}, input: soft}\n",
    HEAD + "latent: {input: soft}\nstages:\n- {method: eval, latent: {input: {}, noise: null}}\n",
    "model: {init: {layers: 1}, tokenizer: {kind: bpe}}\nmethod: sft\n"
    "dataset: {name: shell-game, options: {cups: 3}}\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_loads_satisfies_the_schema(recipe: Draft202012Validator, recipes: Recipes, text: str) -> None:
    recipes.load(text)
    assert list(recipe.iter_errors(data(text))) == []


BAD = [
    HEAD,
    "[]",
    HEAD + "method: sftt\n",
    HEAD + "method: sft\nlr: 1e-3\n",
    HEAD + "method: sft\ntrain: {lr: fast}\n",
    HEAD + "method: sft\ntrain: {lr: 0}\n",
    HEAD + "method: sft\ntrain: {steps: 1.5}\n",
    HEAD + "method: sft\ntrain: {lrr: 1}\n",
    HEAD + "method: sft\ntrain: {schedule: cosin}\n",
    HEAD + "method: sft\nresources: {time: soon}\n",
    HEAD + "method: sft\nresources: {mem: lots}\n",
    HEAD + "method: sft\nsft: {target: x}\n",
    HEAD + "method: sft\nseeds: 0\n",
    HEAD + "method: sft\nname: My Run\n",
    HEAD + "stages: []\n",
    HEAD + "stages: [sftt]\n",
    HEAD + "stages: [{method: sft, jobs: auto}]\n",
    HEAD + "stages: [{method: sft, eval: {}}]\n",
    HEAD + "stages: [{method: sft, name: A B}]\n",
    "model: 3\ndataset: gsm8k\nmethod: sft\n",
    HEAD + "method: eval\nlatent: {input: sotf}\n",
    HEAD + "method: eval\nlatent: {input: {kind: sotf}}\n",
    HEAD + "method: eval\nlatent: {input: {kind: soft, window: 3}}\n",
    HEAD + "method: eval\nlatent: {stop: -1}\n",
    HEAD + "method: coconut\ncoconut: {epochs: [0]}\n",
    HEAD + "method: coconut\ncoconut: {eval_each: 3}\n",
    "model: {init: {arch: gpt3}}\ndataset: gsm8k\nmethod: sft\n",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_refused_for_its_form_breaks_the_schema(
    recipe: Draft202012Validator, recipes: Recipes, text: str
) -> None:
    assert list(recipe.iter_errors(data(text)))
    with pytest.raises(UserError):
        recipes.load(text)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "executor: lsf",
        "{executor: slurm, partiton: x}",
        "{executor: slurm, time: soon}",
        "{executor: slurm, container: {}}",
    ],
)
def test_bad_profiles_break_the_schema(cluster: Draft202012Validator, text: str) -> None:
    assert list(cluster.iter_errors(data(text)))


def test_a_profile_may_leave_its_name_to_the_file(cluster: Draft202012Validator) -> None:
    assert list(cluster.iter_errors({"executor": "local"})) == []


def test_every_key_of_a_block_is_described_for_editors() -> None:
    top = recipe_schema()["properties"]
    for key in ("name", "seeds", "plugins", "validation", "from", "stages"):
        assert top[key].get("description"), key
