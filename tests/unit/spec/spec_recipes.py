"""What the tests of recipes share."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from latentctl.errors import Problem, UserError
from latentctl.spec.load import LoadedRecipe, load_recipe
from latentctl.spec.resolve import Point

HEAD = """\
model: some/model
dataset: gsm8k
"""
"""What every stage needs, in two lines."""


class Recipes:
    """Writes `r.yaml` and loads it."""

    def write(self, text: str | bytes, name: str = "r.yaml") -> Path:
        data = text if isinstance(text, bytes) else dedent(text).encode()
        Path(name).write_bytes(data)
        return Path(name)

    def load(self, text: str | bytes, *sets: str, grid: tuple[str, ...] = ()) -> LoadedRecipe:
        return load_recipe(self.write(text), list(sets), grid=grid)

    def point(self, text: str | bytes, *sets: str) -> Point:
        (point,) = self.load(text, *sets).points
        return point

    def problems(self, text: str | bytes, *sets: str, **more: Any) -> list[Problem]:
        with pytest.raises(UserError) as caught:
            self.load(text, *sets, **more)
        assert caught.value.code == 2
        return caught.value.problems

    def lines(self, text: str | bytes, *sets: str, **more: Any) -> list[str]:
        """Each problem as it is printed."""
        return [p.text() for p in self.problems(text, *sets, **more)]
