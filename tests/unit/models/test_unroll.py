"""The forward with latent steps against a loop that computes every row alone and from scratch."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.models.feed import Feed, make_feed
from jobs.models.parts import Parts, parts
from jobs.models.span_cache import SpanCache
from jobs.models.unroll import unroll
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import ContextualInput, HiddenInput, PauseInput, SoftInput

pytestmark = pytest.mark.heavy

V, FIRST, N, TOKEN, OPENING = 40, 8, 4, 3, 2
COUNTS = [4, 2, 0, 3]
LEFT = [0, 3, 1, 2]
"""Padding left of each row, behind it too in the first two."""
ARCHS = ["gpt2", "llama", "qwen2", "qwen3"]
INPUTS: dict[str, Any] = {
    "hidden": HiddenInput(),
    "pause": PauseInput(),
    "soft": SoftInput(temperature=0.7, max_topk=None),
    "soft-filtered": SoftInput(top_k=9, top_p=0.9, min_p=0.01, max_topk=9),
    "exponential": ContextualInput(window=3),
    "list-rescaled": ContextualInput(window=2, weights=[0.2, 0.8], rescale=True),
    "uniform-latent-only": ContextualInput(window=5, weights="uniform", include="latent_only"),
    "from-start-marker": ContextualInput(window=4, weights="uniform", include="from_start_marker"),
    "longer-than-the-row": ContextualInput(window=11, weights="uniform"),
    "learned": ContextualInput(window=3, weights="learned"),
    "compat": ContextualInput(window=3, weights=[0.6, 0.3, 0.1], compat=True),
}


def model(arch: str, *, tied: bool = False, attention: str = "sdpa", **more: Any) -> Any:
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "tie_word_embeddings": tied}
    if arch == "gpt2":
        size = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        made: Any = GPT2LMHeadModel(GPT2Config(vocab_size=V, **{**size, **none, **ids, **more}))
    else:
        config, kind = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM),
            "qwen3": (Qwen3Config, Qwen3ForCausalLM),
            "mistral": (MistralConfig, MistralForCausalLM),
        }[arch]
        size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
        size |= {"num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64}
        made = kind(config(vocab_size=V, **{**size, **ids, **more}))
    for p in made.parameters():  # far from the start, where everything is nearly linear
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.2)
    made.set_attn_implementation(attention)
    return made.train()


def batch(extra: int = 0, seed: int = 1) -> dict[str, Any]:
    """Four ragged rows; `extra` more columns of padding before all of them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (4, 18), generator=generator)
    mask = torch.ones_like(ids)
    for b, left in enumerate(LEFT):
        mask[b, :left] = 0
    mask[0, 16:] = mask[1, 17:] = 0
    pad = (extra, 0)
    return {
        "ids": torch.nn.functional.pad(ids, pad, value=7),
        "mask": torch.nn.functional.pad(mask, pad),
        "first": FIRST + extra,
        "counts": torch.tensor(COUNTS),
        "longest": N,
        "opening": OPENING,
    }


def learned(input: Any) -> Tensor | None:
    return (
        torch.tensor([0.3, -0.5, 0.9], requires_grad=True)
        if getattr(input, "weights", 0) == "learned"
        else None
    )


def feed_of(p: Parts, input: Any, weights: Tensor | None = None) -> Feed:
    return make_feed(input, p, token=TOKEN, learned=weights)


def soft_by_hand(input: SoftInput, logits: Tensor, table: Tensor) -> Tensor:
    """(d): filters one after the other on a sorted list."""
    probs = (logits / input.temperature).softmax(-1)
    order = sorted(range(len(probs)), key=lambda i: -float(probs[i].detach()))
    order = order[: input.top_k or None]
    mass, total, kept = 0.0, float(sum(probs[i].detach() for i in order)), []
    for i in order:
        if kept and input.top_p < 1 and mass >= input.top_p * total:
            break
        mass += float(probs[i].detach())
        kept.append(i)
    kept = [i for i in kept if probs[i] >= input.min_p * probs[kept[0]]][: input.max_topk]
    weights = probs[kept] / probs[kept].sum()
    return weights @ table[kept]


