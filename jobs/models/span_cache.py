"""Keys and values of rows with latent steps, for a forward that is differentiated.

A transformers cache joins all columns anew at every step, keeps each of those copies for the backward pass,
and there adds up a gradient of the whole prefix per step. Here the prefix is stored once, a step writes its
own columns beside it, and its attention keeps only queries, probabilities and their gradients, a few numbers
per column; the gradient of the prefix is two products for all steps together. Cost and memory grow linearly
in the number of steps.

The backward pass needs an order: every piece (prefix, steps, rest) hands the next one an empty tensor, so
that autograd runs them backwards one after the other, whatever the model does between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from jobs.runtime.errors import JobUserError

_NAME = "latent_steps"
_HARMLESS = {"use_cache", "position_ids", "sliding_window", "is_causal", "cache_position"}
"""Arguments that say nothing which the mask or the cache does not."""


class _Layer(CacheLayerMixin):
    """One layer. The first `width` columns of its stores (B, heads, columns, size) are in use."""

    key_store: Tensor
    value_store: Tensor
    is_sliding = False

    def __init__(self, cache: SpanCache) -> None:
        super().__init__()
        self.cache = cache
        self.width = 0
        self.link: Tensor | None = None
        """From the piece before, empty."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, columns, size = key_states.shape
        room = columns + self.cache.room
        self.key_store = key_states.new_empty(batch, heads, room, size)
        self.value_store = value_states.new_empty(batch, heads, room, value_states.shape[3])
        self.is_initialized = True
        self.rows = 0
        """Queries kept so far, counted as (step, query head of one key head, column)."""
        self.top = 0
        """In a backward pass: rows from here on had no part in it."""
        self.tail: tuple[Tensor, Tensor] | None = None
        """In a backward pass: gradients of all columns from the rest's attention."""

    def keep(self, queries: int) -> None:
        """Room for the numbers of `queries` rows, each of them against all columns."""
        b, h, columns, size = self.key_store.shape
        self.queries = self.key_store.new_empty(b * h, queries, size)
        self.probs = self.key_store.new_empty(b * h, queries, columns)
        self.d_scores = torch.empty_like(self.probs)
        self.d_out = self.value_store.new_empty(b * h, queries, self.value_store.shape[3])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.link = _Prefix.apply(key_states, value_states, self)
        elif not self.cache.stepping:
            link, self.link = self.link, None  # kept, it would close a circle of graph and cache: a leak
            return _Rest.apply(key_states, value_states, link, self)  # type: ignore[return-value]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.width + query_length, 0

    def get_seq_length(self) -> int:
        return self.width

    def get_max_length(self) -> int:
        return -1


class SpanCache(Cache):
    """For one forward: a prefix, `steps` steps of `columns` latent columns each, then the rest.

    With `replace` a step takes the place of the one before (Jacobi sweeps), else it stands behind it.
    """

    def __init__(self, layers: int, *, steps: int, columns: int = 1, replace: bool = False) -> None:
        self.steps, self.columns, self.replace = steps, columns, replace
        self.room = columns if replace else steps * columns
        self.stepping = False
        super().__init__(layers=[_Layer(self) for _ in range(layers)])

    @contextmanager
    def step(self, config: Any) -> Iterator[None]:
        """The forward inside is a latent step: its attention is ours."""
        own = config._attn_implementation
        active = _ACTIVE.set(self)
        self.stepping = True
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = own
            self.stepping = False
            _ACTIVE.reset(active)


