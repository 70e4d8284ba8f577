"""Real outputs of real models, with their own authors' verdicts."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.grade.countdown import Countdown
from jobs.grade.pool import Pool
from jobs.grade.protocol import Answered
from jobs.grade.simple import Exact, Numeric


def rows(path: Path) -> list[Any]:
    with gzip.open(path) as file:
        text = file.read().decode()
    return json.loads(text)["generations"] if path.name.startswith("d1") else [
        json.loads(line) for line in text.split("\n") if line
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "theirs", "ours"),
    [("base_0_6b", 0, 31), ("base_8b", 123, 222), ("grpo", 218, 218), ("sft_full", 176, 178)],
)
def test_countdown_agrees_with_its_authors(model_outputs: Path, model: str, theirs: int, ours: int) -> None:
    """All that they accept is accepted. What is accepted besides they could not read: Unicode signs and
    "a + b = c"."""
    agree = Counter()
    for row in rows(model_outputs / f"countdown_{model}_eval_samples.jsonl.gz"):
        nums = [int(n) for n in re.search(r"\[(.*?)\]", row["prompt"])[1].split(",")]  # type: ignore[index]
        target = int(re.search(r"equals (-?\d+)", row["prompt"])[1])  # type: ignore[index]
        verdict = Countdown().grade(Answered(row["raw_generation"], "", {"nums": nums, "target": target}))
        agree[row["correct"], verdict.correct] += 1
        if row["correct"] != verdict.correct:
            assert row["error"] == "invalid_expression"
            assert re.search(r"[−×÷=]", row["extracted_expr"])
    assert agree[True, False] == 0
    assert (agree[True, True], agree[True, True] + agree[False, True]) == (theirs, ours)


def test_icot_answers_agree_with_the_log(model_outputs: Path) -> None:
    """1,315 lines of a GPT-2's log, graded by Coconut's rule and as numbers."""
    with gzip.open(model_outputs / "icot_si_gpt2_gsm8k_log.generate.gz") as file:
        pairs = re.findall(r"Target:.*?####(.*)\nPredicted:(.*)\n", file.read().decode())
    assert len(pairs) > 1300
    exact = [Exact().grade(Answered(said, gold.strip())).correct for gold, said in pairs]
    numeric = [Numeric().grade(Answered(said, gold.strip())).correct for gold, said in pairs]
    assert exact == [gold.strip() == said.rpartition("####")[2].strip() for gold, said in pairs]
    assert sum(a != b for a, b in zip(exact, numeric, strict=True)) <= 1
    assert sum(exact) / len(exact) == pytest.approx(0.30, abs=0.005)


def test_math_agrees_with_the_scores_of_qwen(model_outputs: Path) -> None:
    pytest.importorskip("math_verify")
    found = [(c, r["gt"], s) for r in rows(model_outputs / "qwen_math_cot_100.jsonl.gz")
             for c, s in zip(r["code"], r["score"], strict=True)]  # fmt: skip
    with Pool("math", timeout=10, workers=2) as pool:
        verdicts = list(pool.grade([Answered(text, gold) for text, gold, _ in found]))
    differ = [
        (gold, score, v) for (_, gold, score), v in zip(found, verdicts, strict=True) if v.correct != score
    ]
    assert len(found) == 800
    assert len(differ) <= 2, differ
    assert not any(v.status == "error" for v in verdicts)


def test_gsm8k_answers_of_a_diffusion_model(model_outputs: Path) -> None:
    """Boxed, tagged, cut-off and malformed answers with special tokens behind them: `numeric` and `math`
    agree."""
    pytest.importorskip("math_verify")
    items = [
        Answered(r["generations"], str(r["ground_truth"]))
        for r in rows(model_outputs / "d1_gsm8k_instruct_256_128_0.json.gz")
    ]
    numeric = [Numeric().grade(i).correct for i in items]
    with Pool("math", timeout=10, workers=2) as pool:
        math = [v.correct for v in pool.grade(items)]
    assert sum(numeric) == 164
    assert sum(m and not n for m, n in zip(math, numeric, strict=True)) == 0
    assert sum(n and not m for m, n in zip(math, numeric, strict=True)) <= 6  # words within the answer
