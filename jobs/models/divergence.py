"""The divergence model (document 000): an encoder with a head that gives the probability that two
continuations of a chain come to the same answer.

Text goes in, tokenized by the encoder's own tokenizer: what generated it does not matter. Where a row is
longer than the model was trained on, the far end of the text before is cut, then the far ends of both
continuations; the place where they part stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from jobs.models.source import check_weights, explain
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import JUDGE

_BATCH_TOKENS = 16384


class Triple(NamedTuple):
    """What a judge is shown."""

    before: str
    one: str
    other: str


class DivergenceConfig(PreTrainedConfig):
    """The encoder's config inside, the head's settings, and what it was trained on."""

    model_type = JUDGE

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        *,
        pooling: str = "last",
        norm: str = "batch",
        dropout: float = 0.1,
        separator: str = " ## ",
        max_len: int = 512,
        held_out: float = 0.05,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder or {}
        self.pooling, self.norm, self.dropout = pooling, norm, dropout
        self.separator, self.max_len = separator, max_len
        self.held_out, self.split_seed = held_out, split_seed

    def encoder_config(self) -> PreTrainedConfig:
        said = dict(self.encoder)
        return AutoConfig.for_model(said.pop("model_type"), **said)


AutoConfig.register(JUDGE, DivergenceConfig, exist_ok=True)  # its tokenizer asks for it


class DivergenceModel(PreTrainedModel):
    """(B, L) token ids -> (B,) logits of the same answer: pooled hidden state, norm, dropout, linear."""

    config_class = DivergenceConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: DivergenceConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder_config()) if encoder is None else encoder
        width = int(self.encoder.config.hidden_size)
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.norm = norms[config.norm](width) if config.norm in norms else nn.Identity()
        self.drop = nn.Dropout(config.dropout)
        self.linear = nn.Linear(width, 1)
        self.post_init()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`ids`, `mask` (B, L), padded on the right -> (B,) fp32 logits."""
        found = self.encoder(input_ids=ids, attention_mask=mask, **self._no_cache)
        pooled = self._pooled(found.last_hidden_state, mask)
        return self.linear(self.drop(self._normed(pooled))).squeeze(-1).float()

    @cached_property
    def _no_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if getattr(self.encoder.config, "use_cache", None) is not None else {}

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.config.pooling == "first":
            return hidden[:, 0]
        if self.config.pooling == "mean":
            weights = mask.to(hidden.dtype)[..., None]
            return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        last = mask.sum(1).clamp(min=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def _normed(self, pooled: Tensor) -> Tensor:
        norm = self.norm
        if isinstance(norm, nn.BatchNorm1d) and norm.training and len(pooled) < 2:
            # One row has no deviation: it is measured by those before it.
            return functional.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        return norm(pooled)

    def _init_weights(self, module: nn.Module) -> None:
        """Of the head alone: an encoder comes with weights of its own."""
        if module is self.linear:
            nn.init.normal_(self.linear.weight, std=0.02)
            nn.init.zeros_(self.linear.bias)


class Encoding:
    """How a triple becomes token ids of the encoder's own tokenizer."""

    def __init__(self, tokenizer: Any, separator: str, max_len: int) -> None:
        self.tokenizer, self.max_len = tokenizer, max_len
        self.separator = self._plain([separator])[0]
        plain, dressed = self._plain(["a"])[0], list(tokenizer("a")["input_ids"])
        at = next((i for i in range(len(dressed)) if dressed[i : i + len(plain)] == plain), 0)
        self.head, self.tail = dressed[:at], dressed[at + len(plain) :]
        """Special tokens around a text, such as [CLS] and [SEP], or an end that pools."""
        if self.room < 4:
            raise JobUserError(f"{max_len} tokens are no room for two continuations", where="train.max_len")

    @property
    def room(self) -> int:
        """Tokens of text."""
        return self.max_len - len(self.head) - len(self.tail) - 2 * len(self.separator)

    def rows(self, triples: Sequence[Triple]) -> list[list[int]]:
        """Token ids, at most `max_len` each."""
        texts = [text for triple in triples for text in triple]
        ids = self._plain(texts) if texts else []
        return [self._row(*ids[i : i + 3]) for i in range(0, len(ids), 3)]

    def _row(self, before: list[int], one: list[int], other: list[int]) -> list[int]:
        one, other = _cut(one, other, self.room)
        left = self.room - len(one) - len(other)
        before = before[max(0, len(before) - left) :] if left else []
        middle = [*before, *self.separator, *one, *self.separator, *other]
        return [*self.head, *middle, *self.tail]

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _cut(one: list[int], other: list[int], room: int) -> tuple[list[int], list[int]]:
    """The first tokens of both, the longer one cut first."""
    keep = min(len(one), max(room - len(other), (room + 1) // 2))
    return one[:keep], other[: room - keep]


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(B, L) ids and mask, padded on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


class DivergenceJudge:
    """A trained model, ready to be asked."""

    def __init__(self, model: DivergenceModel, tokenizer: Any) -> None:
        self.model = model.eval()
        self.config = cast(DivergenceConfig, model.config)
        self.encoding = Encoding(tokenizer, self.config.separator, self.config.max_len)

    @staticmethod
    def load(folder: Path | str, *, device: torch.device | str = "cpu") -> DivergenceJudge:
        """What a training of the method `divergence` left. Raises JobUserError."""
        said = try_read_json(Path(folder) / "config.json") or {}
        if said.get("model_type") != JUDGE:
            raise JobUserError(
                f"{folder} holds no divergence model", hint="train one with method: divergence"
            )
        check_weights(Path(folder))
        try:
            model = DivergenceModel.from_pretrained(folder, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise explain(str(folder), "divergence model", error) from error
        return DivergenceJudge(model.to(device), tokenizer)  # type: ignore[arg-type]

    def score(self, triples: Sequence[tuple[str, str, str]]) -> list[float]:
        """For each the probability that both continuations come to the same answer."""
        rows = self.encoding.rows([Triple(*t) for t in triples])
        found = [0.0] * len(rows)
        for places in _batches(rows):
            ids, mask = padded([rows[i] for i in places], self.encoding.tokenizer.pad_token_id or 0)
            with torch.inference_mode():
                logits = self.model(ids.to(self.model.device), mask.to(self.model.device))
            for i, value in zip(places, logits.sigmoid().tolist(), strict=True):
                found[i] = value
        return found


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of rows of about one length."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if batch and (len(batch) + 1) * len(rows[i]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
