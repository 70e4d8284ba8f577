"""A model that learned something: its greedy answers do not depend on batch size, padding or neighbours."""

from __future__ import annotations

import random

import pytest
import torch
from engine_harness import NumberTokenizer, ask, by_key
from transformers import GPT2Config, GPT2LMHeadModel

from jobs.generate.transformers_engine import TransformersEngine

pytestmark = pytest.mark.heavy
SEP, EOS, COUNT = 10, 11, 12  # digits are 0-9; COUNT + n asks for n digits
VOCAB = 24


def problem(rng: random.Random) -> tuple[list[int], list[int]]:
    """Noise, SEP, how many, which digit -> so many digits counting up from it. Ragged on both sides."""
    noise = [rng.randrange(10) for _ in range(rng.randint(0, 10))]
    count, digit = rng.randint(1, 5), rng.randrange(10)
    return [*noise, SEP, COUNT + count, digit], [(digit + i) % 10 for i in range(1, count + 1)]


@pytest.fixture(scope="module")
def trained() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    rng = random.Random(0)
    shape = {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = GPT2Config(
        **shape, eos_token_id=EOS, bos_token_id=None, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        rows = [problem(rng) for _ in range(32)]
        width = max(len(p) + len(a) for p, a in rows) + 1
        ids = torch.tensor([[*p, *a, EOS] + [0] * (width - len(p) - len(a) - 1) for p, a in rows])
        labels = torch.full_like(ids, -100)
        for row, (p, a) in enumerate(rows):
            labels[row, len(p) : len(p) + len(a) + 1] = ids[row, len(p) : len(p) + len(a) + 1]
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_answers_are_the_same_in_any_batch_and_right(trained: GPT2LMHeadModel) -> None:
    rng = random.Random(99)
    rows = [problem(rng) for _ in range(80)]
    requests = [ask(f"p{i}", p, max_new_tokens=12) for i, (p, _) in enumerate(rows)]
    answers = []
    for max_batch, max_tokens, order in ((1, 10_000, 1), (16, 10_000, 1), (80, 10_000, -1), (16, 120, 1)):
        engine = TransformersEngine(
            trained, NumberTokenizer(), max_batch=max_batch, max_batch_tokens=max_tokens
        )
        got = by_key(engine.generate(requests[::order]))
        answers.append([got[f"p{i}", 0].ids for i in range(len(rows))])
        logps = [got[f"p{i}", 0].logps for i in range(len(rows))]
        if max_batch == 1:
            reference = logps
        for a, b in zip(reference, logps, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    assert all(a == answers[0] for a in answers)
    right = sum(a == want for a, (_, want) in zip(answers[0], rows, strict=True))
    assert right / len(rows) > 0.9, "the model was to learn its task, or this test shows little"
