"""Names of datasets are known to the control plane, which never imports the room that holds them."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from spec_recipes import HEAD, Recipes

from jobs.data import registry
from latentctl.spec.dataset import NAMES


def test_the_names_are_those_of_the_data_room() -> None:
    table = registry.table()
    assert set(NAMES) <= set(table)
    builtin = {name for name, entry in table.items() if not isinstance(entry, registry.Own)}
    assert builtin == set(NAMES)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("dataset: gms8k", "r.yaml:2:10: dataset: 'gms8k' is not a known dataset\nhint: did you mean gsm8k?"),
        ("dataset: {name: shellgame}", "r.yaml:2:17: dataset.name: 'shellgame' is not a known dataset"),
        ("dataset: zzzz", "hint: known: aime, amc,"),
    ],
)
def test_a_misspelt_name_is_found_before_a_job_waits(recipes: Recipes, said: str, expected: str) -> None:
    (line,) = recipes.lines(f"model: a/b\n{said}\nmethod: sft\n")
    assert expected in line


def test_a_misspelt_validation_set_too(recipes: Recipes) -> None:
    (line,) = recipes.lines(HEAD + "method: sft\ntrain: {eval_every: 3}\nvalidation: maths\n")
    assert line == "r.yaml:5:13: validation: 'maths' is not a known dataset\nhint: did you mean math?"


def test_a_plugin_or_an_installed_package_may_bring_any(
    recipes: Recipes, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine.py").write_text("")
    text = "model: a/b\ndataset: mine\nmethod: sft\n"
    recipes.point(text + "plugins: [mine.py]\n")
    monkeypatch.setattr(metadata, "entry_points", lambda group: ["something"])
    recipes.point(text)
