"""Recipes and small models for the tests of preflight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from jobs.models.plain_export import export
from jobs.models.random_init import random_model
from jobs.models.vocab import train
from latentctl.spec.experiment import Experiment
from latentctl.spec.load import load_mapping
from latentctl.spec.model import InitSpec, TokenizerInit


def rows(path: Path, count: int = 12, *, words: int = 3) -> Path:
    """Sums to add up; a question has about so many words."""
    lines = [
        {"question": " ".join(["add"] * words) + f" {i} and 1", "answer": f"<<{i}+1={i + 1}>>\n#### {i + 1}"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def model(folder: Path, *, max_len: int = 256, **init: Any) -> Path:
    """A whole model directory with a byte tokenizer."""
    tokenizer = train(TokenizerInit(kind="byte"), [], max_len=max_len)
    spec = InitSpec(**{"arch": "qwen3", "hidden": 32, "heads": 2, "max_len": max_len, **init})
    made = random_model(
        spec, vocab_size=len(tokenizer), attention="sdpa", dtype=torch.float32, device=torch.device("cpu")
    )
    export(made, tokenizer, folder, {"prompt": None})
    return folder


def experiment(data: Path, source: Any, **more: Any) -> Experiment:
    recipe = {
        "name": "tiny",
        "model": source if isinstance(source, dict) else str(source),
        "dataset": {"name": "gsm8k", "path": str(data)},
        "stages": [{"method": "sft"}, {"method": "eval"}],
        "train": {"steps": 2, "batch": 4},
    }
    return load_mapping({**recipe, **more}).points[0].experiment
