"""Answers to `--json` have schemas; those that no other test asks for are asked for here."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from cli_world import World, until
from jsonschema import Draft202012Validator, ValidationError

from latentctl.cli import output
from latentctl.cli.schema import answers
from tests.answers import SCHEMAS, checked, validator

CLI = Path(output.__file__).parent


def printed() -> set[str]:
    """Every kind that a command prints, read from the source."""
    calls = [
        node
        for path in CLI.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "output.print_json"
    ]
    return {str(ast.literal_eval(call.args[0])) for call in calls}


def test_every_kind_has_a_schema_and_no_schema_is_left_over() -> None:
    assert printed() | {"envelope"} == set(answers())


@pytest.mark.parametrize("kind", answers())
def test_schemas_are_of_this_version(kind: str) -> None:
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"latentctl/json/{output.JSON_VERSION}/{kind}"


def test_a_key_that_is_gone_or_new_is_noticed(world: World) -> None:
    data = world("status", "--json").json["data"]
    for changed in ({**data, "more": 1}, {k: v for k, v in data.items() if k != "runs"}):
        with pytest.raises(ValidationError):
            validator("status").validate(changed)


def test_answers_about_a_run(world: World) -> None:
    done = world("submit", "recipe.yaml", "--wait", "--json").json
    assert done["kind"] == "result"
    (run,) = done["data"]["runs"]
    assert run["state"] == "succeeded"
    logs = world("logs", "@last", "--json").json
    assert (logs["kind"], logs["data"]["run"]) == ("logs", run["run"])
    assert world("show", "@last", "--json").json["kind"] == "run"
    assert world("explain", "@last", "--json").json["data"]["jobs"][0]["outlook"] is None


def test_answers_about_a_failed_run(world: World) -> None:
    world.behave("fail")
    done = world("submit", "recipe.yaml", "--wait", "--json", code=1).json
    assert done["data"]["runs"][0]["jobs"][0]["failure"]["class"] == "data"
    assert world("explain", "@last", "--json").json["data"]["state"] == "failed"


def test_answers_about_a_sweep_and_a_cancelled_run(world: World) -> None:
    world("sweep", "recipe.yaml", "--grid", "sft.packing=[true,false]", "--wait")
    (name,) = [p.name for p in (world.runs / "sweeps").iterdir()]
    sweep = world("show", name, "--json").json
    assert (sweep["kind"], len(sweep["data"]["points"])) == ("sweep", 2)
    world.behave("slow")
    world("submit", "recipe.yaml", "--rerun", "--set", "seed=7")
    until(lambda: world("status", "@last", "--json").json["data"]["runs"][0]["state"] == "running")
    cancelled = world("cancel", "@last", "--json").json
    assert [len(r["cancelled"]) for r in cancelled["data"]["runs"]] == [1]


def test_answers_about_a_log(world: World) -> None:
    (world.root / "log").write_text(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    )
    assert world("classify", "log", "--json").json["data"]["class"] == "out_of_memory"
    (world.root / "log").write_text("all is well\n")
    assert world("classify", "log", "--json", code=1).json["data"] is None


def test_schemas_are_printed(world: World) -> None:
    assert json.loads(world("schema", "status").out)["$id"] == "latentctl/json/1/status"
    done = world("schema", "nosuch", "--json", code=2)
    assert not checked(done.out)["ok"]
    assert "envelope" in done.err
