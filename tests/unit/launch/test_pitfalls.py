"""Tables that name tests name tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("page", ["latentctl/launch/README.md", "tests/faults/README.md"])
def test_every_test_that_a_table_names_exists(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / page).read_text()))
    assert len(named) > 15
    assert named <= TESTS, sorted(named - TESTS)


def test_all_pitfalls_and_all_faults_have_a_row() -> None:
    for page, count in (("latentctl/launch/README.md", 20), ("tests/faults/README.md", 21)):
        numbers = re.findall(r"^\| (\d+) \|", (ROOT / page).read_text(), re.MULTILINE)
        assert [int(n) for n in numbers] == list(range(1, count + 1))
