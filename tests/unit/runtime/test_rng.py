"""Generators go on exactly where they were saved."""

from __future__ import annotations

import json
import random

import pytest

from jobs.runtime import rng


def test_python_alone(tmp_path):
    random.seed(5)
    random.gauss(0, 1)
    rng.save(tmp_path, 3)
    expected = [random.random(), random.gauss(0, 1)]
    random.seed(99)
    rng.load(tmp_path, 3)
    assert [random.random(), random.gauss(0, 1)] == expected


def test_a_rank_without_its_own_state_is_an_error(tmp_path):
    rng.save(tmp_path, 0)
    with pytest.raises(FileNotFoundError, match="rng-00001"):
        rng.load(tmp_path, 1)


def test_another_version_is_an_error():
    with pytest.raises(ValueError, match="version 7"):
        rng.restore({**rng.capture(), "version": 7})


@pytest.mark.heavy
def test_numpy_and_torch_go_on_exactly(tmp_path):
    import numpy
    import torch

    def draw():
        return [
            random.random(),
            numpy.random.standard_normal(5).tolist(),
            torch.randn(5).tolist(),
            torch.nn.functional.dropout(torch.ones(50)).tolist(),
        ]

    rng.seed_all(7)
    draw()
    numpy.random.standard_normal(1)  # leaves half of a pair behind, which the state must hold
    rng.save(tmp_path, 0)
    expected = [draw(), draw()]
    rng.seed_all(8)
    assert draw() != expected[0]
    rng.load(tmp_path, 0)
    assert [draw(), draw()] == expected
    assert json.loads((tmp_path / "rng-00000.json").read_text())["version"] == rng.VERSION