_ACTIVE: ContextVar[SpanCache] = ContextVar("latent step")


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention of a latent step: query (B, heads, T, size) and the step's own key and value; the columns
    before are in the cache. Gives (B, T, heads, size)."""
    extra = sorted(k for k, v in kwargs.items() if v is not None and v is not False and k not in _HARMLESS)
    if extra:
        raise JobUserError(
            f"the attention of {type(module).__name__} takes {', '.join(extra)}: latent steps are not "
            "trained on such models",
            hint="gpt2, llama, qwen2 and qwen3 models have latent steps",
        )
    layer: Any = _ACTIVE.get().layers[module.layer_idx]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out, layer.link = _Step.apply(query, key, value, layer.link, layer, attention_mask, scale, dropout)
    return out, None


AttentionInterface.register(_NAME, _attention)


class _Prefix(torch.autograd.Function):
    """Stores the columns of the first pass; backwards, what all later pieces want of them."""

    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, layer: _Layer) -> Tensor:
        ctx.layer, ctx.width = layer, key.shape[2]
        layer.key_store[:, :, : key.shape[2]] = key
        layer.value_store[:, :, : key.shape[2]] = value
        layer.width = key.shape[2]
        return key.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        layer, columns = ctx.layer, slice(0, ctx.width)
        d_key, d_value = _owed(layer, columns, slice(0, layer.top))
        layer.tail = None
        return d_key, d_value, None


class _Step(torch.autograd.Function):
    """Attention of one step's columns to all before them and, causally, to each other."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, link: Tensor, layer: Any, mask: Tensor | None,
        scale: float, dropout: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, heads, new, size = query.shape
        kv = key.shape[1]
        group = heads // kv
        cache = layer.cache
        if not layer.rows:
            layer.keep(cache.steps * group * new)
        start, end = layer.width, layer.width + new
        rows = slice(layer.rows, layer.rows + group * new)
        layer.rows = rows.stop
        if not cache.replace:
            layer.width = end
        layer.key_store[:, :, start:end] = key
        layer.value_store[:, :, start:end] = value
        keys, values = _flat(layer.key_store, end), _flat(layer.value_store, end)
        q = query.reshape(batch * kv, group * new, size)
        scores = torch.bmm(q, keys.transpose(1, 2)).mul_(scale)
        if mask is not None:
            scores.view(batch, heads, new, end).add_(mask)
        probs = functional.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32))
        probs = probs.to(scores.dtype)
        ctx.drop = None
        if dropout:
            ctx.drop = functional.dropout(torch.ones_like(probs), dropout)
            ctx.plain = probs
            probs = probs * ctx.drop
        out = torch.bmm(probs, values)
        layer.queries[:, rows] = q
        layer.probs[:, rows, :end] = probs
        ctx.layer, ctx.rows, ctx.columns, ctx.scale = layer, rows, slice(start, end), scale
        if cache.replace:
            ctx.save_for_backward(key, value)
        ctx.shape = query.shape
        ctx.set_materialize_grads(False)
        out = out.view(batch, heads, new, -1).transpose(1, 2)
        return out, link.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_out, link = grads
        layer, rows, columns = ctx.layer, ctx.rows, ctx.columns
        replace = layer.cache.replace
        end = columns.stop
        if link is None:  # no later piece has a part in this backward pass
            layer.top, layer.tail = rows.stop, None
        if replace:  # what this sweep saw stood where the next one wrote
            key, value = ctx.saved_tensors
            layer.key_store[:, :, columns] = key
            layer.value_store[:, :, columns] = value
        probs, d_scores = layer.probs[:, rows, :end], layer.d_scores[:, rows, :end]
        batch, heads, new, size = ctx.shape
        if d_out is None:
            layer.d_out[:, rows] = 0
            d_scores.zero_()
            d_query = None
        else:
            d_out = d_out.transpose(1, 2).reshape(probs.shape[0], rows.stop - rows.start, -1)
            layer.d_out[:, rows] = d_out
            d_probs = torch.bmm(d_out, _flat(layer.value_store, end).transpose(1, 2))
            if ctx.drop is not None:
                d_probs *= ctx.drop
                probs = ctx.plain
            torch.sub(d_probs, (d_probs * probs).sum(-1, keepdim=True), out=d_probs)
            torch.mul(d_probs.mul_(probs), ctx.scale, out=d_scores)
            d_query = torch.bmm(d_scores, _flat(layer.key_store, end)).view(batch, heads, new, size)
        d_key, d_value = _owed(layer, columns, rows if replace else slice(rows.start, layer.top), not replace)
        return d_query, d_key, d_value, d_key.new_empty(0), None, None, None, None


class _Rest(torch.autograd.Function):
    """All columns before the last pass joined with its own; backwards, the gradient of the former is left to
    them."""

    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, link: Tensor, layer: _Layer) -> tuple[Tensor, Tensor]:
        ctx.layer, ctx.before = layer, layer.width
        ctx.rows = layer.rows
        return (
            torch.cat([layer.key_store[:, :, : layer.width], key], 2),
            torch.cat([layer.value_store[:, :, : layer.width], value], 2),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_keys, d_values = grads
        layer, before = ctx.layer, ctx.before
        layer.top, layer.tail = ctx.rows, (d_keys, d_values)
        return d_keys[:, :, before:], d_values[:, :, before:], d_keys.new_empty(0), None


def _flat(store: Tensor, end: int) -> Tensor:
    """(B, heads, columns, size) -> (B · heads, end, size), no copy."""
    return store[:, :, :end].flatten(0, 1)


def _owed(layer: Any, columns: slice, rows: slice, tail: bool = True) -> tuple[Tensor, Tensor]:
    """Gradients of keys and values in `columns` from the steps' `rows`, and from the rest."""
    b, h = layer.key_store.shape[:2]
    if rows.stop > rows.start:
        d_key = layer.d_scores[:, rows, columns].transpose(1, 2) @ layer.queries[:, rows]
        d_value = layer.probs[:, rows, columns].transpose(1, 2) @ layer.d_out[:, rows]
        d_key, d_value = d_key.unflatten(0, (b, h)), d_value.unflatten(0, (b, h))
        if tail and layer.tail is not None:
            d_key += layer.tail[0][:, :, columns]
            d_value += layer.tail[1][:, :, columns]
        return d_key, d_value
    d_keys, d_values = layer.tail
    return d_keys[:, :, columns], d_values[:, :, columns]