def input_by_hand(input: Any, p: Parts, hidden: Tensor, step: int, weights: Tensor | None) -> Tensor:
    """The next input (d) of one row, `hidden` (t, d) all of its states so far."""
    if input.kind == "pause":
        return p.embedding[TOKEN]
    if input.kind == "soft":
        return soft_by_hand(input, p.head(hidden[-1]), p.embedding)
    if input.kind == "hidden":
        return hidden[-1]
    allowed = {"all": len(hidden), "latent_only": 1 + step, "from_start_marker": OPENING + step}[
        input.include
    ]
    share = {"uniform": [1.0] * input.window, "exponential": [input.decay**i for i in range(input.window)]}
    raw = list(weights.softmax(-1)) if weights is not None else input.weights
    raw = share.get(raw, raw) if isinstance(raw, str) else list(raw)
    if input.compat:
        raw, allowed = raw[::-1], allowed if step == 0 else 1
    k = min(input.window, allowed, len(hidden))
    z = sum(raw[i] * hidden[-1 - i] for i in range(k)) / sum(raw[:k])
    return z * hidden[-1].norm() / z.norm() if input.rescale else z


def naive(p: Parts, input: Any, data: dict[str, Any], weights: Tensor | None = None) -> list[Tensor]:
    """Logits of the real columns of each row: no padding, no cache, everything anew for each latent."""
    found = []
    for b, count in enumerate(data["counts"].tolist()):
        real = data["mask"][b].bool()
        x = p.embed(data["ids"][b][real])
        at = data["first"] - int((~real[: data["first"]]).sum())
        for j in range(count):
            hidden = p.run(x[None, : at + j])[0]
            z = input_by_hand(input, p, hidden, j, weights)
            x = torch.cat([x[: at + j], z[None], x[at + j + 1 :]])
        found.append(p.head(p.run(x[None])[0]))
    return found


def ours(p: Parts, feed: Feed, data: dict[str, Any], **how: Any) -> list[Tensor]:
    logits = p.head(unroll(p, feed=feed, **data, **how))
    return [row[m.bool()] for row, m in zip(logits, data["mask"], strict=True)]


def gradients(made: Any, rows: list[Tensor], extra: Tensor | None = None) -> dict[str, Tensor]:
    made.zero_grad()
    if extra is not None:
        extra.grad = None
    loss(rows).backward()
    found = {name: p.grad.clone() for name, p in made.named_parameters()}
    return found if extra is None else {**found, "learned": extra.grad.clone()}


