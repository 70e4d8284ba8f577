"""All rewards on real outputs of real models."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import pytest
from reward_views import attempt, latent

from jobs.grade.pool import Pool
from jobs.grade.protocol import Answered
from jobs.grade.rewards import Attempt, Rewards
from jobs.grade.rewards.formats import is_mathematics
from latentctl.spec.rewards import BUILT_IN, RewardsSpec

RANGES = {"latent_len": (-1.0, 1.0)}
ZERO_OR_ONE = ("correctness", "answer_format", "strict_format")


def lines(path: Path) -> list[dict[str, object]]:
    with gzip.open(path) as file:
        return [json.loads(line) for line in file.read().decode().split("\n") if line]


def countdowns(folder: Path, model: str) -> list[Attempt]:
    found = []
    for row in lines(folder / f"countdown_{model}_eval_samples.jsonl.gz")[:100]:
        prompt, text = str(row["prompt"]), str(row["raw_generation"])
        nums = [int(n) for n in re.search(r"\[(.*?)\]", prompt)[1].split(",")]  # type: ignore[index]
        target = int(re.search(r"equals (-?\d+)", prompt)[1])  # type: ignore[index]
        found.append(
            attempt(text, "", meta={"nums": nums, "target": target}, prompt=prompt, latents=len(text) % 120)
        )
    return found


def judged(attempts: list[Attempt], grader: str, form: str) -> None:
    spec = RewardsSpec.model_validate(dict.fromkeys(BUILT_IN, 1.0))
    with Rewards(
        spec,
        grader,
        form=form,
        latent=latent(start="model"),
        max_len=512,
        model="Qwen3",
        timeout=10.0,
        workers=1,
    ) as rewards:
        found = rewards.judge(attempts)
    with Pool(grader, workers=1) as pool:
        alone = list(pool.grade([Answered(a.text, a.gold, a.meta, a.markers) for a in attempts]))
    for one, verdict in zip(found, alone, strict=True):
        assert one.verdict == verdict
        assert one.values["correctness"] == float(verdict.correct)
        assert one.total == pytest.approx(math.fsum(v for v in one.values.values() if v is not None))
        for name, value in one.values.items():
            low, high = RANGES.get(name, (0.0, 1.0))
            assert value is not None
            assert low <= value <= high
            assert name not in ZERO_OR_ONE or value in (0, 1)
        if grader == "countdown" and verdict.correct:
            assert one.values["answer_format"] == 1


@pytest.mark.parametrize("form", ["plain", "xml"])
def test_countdown(model_outputs: Path, form: str) -> None:
    attempts = countdowns(model_outputs, "grpo") + countdowns(model_outputs, "base_8b")
    assert len(attempts) == 200
    judged(attempts, "countdown", form)


def test_real_reasoning_put_into_the_form(model_outputs: Path) -> None:
    """What stands before the answer block becomes the reasoning: its words are counted, the verdict stays."""
    bare = [a for a in countdowns(model_outputs, "grpo") if a.text.count("<answer>") == 1]
    bare = [a for a in bare if a.text.rstrip().endswith("</answer>")]
    assert len(bare) > 40
    before = [a.text.partition("<answer>")[0] for a in bare]
    whole = [
        a._replace(text=a.text.replace(b, f"<think>{b}</think>", 1))
        for a, b in zip(bare, before, strict=True)
    ]
    weights = {"loose_format": 1, "strict_format": 1, "response_think": 1, "answer_len": 1}
    with Rewards(
        RewardsSpec.model_validate(weights),
        "countdown",
        form="xml",
        latent=None,
        max_len=512,
        model=None,
        timeout=10,
    ) as rewards:
        found = rewards.judge([a._replace(latents=0) for a in whole])
        flat = rewards.judge([a._replace(latents=0) for a in bare])
    for one, plain, words in zip(found, flat, before, strict=True):
        assert one.verdict == plain.verdict
        assert one.values == {
            "correctness": float(plain.verdict.correct), "loose_format": 1, "strict_format": 1,
            "response_think": min(1, len(words.split()) / 500), "answer_len": 1,
        }  # fmt: skip
        assert (plain.values["strict_format"], plain.values["response_think"]) == (0, 0)


def test_math(model_outputs: Path) -> None:
    pytest.importorskip("math_verify")
    rows = lines(model_outputs / "qwen_math_cot_100.jsonl.gz")
    attempts = [attempt(str(code), str(row["gt"])) for row in rows for code in list(row["code"])[:2]]  # type: ignore[call-overload]
    assert len(attempts) == 200
    judged(attempts, "math", "plain")


def test_golds_of_a_benchmark_are_mathematics(real_data: Path) -> None:
    """The form that answers are asked for is one that right answers have."""
    golds = [p for p in sorted((real_data / "math").rglob("*.jsonl*")) if "500" in p.name]
    if not golds:
        pytest.skip(f"MATH-500 is not here: {real_data / 'math'}")
    answers = [str(row["answer"]) for path in golds for row in _rows(path) if "answer" in row]
    assert len(answers) >= 500
    assert sum(map(is_mathematics, answers)) / len(answers) > 0.99


def _rows(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".gz":
        return lines(path)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
