"""What `--json` prints, held against its schema: tests of commands read it through `checked`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from latentctl.cli import output

SCHEMAS = Path(output.__file__).with_name("json")


@cache
def validator(kind: str) -> Draft202012Validator:
    path = SCHEMAS / f"{kind}.json"
    assert path.is_file(), f"no schema of {kind!r} in {SCHEMAS}"
    return Draft202012Validator(json.loads(path.read_text()))


def checked(text: str) -> Any:
    """The envelope, whole and as its schema says."""
    body = json.loads(text)
    validator("envelope").validate(body)
    if body["ok"]:
        validator(body["kind"]).validate(body["data"])
    return body
