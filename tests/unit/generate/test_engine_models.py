"""The engine on real architectures: equal to unbatched Hugging Face forwards and to `model.generate`."""

from __future__ import annotations

import random

import pytest
import torch
from engine_harness import VOCAB, NumberTokenizer, ask, by_key, tiny

from jobs.generate.protocol import Request
from jobs.generate.text import eos_ids
from jobs.generate.transformers_engine import TransformersEngine

pytestmark = pytest.mark.heavy
FAMILIES = ["gpt2", "llama", "qwen3", "qwen2", "mistral-sliding", "qwen2-mixed"]


def ragged(count: int, seed: int = 0, **sampling: object) -> list[Request]:
    rng = random.Random(seed)
    return [
        ask(
            f"p{i}",
            [rng.randrange(VOCAB) for _ in range(rng.randint(1, 40))],
            **{"max_new_tokens": rng.randint(1, 25), **sampling},
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate_and_log_probs_equal_unbatched_forwards(family: str) -> None:
    model = tiny(family)
    requests = ragged(14)
    got = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=5).generate(requests))
    for request in requests:
        ids = torch.tensor([request.ids])
        want = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.sampling.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
        )[0, len(request.ids) :]
        sample = got[request.id, 0]
        assert sample.ids == want.tolist()
        with torch.no_grad():
            logits = model(torch.tensor([request.ids + sample.ids])).logits[0, len(request.ids) - 1 : -1]
        exact = torch.log_softmax(logits, -1).gather(-1, want[:, None]).squeeze(-1)
        assert torch.allclose(torch.tensor(sample.logps), exact, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_prefill_and_steps_equal_an_unbatched_forward(family: str) -> None:
    """Teacher-forced through the slots, ragged rows, a row replaced half-way: atol 1e-5 on every logit."""
    model = tiny(family, scale=1.0)
    rng = random.Random(3)
    rows = [[rng.randrange(VOCAB) for _ in range(n)] for n in (3, 30, 17)]
    more = [[rng.randrange(VOCAB) for _ in range(12)] for _ in rows]
    runner = TransformersEngine(model, NumberTokenizer()).runner
    with torch.inference_mode():
        runner.cache.ensure(3, 50, limit=50, budget=10_000)
        logits = [runner.prefill(rows, [[0], [1], [2]])]
        for step in range(12):
            if step == 6:
                runner.cache.copy(2, 0, 17 + step)
                rows[0], more[0] = rows[2], more[2]
            logits.append(runner.step([m[step] for m in more], [len(r) + step for r in rows]))
    for place, (row, tail) in enumerate(zip(rows, more, strict=True)):
        with torch.no_grad():
            want = model(torch.tensor([row + tail])).logits[0, len(row) - 1 :]
        first = 7 if place == 0 else 0
        got = torch.stack([step[place] for step in logits])
        assert torch.allclose(got[first:], want[first:], atol=1e-5)


def test_score_equals_unbatched_forwards_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.generate import score

    monkeypatch.setattr(score, "_MAX_LOGITS", 4 * VOCAB * 3)
    model = tiny("qwen3")
    rng = random.Random(5)
    items = [
        ([rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))], [rng.randrange(VOCAB) for _ in range(n)])
        for n in (1, 0, 13, 2, 30, 5, 5)
    ]
    for max_batch in (1, 4):
        engine = TransformersEngine(model, NumberTokenizer(), max_batch=max_batch)
        for (prompt, continuation), got in zip(items, engine.score(iter(items)), strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + continuation])).logits[0, len(prompt) - 1 : -1]
            exact = torch.log_softmax(logits, -1)[torch.arange(len(continuation)), continuation]
            assert torch.allclose(torch.tensor(got), exact, atol=1e-5)


def test_score_refuses_an_empty_prompt() -> None:
    with pytest.raises(ValueError, match="item 1 has an empty prompt"):
        list(TransformersEngine(tiny("gpt2"), NumberTokenizer()).score([([1], [2]), ([], [2])]))


def test_sampled_text_depends_on_seed_problem_and_sample_alone() -> None:
    """The same samples alone, in any batch, in any order, and when only the missing ones are asked again."""
    model = tiny("llama", scale=1.5)
    requests = [
        ask(f"p{i}", r.ids, index=k, temperature=1.0, top_p=0.9, samples=3, max_new_tokens=12, seed=4)
        for i, r in enumerate(ragged(6, seed=8))
        for k in range(3)
    ]
    whole = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=7).generate(requests))
    alone = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=1).generate(requests))
    resumed = by_key(TransformersEngine(model, NumberTokenizer()).generate(requests[:4:-2]))
    assert {k: v.ids for k, v in whole.items()} == {k: v.ids for k, v in alone.items()}
    assert all(whole[k].ids == v.ids for k, v in resumed.items())
    assert len({tuple(v.ids) for v in whole.values()}) == len(requests)
    other = by_key(
        TransformersEngine(model, NumberTokenizer()).generate(
            [ask(r.id, r.ids, index=r.index, temperature=1.0, max_new_tokens=12, seed=5) for r in requests]
        )
    )
    assert all(other[k].ids != v.ids for k, v in whole.items())


def test_the_cache_stays_within_the_token_bound() -> None:
    engine = TransformersEngine(tiny("gpt2"), NumberTokenizer(), max_batch=16, max_batch_tokens=300)
    sizes = []
    cache = engine.runner.cache
    ensure = cache.ensure

    def watched(*args: int, **kw: int) -> None:
        ensure(*args, **kw)
        sizes.append(cache.where.capacity[0] * cache.where.capacity[1])

    cache.ensure = watched  # type: ignore[method-assign]
    assert len(list(engine.generate(ragged(40)))) == 40
    assert 0 < max(sizes) <= 300


def test_every_end_token_counts() -> None:
    model = tiny("gpt2")
    model.generation_config.eos_token_id = [3, 4]
    model.config.eos_token_id = 5
    tokenizer = NumberTokenizer()
    tokenizer.eos_token_id = 6  # type: ignore[assignment]
    assert eos_ids(model, tokenizer) == {3, 4, 5, 6}
    without = by_key(TransformersEngine(tiny("gpt2"), NumberTokenizer()).generate(ragged(5)))
    ending = without["p1", 0].ids[2]
    model.config.eos_token_id = ending
    with_eos = by_key(TransformersEngine(model, NumberTokenizer()).generate(ragged(5)))["p1", 0]
    assert with_eos.ids == without["p1", 0].ids[: without["p1", 0].ids.index(ending)]
    assert with_eos.cause == "eos"


def test_eager_attention_gives_the_same() -> None:
    model = tiny("qwen3")
    sdpa = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=4).generate(ragged(8)))
    model.set_attn_implementation("eager")
    eager = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=4).generate(ragged(8)))
    assert {k: v.ids for k, v in sdpa.items()} == {k: v.ids for k, v in eager.items()}


def test_models_that_keep_another_kind_of_state_are_refused() -> None:
    model = tiny("qwen2")
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        TransformersEngine(model, NumberTokenizer())
