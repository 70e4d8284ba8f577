"""What is fed: windows of hidden states, their weights, and products with the embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.latent.inputs import contextual, push, soft, visible, window_weights, windows
from latentctl.spec.latent import ContextualInput

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rescale", [False, True])
def test_a_window_of_one_is_the_hidden_state_bit_for_bit(dtype: torch.dtype, rescale: bool) -> None:
    hidden = (torch.randn(5, 64) * 30).to(dtype)
    weights = window_weights(ContextualInput(window=1, weights=[0.3]))
    assert torch.equal(contextual(hidden[:, None], weights, rescale=rescale), hidden)
    wide = torch.cat([hidden[:, None], torch.full((5, 2, 64), torch.nan, dtype=dtype)], 1)
    only = torch.tensor([True, False, False]).expand(5, 3)
    assert torch.equal(contextual(wide, torch.tensor([0.2, 0.3, 0.5]), only, rescale), hidden), "one is valid"


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"window": 3, "weights": [6, 3, 1]}, [0.6, 0.3, 0.1]),
        ({"window": 3, "weights": [6, 3, 1], "compat": True}, [0.1, 0.3, 0.6]),
        ({"window": 4, "weights": "uniform"}, [0.25] * 4),
        ({"window": 3, "weights": "exponential", "decay": 0.5}, [4 / 7, 2 / 7, 1 / 7]),
        ({"window": 2, "weights": "exponential", "decay": 1.0}, [0.5, 0.5]),
    ],
)
def test_window_weights_are_normalised_newest_first(settings: dict[str, Any], want: list[float]) -> None:
    assert window_weights(ContextualInput(**settings)).tolist() == pytest.approx(want)


def test_learned_weights_are_a_softmax_that_learns() -> None:
    parameter = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    spec = ContextualInput(window=3, weights="learned")
    weights = window_weights(spec, parameter)
    assert weights.tolist() == pytest.approx([0.6652, 0.2447, 0.0900], abs=1e-4)
    contextual(torch.randn(2, 3, 4), weights).sum().backward()
    assert parameter.grad is not None
    assert bool((parameter.grad != 0).all())
    with pytest.raises(ValueError, match="come from training"):
        window_weights(spec)


def test_the_mean_is_over_the_states_that_count() -> None:
    window = torch.tensor([[[1.0], [10.0], [100.0]]]).expand(4, 3, 1)
    valid = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]]).bool()
    got = contextual(window, torch.tensor([0.6, 0.3, 0.1]), valid).squeeze(-1)
    assert got.tolist() == pytest.approx(
        [1.0, 0.6 / 0.9 * 1 + 0.3 / 0.9 * 10, 0.6 + 3 + 10, 0.6 / 0.7 + 0.1 / 0.7 * 100]
    )


def test_where_all_that_counts_has_no_weight_the_newest_state_is_fed() -> None:
    window = torch.randn(1, 2, 4)
    valid = torch.tensor([[True, False]])
    assert torch.equal(contextual(window, torch.tensor([0.0, 1.0]), valid), window[:, 0])


def test_rescaling_gives_the_mean_the_norm_of_the_newest_state() -> None:
    window = torch.randn(6, 3, 16)
    weights = torch.tensor([0.5, 0.3, 0.2])
    mean = contextual(window, weights)
    scaled = contextual(window, weights, rescale=True)
    assert torch.allclose(scaled.norm(dim=-1), window[:, 0].norm(dim=-1))
    assert torch.allclose(torch.cosine_similarity(scaled, mean), torch.ones(6))
    assert bool((mean.norm(dim=-1) < window[:, 0].norm(dim=-1)).any()), "averaging shrinks"
    some = torch.tensor([True, False] * 3)
    mixed = contextual(window, weights, rescale=some)
    assert torch.equal(mixed[some], scaled[some])
    assert torch.equal(mixed[~some], mean[~some])
    assert torch.equal(contextual(torch.zeros(1, 3, 4), weights, rescale=True), torch.zeros(1, 4))


def test_each_weight_order_gives_another_input() -> None:
    window = torch.randn(2, 3, 8)
    assert not torch.allclose(
        contextual(window, torch.tensor([0.6, 0.3, 0.1])), contextual(window, torch.tensor([0.1, 0.3, 0.6]))
    )


def test_gradients_of_the_window_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    valid = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()

    def fed(window: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
        weights = parameter.softmax(-1)
        return contextual(window, weights, valid), contextual(window, weights, valid, True)

    window = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    parameter = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fed, (window, parameter))


@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 3, 6])
def test_all_windows_at_once_equal_pushing_one_by_one(m: int, n: int) -> None:
    hidden = torch.randn(2, n, 5)
    carry = torch.randn(2, m - 1, 5)
    window = torch.cat([carry, torch.zeros(2, 1, 5)], 1)  # before the first push the oldest is pushed out
    pushed = []
    for i in range(n):
        window = push(window, hidden[:, i])
        pushed.append(window)
    assert torch.equal(windows(hidden, carry), torch.stack(pushed, 1).reshape(2 * n, m, 5))


def test_a_push_moves_only_the_rows_that_are_named() -> None:
    window, hidden = torch.randn(2, 3, 4), torch.randn(2, 4)
    moved = push(window, hidden, torch.tensor([True, False]))
    assert torch.equal(moved[0], torch.stack([hidden[0], window[0, 0], window[0, 1]]))
    assert torch.equal(moved[1], window[1])
    assert push(window[:, :0], hidden).shape == (2, 0, 4)


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"include": "all"}, [4, 4, 4]),  # 9 positions before
        ({"include": "latent_only"}, [1, 2, 3]),
        ({"include": "from_start_marker"}, [2, 3, 4]),  # a marker of 2 tokens
        ({"include": "all", "compat": True}, [4, 1, 1]),
    ],
)
def test_which_states_a_step_may_look_at(settings: dict[str, Any], counts: list[int]) -> None:
    spec = ContextualInput(window=4, weights="uniform", **settings)
    got = visible(spec, torch.arange(3), torch.tensor([9, 9, 9]), 2)
    assert got.sum(-1).tolist() == counts
    assert bool((got.int().diff(dim=-1) <= 0).all()), "the newest ones"


def test_a_short_prompt_gives_fewer_states() -> None:
    spec = ContextualInput(window=4, weights="uniform")
    assert visible(spec, torch.tensor([0, 1]), torch.tensor([2, 2]), 1).sum(-1).tolist() == [2, 3]


def test_compat_is_the_published_forks_slice_and_weights() -> None:
    """First latent step of a prompt of k positions: the last k states, oldest first, against the tail of the
    weights; every later one looks at a single state."""
    given = [0.6, 0.3, 0.1]
    spec = ContextualInput(window=3, weights=given, compat=True)
    states = torch.randn(3, 8)  # in the order of time
    for k in (1, 2, 3):
        tail = torch.tensor(given[3 - k :])
        want = (tail / tail.sum()) @ states[3 - k :]
        seen = visible(spec, torch.tensor([0]), torch.tensor([k]), 1)
        got = contextual(states.flip(0)[None], window_weights(spec), seen)
        assert torch.allclose(got[0], want, atol=1e-6)
    later = visible(spec, torch.tensor([1]), torch.tensor([3]), 1)
    assert torch.equal(contextual(states.flip(0)[None], window_weights(spec), later)[0], states[-1])


@pytest.mark.parametrize("k", [6, 1500])  # looked up, and as a product with the whole embedding
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_soft_input_is_the_weighted_sum_of_input_embeddings(k: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    embedding = torch.randn(20_000, 8).to(dtype)
    ids = torch.stack([torch.randperm(20_000)[:k] for _ in range(2)])
    weights = torch.rand(2, k).softmax(-1)
    want = torch.stack([weights[i].double() @ embedding[ids[i]].double() for i in range(2)])
    got = soft(weights, ids, embedding)
    assert got.dtype == dtype
    assert torch.allclose(
        got.double(), want.to(dtype).double(), atol=2e-6, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5
    )