def loss(rows: list[Tensor]) -> Tensor:
    """Every logit counts, each by another weight."""
    total = torch.zeros(())
    for row in rows:
        weights = torch.linspace(-1, 1, row.numel(), dtype=row.dtype).view_as(row)
        total = total + (row * weights).tanh().sum()
    return total


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    for name in b:
        scale = max(1.0, float(b[name].abs().max()))
        torch.testing.assert_close(a[name] / scale, b[name] / scale, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("arch", ARCHS)
def test_equals_a_naive_loop(arch: str, kind: str) -> None:
    """Logits and every parameter's gradient; Jacobi with as many sweeps as latents too."""
    made, input, data = model(arch), INPUTS[kind], batch()
    p, weights = parts(made), learned(input)
    expected = naive(p, input, data, weights)
    wanted = gradients(made, expected, weights)
    for how in ({}, {"schedule": "jacobi", "sweeps": N}):
        found = ours(p, feed_of(p, input, weights), data, **how)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        close(gradients(made, found, weights), wanted)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("arch", ARCHS)
def test_tied_embeddings_and_both_attentions(arch: str, attention: str) -> None:
    made, data = model(arch, tied=True, attention=attention), batch()
    p = parts(made)
    expected = naive(p, HiddenInput(), data)
    found = ours(p, feed_of(p, HiddenInput()), data)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    close(gradients(made, found), gradients(made, expected))
    assert made.config._attn_implementation == attention


@pytest.mark.parametrize(
    "sliding",
    [
        ("mistral", {"sliding_window": 5}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    ],
)
def test_sliding_windows_slide(sliding: tuple[str, dict[str, Any]]) -> None:
    made, data = model(sliding[0], **sliding[1]), batch()
    p = parts(made)
    expected = naive(p, HiddenInput(), data)
    wanted = gradients(made, expected)
    for how in ({}, {"schedule": "jacobi"}):
        found = ours(p, feed_of(p, HiddenInput()), data, **how)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        close(gradients(made, found), wanted)


@pytest.mark.parametrize("arch", ARCHS)
def test_without_latents_it_is_the_plain_forward_bit_for_bit(arch: str) -> None:
    made, data = model(arch), batch()
    p = parts(made)
    positions = (data["mask"].cumsum(1) - 1).clamp(min=0)
    data.update(longest=0, counts=torch.zeros(4, dtype=torch.long))
    plain = made(input_ids=data["ids"], attention_mask=data["mask"], position_ids=positions).logits
    assert torch.equal(p.head(unroll(p, feed=feed_of(p, HiddenInput()), **data)), plain)


@pytest.mark.parametrize("schedule", ["sequential", "jacobi"])
@pytest.mark.parametrize("arch", ARCHS)
def test_padding_on_the_left_changes_nothing(arch: str, schedule: str) -> None:
    p = parts(model(arch))
    feed = feed_of(p, INPUTS["exponential"])
    near, far = (ours(p, feed, batch(extra), schedule=schedule) for extra in (0, 5))
    for a, b in zip(near, far, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_no_mask_is_a_mask_of_ones() -> None:
    p, data = parts(model("qwen3")), batch()
    data["mask"] = torch.ones_like(data["ids"])
    for how in ({}, {"schedule": "jacobi", "sweeps": 2}):
        with_mask = unroll(p, feed=feed_of(p, HiddenInput()), **data, **how)
        without = unroll(p, feed=feed_of(p, HiddenInput()), **{**data, "mask": None}, **how)
        torch.testing.assert_close(with_mask, without, atol=1e-5, rtol=1e-5)


def test_rows_do_not_see_their_neighbours() -> None:
    """Rows with fewer latents, or none, give the same whatever stands beside them."""
    p, data = parts(model("llama")), batch()
    feed = feed_of(p, HiddenInput())
    together = unroll(p, feed=feed, **data)
    for b in range(4):
        other = {**data, "ids": data["ids"].clone()}
        others = [i for i in range(4) if i != b]
        other["ids"][others] = (other["ids"][others] + 11) % V
        assert torch.equal(unroll(p, feed=feed, **other)[b], together[b])
    more = unroll(p, feed=feed, **{**data, "longest": N + 2})
    torch.testing.assert_close(more, together, atol=1e-5, rtol=1e-5)


def test_ids_in_latent_columns_do_not_count() -> None:
    p, data = parts(model("gpt2")), batch()
    feed = feed_of(p, HiddenInput())
    before = unroll(p, feed=feed, **data)
    changed = data["ids"].clone()
    for b, count in enumerate(COUNTS):
        changed[b, FIRST : FIRST + count] = (changed[b, FIRST : FIRST + count] + 5) % V
    assert torch.equal(unroll(p, feed=feed, **{**data, "ids": changed}), before)


def test_gradients_reach_the_question_through_the_latents() -> None:
    """Cutting the fed-back states off changes the gradient of every real question position."""
    p, data = parts(model("gpt2")), batch()
    feed = feed_of(p, HiddenInput())
    cut = replace(feed, give=lambda window, valid: window[:, 0].detach())
    embed, found = p.embed, []
    for each in (feed, cut):
        taken: list[Tensor] = []
        p.embed = lambda ids, taken=taken: taken.append(embed(ids).detach().requires_grad_()) or taken[0]  # type: ignore[method-assign]
        unroll(p, feed=each, **data)[:, FIRST + N :].tanh().sum().backward()
        found.append(taken[0].grad)
    through = (found[0] - found[1]).norm(dim=-1)[:, :FIRST]
    has = data["mask"][:, :FIRST].bool() & (data["counts"] > 0)[:, None]
    assert (through[has] > 1e-4).all()
    assert (through[~has] < 1e-6).all()


@pytest.mark.parametrize("how", [{}, {"schedule": "jacobi", "sweeps": 2}], ids=["sequential", "jacobi"])
@pytest.mark.parametrize("kind", ["hidden", "learned", "soft", "list-rescaled"])
def test_gradients_by_finite_differences(kind: str, how: dict[str, Any]) -> None:
    """Along random directions of all parameters, float64."""
    made, input, data = model("gpt2").double(), INPUTS[kind], batch()
    p, weights = parts(made), learned(input)
    weights = weights if weights is None else weights.detach().double().requires_grad_()
    feed = feed_of(p, input, weights)
    leaves = [*made.parameters(), *([] if weights is None else [weights])]

    def value() -> Tensor:
        return loss([row.double() for row in ours(p, feed, data, **how)])

    grads = torch.autograd.grad(value(), leaves)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        way = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for leaf in leaves]
        sides = []
        for sign in (1e-6, -1e-6):
            with torch.no_grad():
                for leaf, w in zip(leaves, way, strict=True):
                    leaf.add_(w, alpha=sign)
                sides.append(value())
                for leaf, w in zip(leaves, way, strict=True):
                    leaf.sub_(w, alpha=sign)
        slope = (sides[0] - sides[1]) / 2e-6
        along = torch.stack([(g * w).sum() for g, w in zip(grads, way, strict=True)]).sum()
        torch.testing.assert_close(along, slope, rtol=1e-5, atol=1e-5)


def test_a_window_of_one_is_hidden_bit_for_bit() -> None:
    made, data = model("qwen3"), batch()
    p = parts(made)
    one = ContextualInput(window=1, weights="uniform", rescale=True)
    a, b = ours(p, feed_of(p, HiddenInput()), data), ours(p, feed_of(p, one), data)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    first, second = gradients(made, a), gradients(made, b)
    plain = ContextualInput(window=1, weights="uniform")
    third = gradients(made, ours(p, feed_of(p, plain), data))
    close(second, first, 1e-6)
    assert all(torch.equal(first[k], third[k]) for k in first)


def spied(feed: Feed) -> tuple[Feed, list[tuple[Tensor, Tensor]]]:
    """A feed that notes what it is given and what it gives."""
    seen: list[tuple[Tensor, Tensor]] = []

    def give(window: Tensor, valid: Tensor | None) -> Tensor:
        window.retain_grad()
        seen.append((window, feed.give(window, valid)))
        return seen[-1][1]

    return replace(feed, give=give), seen


def test_every_latent_looks_two_states_back() -> None:
    p, data = parts(model("gpt2")), batch()
    feed, seen = spied(feed_of(p, ContextualInput(window=2, weights=[0.6, 0.4])))
    hidden = unroll(p, feed=feed, **data)
    hidden[0].tanh().sum().backward()
    assert len(seen) == N
    for j, (window, z) in enumerate(seen):
        assert window.grad is not None
        assert (window.grad[0, 1].abs() > 0).any()
        expected = 0.6 * hidden[0, FIRST + j - 1] + 0.4 * hidden[0, FIRST + j - 2]
        torch.testing.assert_close(z[0], expected, atol=1e-6, rtol=1e-5)


def test_permuted_weights_give_another_chain() -> None:
    p, data = parts(model("gpt2")), batch()
    a, b = (
        unroll(p, feed=feed_of(p, ContextualInput(window=2, weights=w)), **data)
        for w in ([0.6, 0.4], [0.4, 0.6])
    )
    assert (a - b)[0, FIRST + 1 :].abs().max() > 1e-2


def test_compat_is_the_trace_of_the_fork() -> None:
    """The first thought mixes three states, the oldest with 0.6; every later one is the state before it."""
    p, data = parts(model("gpt2")), batch()
    feed, seen = spied(feed_of(p, INPUTS["compat"]))
    hidden = unroll(p, feed=feed, **data)[0]
    oldest_first = hidden[FIRST - 3 : FIRST]
    torch.testing.assert_close(
        seen[0][1][0], torch.tensor([0.6, 0.3, 0.1]) @ oldest_first, atol=1e-6, rtol=1e-5
    )
    for j in range(1, N):
        assert torch.equal(seen[j][1][0], hidden[FIRST + j - 1])


def passes(p: Parts, call: Callable[[], Any]) -> int:
    count = []
    hook = p.body.register_forward_hook(lambda *_: count.append(1))
    call()
    hook.remove()
    return len(count)


def test_how_many_passes() -> None:
    p, data = parts(model("gpt2")), batch()
    hidden, pause = feed_of(p, HiddenInput()), feed_of(p, PauseInput())
    assert passes(p, lambda: unroll(p, feed=hidden, **data)) == N + 1
    for sweeps, expected in ((1, 2), (2, 3), (3, 4), (N, N + 1), (50, N + 1), (None, N + 1)):
        how = {"schedule": "jacobi", "sweeps": sweeps}
        assert passes(p, lambda how=how: unroll(p, feed=hidden, **data, **how)) == expected
    assert passes(p, lambda: unroll(p, feed=pause, **data)) == 1


@pytest.mark.parametrize("kind", ["hidden", "exponential", "soft"])
def test_fewer_sweeps_are_jacobi_iterations(kind: str) -> None:
    """Against iterations that run the whole batch anew; and they are not yet the sequential pass."""
    made, data, sweeps = model("qwen2"), batch(), 2
    p = parts(made)
    feed = feed_of(p, INPUTS[kind])

    def whole(x: Tensor) -> Tensor:
        return p.run(x, positions=(data["mask"].cumsum(1) - 1).clamp(min=0), mask=data["mask"])

    text = p.embed(data["ids"])
    prompt = data["mask"][:, :FIRST].sum(1)
    latent = torch.arange(18)[None] - FIRST
    latent = ((latent >= 0) & (latent < data["counts"][:, None]))[..., None]
    x = torch.where(latent, p.embedding[TOKEN], text)
    # the question before the first sweep makes the first latent exact, each sweep one more
    for made_so_far in range(sweeps):
        hidden, columns = whole(x), list(x.unbind(1))
        for j in range(N if made_so_far else 1):
            t = FIRST + j
            window = torch.stack([hidden[:, t - 1 - i] for i in range(feed.window)], 1)
            z = feed(window, feed.visible(torch.tensor(j).expand(4), prompt, OPENING))
            columns[t] = torch.where(latent[:, t], z, columns[t])
        x = torch.stack(columns, 1)
    expected = [row[m.bool()] for row, m in zip(p.head(whole(x)), data["mask"], strict=True)]
    found = ours(p, feed, data, schedule="jacobi", sweeps=sweeps)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    close(gradients(made, found), gradients(made, expected))
    assert (found[0] - ours(p, feed, data)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("how", [{}, {"schedule": "jacobi", "sweeps": 3}], ids=["sequential", "jacobi"])
def test_one_graph_several_backward_passes(how: dict[str, Any]) -> None:
    """What an earlier backward pass left behind has no part in the next one, whole or of an early column."""
    made, data = model("llama"), batch()
    p = parts(made)
    feed = feed_of(p, HiddenInput())
    weights = list(p.body.parameters())
    targets = [
        lambda h: h[:, FIRST + N :].tanh().sum(),
        lambda h: h[:, FIRST].tanh().sum(),
        lambda h: h[0].sum(),
    ]
    kept = unroll(p, feed=feed, **data, **how)
    for target in [*targets, *targets]:
        again = torch.autograd.grad(target(kept), weights, retain_graph=True, allow_unused=True)
        fresh = torch.autograd.grad(target(unroll(p, feed=feed, **data, **how)), weights, allow_unused=True)
        for a, b in zip(again, fresh, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("how", [{}, {"schedule": "jacobi", "sweeps": 3}], ids=["sequential", "jacobi"])
def test_nothing_of_a_step_stays_in_memory(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A circle of graph and cache is one that no garbage collector sees."""
    caches: list[weakref.ref[SpanCache]] = []

    class Watched(SpanCache):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            caches.append(weakref.ref(self))

    monkeypatch.setattr("jobs.models.unroll.SpanCache", Watched)
    p = parts(model("llama"))
    hidden = unroll(p, feed=feed_of(p, HiddenInput()), **batch(), **how)
    hidden.sum().backward()
    del hidden
    gc.collect()
    assert [ref() for ref in caches] == [None]


def test_frozen_weights_leave_the_others_their_gradients() -> None:
    made, data = model("qwen3"), batch()
    p = parts(made)
    expected = gradients(made, ours(p, feed_of(p, HiddenInput()), data))
    for name, parameter in made.named_parameters():
        parameter.requires_grad_("layers.1" in name)
    made.zero_grad()
    loss(ours(p, feed_of(p, HiddenInput()), data)).backward()
    for name, parameter in made.named_parameters():
        if "layers.1" in name:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-5)
        else:
            assert parameter.grad is None


def test_dropout_of_attention() -> None:
    """A drawn mask is the same backwards as forwards (finite differences at one seed), and off in
    evaluation."""
    made, data = model("gpt2", attn_pdrop=0.4).double(), batch()
    p = parts(made)
    feed, leaf = feed_of(p, HiddenInput()), made.transformer.h[0].attn.c_attn.weight

    def value(seed: int = 3) -> Tensor:
        torch.manual_seed(seed)
        return loss(ours(p, feed, data)).double()

    grad = torch.autograd.grad(value(), leaf)[0]
    way = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        leaf.add_(way, alpha=1e-6)
        up = value()
        leaf.sub_(way, alpha=2e-6)
        down = value()
        leaf.add_(way, alpha=1e-6)
    torch.testing.assert_close((grad * way).sum(), (up - down) / 2e-6, rtol=1e-5, atol=1e-5)
    assert value(3) != value(4)
    made.eval()
    assert value(3) == value(4)


def test_measuring_and_half_precision() -> None:
    made, data = model("qwen3"), batch()
    p = parts(made)
    with_graph = unroll(p, feed=feed_of(p, HiddenInput()), **data)
    with torch.no_grad():
        assert torch.equal(unroll(p, feed=feed_of(p, HiddenInput()), **data), with_graph)
    half = parts(made.bfloat16())
    for kind in ("hidden", "exponential", "soft"):
        hidden = unroll(half, feed=feed_of(half, INPUTS[kind]), **data)
        assert hidden.dtype == torch.bfloat16
        hidden.float().sum().backward()
    close_by = unroll(half, feed=feed_of(half, HiddenInput()), **data).float()
    assert (close_by - with_graph)[data["mask"].bool()].abs().mean() < 0.1


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(JobUserError) as caught:
        call()
    assert caught.value.hint
    return str(caught.value)


def test_what_stands_in_the_way_is_said() -> None:
    made, data = model("llama"), batch()
    p = parts(made)
    feed = feed_of(p, HiddenInput())
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert "gradient checkpointing" in refusal(lambda: unroll(p, feed=feed, **data))
    made.eval()
    unroll(p, feed=feed, **data)  # nothing is checkpointed in evaluation
    made.gradient_checkpointing_disable()
    made.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in refusal(lambda: unroll(p, feed=feed, **data))
    made.config._attn_implementation = "sdpa"
    with pytest.raises(JobUserError, match="latent token"):
        unroll(p, feed=make_feed(HiddenInput(), p), **data, schedule="jacobi", sweeps=2)


def test_attention_that_is_more_than_attention_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, final_logit_softcapping=None, attn_logit_softcapping=5.0,
    )  # fmt: skip
    p = parts(Gemma2ForCausalLM(config))
    assert "softcap" in refusal(lambda: unroll(p, feed=feed_of(p, HiddenInput()), **batch()))
