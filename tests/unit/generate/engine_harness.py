"""Small models, a byte tokenizer and a scripted stand-in for a model's forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.generate.protocol import Request, Sample
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.spec.sampling import SamplingSpec

VOCAB = 97
EOS = "<eos>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, then `<eos>` (256) and a special marker `</think>` is NOT a token: it takes 8."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=EOS)


def tiny(family: str, *, scale: float = 3.0) -> Any:
    """A random model of two layers; weights scaled up so that its choices are clear."""
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    slide: dict[str, Any] = {"sliding_window": 8}
    model: Any = {
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=256,
                eos_token_id=None,
                bos_token_id=None,
            )
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**common, head_dim=8)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common)),
        "mistral-sliding": lambda: MistralForCausalLM(MistralConfig(**common, **slide)),
        "qwen2-mixed": lambda: Qwen2ForCausalLM(
            Qwen2Config(**common, **slide, use_sliding_window=True, max_window_layers=1)
        ),
    }[family]()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return model.eval()


class NumberTokenizer:
    """Ids as letters; enough for models whose text means nothing."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(0x4E00 + i) for i in ids)

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(c) - 0x4E00 for c in text]


class Scripted:
    """In place of `Runner`: the next token is a function of the whole history, and slots are kept as lists.

    It fails where the engine feeds a row at the wrong position, reads a slot that holds something else, or
    asks for more room than it may. `bad` histories get logits that are not finite.
    """

    def __init__(
        self,
        follow: Callable[[list[int]], int],
        *,
        vocab: int = 257,
        max_positions: int | None = None,
        bad: Callable[[list[int]], bool] = lambda history: False,
        memory: int | None = None,
    ) -> None:
        self.follow, self.vocab, self.max_positions, self.bad = follow, vocab, max_positions, bad
        self.memory = memory
        self.config = SimpleNamespace(vocab_size=vocab)
        self.device = torch.device("cpu")
        self.model = None
        self.slots: dict[int, list[int]] = {}
        self.cache: Any = self
        self.prefilled: list[tuple[int, ...]] = []
        self.steps: list[int] = []
        self.rooms: list[tuple[int, int]] = []

    def ensure(self, rows: int, columns: int, *, limit: int, budget: int) -> None:
        assert columns <= limit
        assert rows * limit <= budget or rows == 1
        self.rooms.append((rows, limit))

    def wipe(self, slot: int) -> None:
        self.slots[slot] = []

    def copy(self, source: int, target: int, length: int) -> None:
        assert length <= len(self.slots[source])
        self.slots[target] = self.slots[source][:length]

    def reset(self) -> None:
        self.slots = {}

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[Sequence[int]]) -> torch.Tensor:
        for prompt, where in zip(prompts, slots, strict=True):
            self.prefilled.append(tuple(prompt))
            for slot in where:
                self.slots[slot] = list(prompt)
        return self._logits([list(p) for p in prompts])

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        if self.memory is not None and len(tokens) > self.memory:
            raise torch.OutOfMemoryError("no more memory")
        self.steps.append(len(tokens))
        for row, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            assert len(self.slots[row]) == position
            self.slots[row].append(token)
        return self._logits([self.slots[row] for row in range(len(tokens))])

    def _logits(self, histories: list[list[int]]) -> torch.Tensor:
        out = torch.zeros(len(histories), self.vocab)
        for row, history in enumerate(histories):
            out[row, self.follow(history)] = 9.0
            if self.bad(history):
                out[row] = torch.nan
        return out


def scripted_engine(
    runner: Scripted, tokenizer: Any, *, eos: set[int] | None = None, **kw: Any
) -> TransformersEngine:
    engine = TransformersEngine.__new__(TransformersEngine)
    engine.runner = runner  # type: ignore[assignment]
    engine.tokenizer = tokenizer
    engine.max_batch = kw.get("max_batch", 4)
    engine.max_batch_tokens = kw.get("max_batch_tokens", 10_000)
    engine.on_step = kw.get("on_step")
    engine.eos = frozenset(eos or set())
    engine.tokens = 0
    return engine


def ask(
    id: str, ids: list[int], *, index: int = 0, markers: tuple[str, str] | None = None, **sampling: Any
) -> Request:
    return Request(id, index, ids, SamplingSpec(**sampling), markers)


def by_key(samples: Any) -> dict[tuple[str, int], Sample]:
    found = {}
    for sample in samples:
        assert (sample.id, sample.index) not in found
        found[sample.id, sample.index] = sample
    return found
