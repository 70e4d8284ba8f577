"""Soft thinking through the eval method on the real engine: chat prompts, stop rules, budgets, sampling."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_stage import context, experiment

from jobs.data.render import SYSTEM_PROMPTS
from jobs.grade import samples
from jobs.methods import asking, sharing
from jobs.methods.evaluate import Evaluate

pytestmark = pytest.mark.heavy
MODEL: dict[str, Any] = {
    "init": {"arch": "llama", "hidden": 32, "layers": 1, "heads": 2, "max_len": 512},
    "tokenizer": {"kind": "byte"},
}
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"
SOFT: dict[str, Any] = {"input": {"kind": "soft", "top_p": 0.95}, "start": "prompt"}
TEXT_MARKERS = {"start": "<<", "end": ">>"}


@pytest.fixture(autouse=True)
def chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The byte tokenizer with a chat template and `think` as tokens; `<<` and `>>` are two bytes each."""
    real = asking.load_tokenizer

    def load(*args: Any) -> Any:
        tokenizer = real(*args)
        tokenizer.chat_template = TEMPLATE
        tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
        return tokenizer

    monkeypatch.setattr(asking, "load_tokenizer", load)


def evaluated(
    root: Path,
    latent: dict[str, Any] | None,
    *,
    system: str = "none",
    markers: Any = "think",
    **sampling: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Result, rows, traces."""
    exp = experiment(
        model=MODEL,
        dataset={"name": "shell-game", "split": "test", "limit": 4, "options": {"swaps": 2}},
        prompt={"template": "chat", "system": system, "form": "plain", "markers": markers},
        latent=latent,
        sampling={"max_new_tokens": 24, **sampling},
        eval={"max_batch": 3},
    )
    ctx = context(root, exp)
    result = Evaluate(ctx).run()
    file = ctx.paths.traces
    traces = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return result, samples.read(ctx.paths.samples), traces


@pytest.mark.parametrize("markers", ["think", TEXT_MARKERS])
@pytest.mark.parametrize(
    ("stop", "cause", "latents"),
    [
        # three distributions in a row: at the start marker and at two latent steps
        ({"entropy": {"threshold": 100, "patience": 3}, "max_len": 9}, "entropy", 2),
        ({"entropy": {"threshold": 1e-6, "patience": 1}, "max_len": 4}, "max_len", 4),
        ({"end_marker": True, "max_len": 5}, "max_len", 5),
        (2, "fixed", 2),
    ],
)
def test_a_span_ends_by_its_rule_and_text_follows(
    tmp_path: Path, markers: Any, stop: Any, cause: str, latents: int
) -> None:
    result, rows, traces = evaluated(tmp_path, {**SOFT, "markers": markers, "stop": stop}, markers=markers)
    assert result["latent_causes"] == {cause: 4}
    end = "</think>" if markers == "think" else ">>"
    end_tokens = 1 if markers == "think" else 2
    for row in rows:
        assert row["latents"] == latents
        assert row["text"].startswith(end), "plain: the end marker closes the reasoning of the form"
        assert row["forced"] == 0
        assert row["cause"] == "length", "a random model goes on"
        assert latents + end_tokens + row["tokens"] == 24
    for trace in traces:
        assert len(trace["steps"]) == latents
        for step in trace["steps"]:
            assert 0 < step["mass"] < 0.95, "a random model spreads further than 30 tokens"
            assert sum(w for _, w in step["tokens"]) <= 1 + 1e-5


@pytest.mark.parametrize("max_new_tokens", [1, 7, 24])
def test_latent_steps_and_text_together_never_exceed_the_budget(tmp_path: Path, max_new_tokens: int) -> None:
    stop = {"end_marker": True, "max_len": 400}
    result, rows, _ = evaluated(
        tmp_path, {**SOFT, "markers": "think", "stop": stop}, max_new_tokens=max_new_tokens
    )
    assert result["latent_causes"] == {"budget": 4}
    assert result["stop_causes"]["length"] == 4
    assert all(row["latents"] + row["tokens"] <= max_new_tokens for row in rows)
    assert any("max_new_tokens" in warning for warning in result["warnings"])


def test_sampling_falls_on_the_text_alone(tmp_path: Path) -> None:
    latent = {**SOFT, "markers": "think", "stop": 3}
    greedy = evaluated(tmp_path / "greedy", latent)
    one = evaluated(tmp_path / "one", latent, temperature=0.7, top_k=1)
    drawn = evaluated(tmp_path / "drawn", latent, temperature=0.6, top_k=20, top_p=0.95, samples=2)
    assert [r["text"] for r in one[1]] == [r["text"] for r in greedy[1]]
    first, second = ([r["text"] for r in drawn[1] if r["index"] == i] for i in (0, 1))
    assert first != second
    for trace in drawn[2]:
        (same,) = (t for t in greedy[2] if t["id"] == trace["id"])
        for mine, other in zip(trace["steps"], same["steps"], strict=True):
            assert mine["entropy"] == pytest.approx(other["entropy"], abs=1e-4)
            assert mine["tokens"][0][0] == other["tokens"][0][0]
    assert drawn[0]["sampling"]["top_k"] == 20


@pytest.mark.parametrize("system", ["general", "reasoning", "none"])
def test_the_system_prompt_reaches_the_model(tmp_path: Path, system: str) -> None:
    _, rows, _ = evaluated(tmp_path, {**SOFT, "markers": "think", "stop": 1}, system=system)
    for row in rows:
        front = f"[system]{SYSTEM_PROMPTS[system]}\n[user]" if SYSTEM_PROMPTS[system] else "[user]"
        assert row["prompt"].startswith(front + row["question"])
        assert row["prompt"].endswith("\n[assistant]<think>")
        one_each = row["prompt"].replace("</think>", "e").replace("<think>", "s")
        assert row["prompt_tokens"] == len(one_each), "bytes, and each marker one token"


@pytest.mark.parametrize("markers", ["think", TEXT_MARKERS])
def test_reasoning_in_words_is_closed_at_its_budget(tmp_path: Path, markers: Any) -> None:
    result, rows, traces = evaluated(tmp_path, None, markers=markers, max_think_tokens=5)
    end, tokens = ("</think>", 1) if markers == "think" else (">>", 2)
    for row in rows:
        assert row["think_tokens"] == 5
        assert row["forced"] == tokens
        assert row["text"].count(end) >= 1
        assert row["tokens"] == 24
    assert result["latent"] is None
    assert traces == []


@pytest.mark.parametrize("input", ["soft", "hidden"])
def test_states_that_are_no_numbers_are_an_error_of_their_sample_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, input: str
) -> None:
    real, asked = sharing.load_model, {"input": input, "markers": "think", "stop": 3}
    _, whole, _ = evaluated(tmp_path / "whole", asked)

    def broken(*args: Any, **kw: Any) -> Any:
        """One letter of some questions has no numbers."""
        model: Any = real(*args, **kw)
        table = model.get_input_embeddings().weight
        model.lm_head.weight = torch.nn.Parameter(table.detach().clone())
        with torch.no_grad():
            table[letter] = float("nan")
        return model

    letter = asking.load_tokenizer(experiment(model=MODEL).stages[0], None, lambda: ["D"])("D")["input_ids"][
        0
    ]
    monkeypatch.setattr(sharing, "load_model", broken)
    result, rows, traces = evaluated(tmp_path / "broken", asked)
    hit = [("D" in row["prompt"], row) for row in rows]
    assert 0 < sum(h for h, _ in hit) < 4
    assert result["stop_causes"]["error"] == sum(h for h, _ in hit)
    for (bad, row), other in zip(hit, whole, strict=True):
        assert ("not finite" in row.get("error", "")) == bad
        assert bad or row["text"] == other["text"]
    assert len(traces) == 4
    assert all(math.isfinite(step["entropy"]) for trace in traces for step in trace["steps"])
