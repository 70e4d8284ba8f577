"""JSON Schema of recipes and cluster profiles, made from the models, for editors.

A recipe's keys may be spread over its top and its stages, so nothing is required of either alone; what only
`latentctl check` can see (paths, links between stages, contradictions) is not in the schema.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from latentctl.spec import methods
from latentctl.spec.base import Spec
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.recipe import STAGES, RecipeTop
from latentctl.spec.stage import StageBase

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/"


def _definitions(models: list[type[Spec]]) -> dict[str, Any]:
    _, whole = models_json_schema(
        [(m, "validation") for m in models], by_alias=True, ref_template=_REF + "{model}"
    )
    return whole["$defs"]


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, with null allowed: in a recipe null takes away what would be inherited."""
    if schema.get("type") == "null" or {"type": "null"} in schema.get("anyOf", []) or not schema:
        return schema
    words = {k: v for k, v in schema.items() if k in ("description", "default")}
    rest = {k: v for k, v in schema.items() if k not in words}
    options = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
    return {**words, "anyOf": [*options, {"type": "null"}]}


def _tidy(schema: Any, *, inherited: bool) -> Any:
    """Without titles; where keys are inherited, without `required` and with null allowed."""
    if isinstance(schema, list):
        return [_tidy(s, inherited=inherited) for s in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "description" and isinstance(value, str):
            result[key] = " ".join(value.split())
            continue
        if inherited and key in ("required", "discriminator"):
            continue
        if inherited and key == "oneOf":  # an inherited block may leave its kind unsaid
            key = "anyOf"
        if key == "properties":
            props = {k: _tidy(v, inherited=inherited) for k, v in value.items()}
            result[key] = {k: _nullable(v) for k, v in props.items()} if inherited else props
        else:
            result[key] = value if key in ("default", "const", "enum") else _tidy(value, inherited=inherited)
    return result


def recipe_schema() -> dict[str, Any]:
    """What a recipe may hold, in the one-stage form and with `stages`."""
    settings = dict(sorted(methods.METHODS.items()))
    definitions = _tidy(_definitions([RecipeTop, StageBase, *settings.values()]), inherited=True)
    top = definitions.pop(RecipeTop.__name__)["properties"]
    stage = definitions.pop(StageBase.__name__)["properties"]
    stage["method"] = {"description": "What the stage does.", "enum": list(settings)}
    for name, model in settings.items():
        stage[name] = _nullable({"$ref": _REF + model.__name__})
    foreign = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": {"properties": {other: {"type": "null"} for other in settings if other != name}},
        }
        for name in settings
    ]
    definitions["Stage"] = {
        "description": "One step of the experiment: a method with its settings.",
        "type": "object",
        "properties": stage,
        "additionalProperties": False,
        "allOf": foreign,
    }
    stages = {
        "description": "The steps, in order. What stands beside this list is each stage's default.",
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [{"enum": list(settings)}, {"$ref": _REF + "Stage"}]},
    }
    return {
        "$schema": DIALECT,
        "title": "latentctl recipe",
        "type": "object",
        "properties": {**top, **{k: v for k, v in stage.items() if k != "name"}, STAGES: stages},
        "additionalProperties": False,
        "anyOf": [{"required": ["method"]}, {"required": [STAGES]}],
        "$defs": definitions,
    }


def cluster_schema() -> dict[str, Any]:
    """What a cluster profile may hold. The name may be left to the file."""
    definitions = _tidy(_definitions([ClusterProfile]), inherited=False)
    body = definitions.pop(ClusterProfile.__name__)
    body["required"] = [key for key in body["required"] if key != "name"]
    return {"$schema": DIALECT, "title": "latentctl cluster profile", **body, "$defs": definitions}
