"""`latentctl check`, `schema` and `recipes`: what they print, where, and how they exit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from spec_recipes import HEAD, Recipes

from latentctl import shipped
from latentctl.cli import main as cli
from tests.answers import checked


class Run:
    """One call of the CLI in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(list(args))
        out, err = self.capsys.readouterr()
        return int(caught.value.code or 0), out, err

    def json(self, *args: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = self(*args, "--json")
        return code, checked(out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


GOOD = HEAD + "stages: [sft, eval]\n"


def test_check_says_ok_and_what_comes_next(run: Run, recipes: Recipes) -> None:
    recipes.write(GOOD)
    code, out, err = run("check", "r.yaml")
    assert (code, out) == (0, "r.yaml: ok (stages sft, eval)\n")
    assert "latentctl submit r.yaml --dry-run" in err


def test_check_tells_all_problems_of_all_recipes_on_stderr(run: Run, recipes: Recipes) -> None:
    recipes.write(HEAD + "method: sft\nlr: 1\ntrain: {lr: 0}\n", "a.yaml")
    recipes.write("", "b.yaml")
    recipes.write(GOOD, "c.yaml")
    code, out, err = run("check", "a.yaml", "b.yaml", "c.yaml", "nope.yaml")
    assert (code, out) == (2, "")
    assert [line.split(": ")[1] for line in err.splitlines() if line.startswith("error:")] == [
        "a.yaml:4:1", "a.yaml:5:13", "b.yaml", "nope.yaml"
    ]  # fmt: skip
    assert "c.yaml: ok" in err
    assert "Traceback" not in err


def test_check_of_a_missing_file_is_not_found(run: Run) -> None:
    assert run("check", "nope.yaml")[0] == 3


def test_check_as_json(run: Run, recipes: Recipes) -> None:
    recipes.write(GOOD)
    code, body = run.json("check", "r.yaml", "--set", "seeds=2")
    assert (code, body["ok"], body["kind"]) == (0, True, "check")
    (found,) = body["data"]
    assert (found["name"], found["points"]) == ("r", 2)
    assert found["stages"][1] == {"name": "eval", "method": "eval", "from": "sft"}


def test_check_fails_as_json_too(run: Run, recipes: Recipes) -> None:
    recipes.write(HEAD + "method: sft\nlr: 1\n")
    code, body = run.json("check", "r.yaml")
    assert (code, body["ok"]) == (2, False)
    assert body["error"]["kind"] == "invalid_recipe"
    assert body["error"]["problems"] == [
        {"where": "r.yaml:4:1", "key": "lr", "message": "unknown key", "hint": "lr belongs under train"}
    ]


def test_check_show_prints_every_value_with_its_origin_in_80_columns(run: Run, recipes: Recipes) -> None:
    recipes.write(GOOD + "train: {lr: 1e-3}\n")
    code, out, _ = run("check", "r.yaml", "--show", "--set", "stages.sft.train.batch=16")
    lines = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    (lr,) = [line for line in lines if line.strip().startswith("lr:")][:1]
    assert lr.split() == ["lr:", "0.001", "r.yaml:4:13"]
    assert any(line.split() == ["batch:", "16", "--set", "stages.sft.train.batch"] for line in lines)


def test_check_show_as_json_carries_spec_and_provenance(run: Run, recipes: Recipes) -> None:
    recipes.write(GOOD)
    _, body = run.json("check", "r.yaml", "--show")
    (point,) = body["data"][0]["experiments"]
    assert point["experiment"]["stages"][0]["from"] == "model"
    assert point["provenance"]["stages.sft.model.path"] == "r.yaml:1:8"


def test_check_show_tells_what_a_sweep_varies(run: Run, recipes: Recipes) -> None:
    recipes.write(GOOD + "seeds: 2\nsweep: {grid: {train.lr: [1e-3, 1e-4]}}\n")
    _, out, _ = run("check", "r.yaml", "--show")
    assert "stages sft, eval, 4 points" in out
    assert "train.lr=0.0001 seed=1" in out


@pytest.mark.parametrize("kind", ["recipe", "cluster"])
def test_schema_prints_a_schema(run: Run, kind: str) -> None:
    code, out, _ = run("schema", kind)
    assert code == 0
    assert json.loads(out)["title"].startswith("latentctl")
    assert run.json("schema", kind)[1]["data"] == json.loads(out)


def test_schema_of_something_else_is_a_usage_error(run: Run) -> None:
    assert run("schema", "job")[0] == 2


def test_recipes_are_listed(run: Run) -> None:
    code, out, _ = run("recipes", "list")
    assert code == 0
    assert all(p.stem in out for p in shipped.folder("recipes").glob("*.yaml"))
    assert max(map(len, out.splitlines())) <= 80
    _, body = run.json("recipes", "list")
    assert all(row["summary"] and Path(row["path"]).is_file() for row in body["data"])


def test_a_recipe_is_copied_and_checks(run: Run, here: Path) -> None:
    code, out, err = run("recipes", "copy", "shell-game")
    assert (code, out) == (0, "shell-game.yaml\n")
    assert "latentctl submit shell-game.yaml --wait" in err
    assert (here / "shell-game.yaml").read_bytes() == (
        shipped.folder("recipes") / "shell-game.yaml"
    ).read_bytes()
    assert run("check", "shell-game.yaml")[0] == 0


def test_a_recipe_is_copied_to_a_folder_or_a_file(run: Run, here: Path) -> None:
    (here / "d").mkdir()
    assert run("recipes", "copy", "shell-game", "d")[1] == "d/shell-game.yaml\n"
    assert run("recipes", "copy", "shell-game.yaml", "mine.yaml")[1] == "mine.yaml\n"
    code, body = run.json("recipes", "copy", "gsm8k-eval", "d")
    assert (code, body["data"]) == (0, {"name": "gsm8k-eval", "path": "d/gsm8k-eval.yaml"})


def test_a_copy_replaces_nothing_unasked(run: Run, here: Path) -> None:
    (here / "shell-game.yaml").write_text("mine")
    code, _, err = run("recipes", "copy", "shell-game")
    assert (code, err) == (2, "error: shell-game.yaml: exists already\nhint: --force replaces it\n")
    assert (here / "shell-game.yaml").read_text() == "mine"
    assert run("recipes", "copy", "shell-game", "--force")[0] == 0
    assert (here / "shell-game.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["shell-gme"], 3, "no shipped recipe 'shell-gme'\nhint: did you mean shell-game?"),
        (["zzzz"], 3, "hint: known: aime-eval,"),
        (["../recipes/shell-game"], 3, "no shipped recipe"),
        (["shell-game", "no/where/"], 2, "no/where: no such directory"),
        (["shell-game", "no/where/x.yaml"], 2, "no/where: no such directory"),
    ],
)
def test_a_copy_that_cannot_be_made(run: Run, here: Path, args: list[str], code: int, words: str) -> None:
    found, _, err = run("recipes", "copy", *args)
    assert found == code
    assert words in err
    assert list(here.iterdir()) == []


def test_check_stays_light(recipes: Recipes) -> None:
    """A login node has no torch: no heavy package is imported, nor anything under jobs."""
    recipes.write(GOOD)
    body = """
import sys
from latentctl.spec.load import load_recipe
load_recipe("r.yaml")
heavy = {"torch", "transformers", "datasets", "deepspeed", "numpy", "jobs", "rich", "typer", "submitit"}
print(sorted(heavy & {m.split(".")[0] for m in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
