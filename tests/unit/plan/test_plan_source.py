"""What `from` means."""

from __future__ import annotations

import pytest

from latentctl.spec.source import Source, parse_source


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("model", Source("model")),
        ("sft", Source("stage", stage="sft")),
        ("sft@best", Source("stage", stage="sft", which="best")),
        ("sft@100", Source("stage", stage="sft", which="100")),
        ("coconut.3@best", Source("stage", stage="coconut.3", which="best")),
        ("run:a-12345678/coconut.3@best", Source("run", run="a-12345678", stage="coconut.3", which="best")),
        ("run:a-12345678", Source("run", run="a-12345678")),
        ("run:a-12345678/sft", Source("run", run="a-12345678", stage="sft")),
        ("run:a-12345678/sft@best", Source("run", run="a-12345678", stage="sft", which="best")),
        ("./models/sft", Source("path", path="./models/sft")),
        ("models@home/x", Source("path", path="models@home/x")),
        ("other", Source("path", path="other")),
    ],
)
def test_every_form_is_read(text: str, meaning: Source) -> None:
    assert parse_source(text, ["sft", "score", "coconut.3"]) == meaning
