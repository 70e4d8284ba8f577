"""Methods that come from a file of the recipe or from an installed package."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.errors import UserError
from latentctl.spec import methods

PLUGIN = '''\
from pydantic import Field

from latentctl.spec.base import Spec
from latentctl.spec.methods import MethodSettings, register


class Inner(Spec):
    depth: int = Field(default=1, ge=1)


@register
class DistilSettings(MethodSettings):
    """Learn from a teacher."""

    method = "distil"
    implementation = "mine:Distil"
    output = "checkpoint"
    trains = True
    metrics = ("loss",)

    teacher: str
    heat: float = Field(default=1.0, gt=0)
    inner: Inner = Field(default_factory=Inner)
    parts: list[Inner] = Field(default_factory=list)
'''


@pytest.fixture
def plugin(here: Path) -> Path:
    path = here / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_a_file_brings_a_method(recipes: Recipes, plugin: Path) -> None:
    text = HEAD + "plugins: [mine.py]\nstages:\n- {method: distil, distil: {teacher: big}}\n- eval\n"
    experiment = recipes.point(text, "stages.distil.distil.heat=2.0").experiment
    assert experiment.plugins == [str(plugin)]
    stage = experiment.stages[0]
    assert stage.settings.model_dump() == {"teacher": "big", "heat": 2.0, "inner": {"depth": 1}, "parts": []}
    assert experiment.stages[1].from_ == "distil"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("{}", "stages.distil.distil.teacher: missing"),
        ("{teacher: a, heta: 1}", "distil.heta: unknown key\nhint: did you mean heat?"),
        ("{teacher: a, heat: 0}", "0: expected a number above 0"),
        ("{teacher: a, inner: {depht: 1}}", "distil.inner.depht: unknown key\nhint: did you mean depth?"),
        ("{teacher: a, parts: [{depth: 0}]}", "stages.distil.distil.parts.0.depth: 0: "),
        ("{teacher: a, parts: [{deep: 1}]}", "stages.distil.distil.parts.0.deep: unknown key"),
    ],
)
def test_its_settings_are_checked_like_ours(
    recipes: Recipes, plugin: Path, block: str, expected: str
) -> None:
    text = HEAD + f"plugins: [mine.py]\nstages:\n- {{method: distil, distil: {block}}}\n"
    (line,) = recipes.lines(text)
    assert expected in line


def test_a_setting_that_a_method_needs_is_missed_without_its_block(recipes: Recipes, plugin: Path) -> None:
    (line,) = recipes.lines(HEAD + "plugins: [mine.py]\nmethod: distil\n")
    assert line == "r.yaml:1:1: distil.teacher: missing"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "1 / 0\n",
            "{file}:1: plugins.0: the plugin fails: ZeroDivisionError: division by zero\n"
            "hint: the recipe names it at r.yaml:4:11",
        ),
        ("\n\nimport nowhere_to_be_found\n", "{file}:3: plugins.0: the plugin fails: ModuleNotFoundError"),
        ("def f(:\n", "{file}:1: plugins.0: syntax error: invalid syntax"),
        ("raise SystemExit(3)\n", "{file}:1: plugins.0: the plugin fails: SystemExit: 3"),
        ("\0", "{file}"),
        (
            "from latentctl.spec.methods import *\n\n@register\nclass A(MethodSettings): pass\n",
            "{file}:3: plugins.0: the plugin fails: AttributeError",
        ),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_line(
    recipes: Recipes, here: Path, body: str, expected: str
) -> None:
    (here / "bad.py").write_text(body)
    (line,) = recipes.lines(HEAD + "method: sft\nplugins: [bad.py]\n")
    assert expected.format(file=here / "bad.py") in line


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("nope.py", "r.yaml:4:11: plugins.0: 'nope.py': no such file or directory"),
        ("r.yaml", "'r.yaml': a plugin is a Python file (.py)"),
        ("d.py", "'d.py': a plugin is a Python file (.py)"),
    ],
)
def test_a_plugin_that_is_not_there(recipes: Recipes, here: Path, said: str, expected: str) -> None:
    (here / "d.py").mkdir()
    (line,) = recipes.lines(HEAD + f"method: sft\nplugins: [{said}]\n")
    assert expected in line


def test_a_plugin_may_be_edited_and_read_again(recipes: Recipes, plugin: Path) -> None:
    text = HEAD + "plugins: [mine.py]\nmethod: distil\ndistil: {teacher: a}\n"
    recipes.point(text)
    plugin.write_text(PLUGIN.replace("heat:", "temperature:"))
    assert "temperature" in recipes.point(text).experiment.dump()["stages"][0]["distil"]


class _Point:
    name, value = "remote", "somewhere:Remote"

    def __init__(self, settings: object) -> None:
        self.settings = settings

    def load(self) -> object:
        if isinstance(self.settings, Exception):
            raise self.settings
        return self.settings


def test_an_installed_package_brings_a_method_when_it_is_named(
    recipes: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Remote(methods.MethodSettings):
        method = "remote"
        implementation = "somewhere:Remote"
        output = "scores"

    monkeypatch.setattr(metadata, "entry_points", lambda group: [_Point(Remote)])
    recipes.point(HEAD + "method: sft\n")
    assert "remote" not in methods.METHODS
    assert recipes.point(HEAD + "method: remote\n").experiment.stages[0].method == "remote"


def test_an_installed_package_that_fails_is_named(recipes: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: [_Point(ImportError("no torch"))])
    with pytest.raises(UserError) as caught:
        recipes.load(HEAD + "method: remote\n")
    words = "the method 'remote' of an installed package fails: ImportError: no torch"
    assert str(caught.value) == f"{words}\nhint: it is somewhere:Remote"
