"""The input embedding of a model that vLLM has loaded, whole or in pieces over its ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jobs.latent.inputs import soft
from jobs.latent.step import Mix


def table(model: Any) -> tuple[Tensor, Mix]:
    """The embedding (V, d) of this rank, and how its rows are mixed. Raises ValueError for a model that has
    none that vLLM would share out."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    found = [
        module
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found)} input embeddings: it takes no latent steps"
        )
    own: Any = found[0]
    return own.weight, soft if own.tp_size == 1 else _Sharded(own)


class _Sharded:
    """Each rank mixes the rows that it holds; the sum over all ranks, in float32, is the mixture."""

    def __init__(self, embedding: Any) -> None:
        from vllm.distributed import tensor_model_parallel_all_reduce

        shard = embedding.shard_indices
        self.start, self.stop = shard.org_vocab_start_index, shard.org_vocab_end_index
        self.reduce = tensor_model_parallel_all_reduce

    def __call__(self, weights: Tensor, ids: Tensor, embedding: Tensor) -> Tensor:
        """(N, d), as `jobs.latent.inputs.soft` of the whole embedding."""
        here = (ids >= self.start) & (ids < self.stop)
        local = (ids - self.start).clamp(0, max(0, self.stop - self.start - 1))
        rows = embedding[local].float()
        part = torch.bmm(weights.float().masked_fill(~here, 0.0)[:, None], rows).squeeze(1)
        return self.reduce(part).to(embedding.dtype)
