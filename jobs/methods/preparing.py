"""What every method that trains on text does before its loop: problems, weights, rows that fit."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jobs.data import Loaded, load
from jobs.data.render import Renderer, Target
from jobs.methods.protocol import StageContext
from jobs.models.load import load_model
from jobs.models.tokenizer import load_tokenizer, unknown_text
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from jobs.train.loop import DEBUG_ROWS
from latentctl.spec.dataset import DatasetSpec
from latentctl.spec.prompt import PromptSpec

T = TypeVar("T")
_REPORT_ROWS = 1000


class HasLength(Protocol):
    """A row that knows how many positions it takes."""

    @property
    def length(self) -> int: ...


R = TypeVar("R", bound=HasLength)


class Preparing:
    """Of one stage, in one process of its job."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.prompt = ctx.stage.prompt or PromptSpec()

    def problems(self) -> tuple[Loaded, Loaded | None]:
        """The training set and the validation set. Raises JobUserError."""
        stage = self.ctx.stage
        return self._load(stage.dataset), self._load(stage.validation) if stage.validation else None

    def tokenizer(self, sets: Iterable[Loaded | None], target: Target, steps: str) -> PreTrainedTokenizerBase:
        """The stage's; one that is trained sees all of the sets, in every stage. Raises JobUserError."""
        held = [d for d in sets if d]

        def texts() -> Iterator[str]:
            renderers = [(d, Renderer(None, self.prompt, d.instruction)) for d in held]
            return chain.from_iterable(r.texts(d.examples, target, steps) for d, r in renderers)

        return self.first(lambda: load_tokenizer(self.ctx.stage, self.ctx.source, texts))

    def model(self, tokenizer: PreTrainedTokenizerBase, *, head: bool = True) -> PreTrainedModel:
        """The stage's weights, whole; under ZeRO-3 on the CPU, from where they are shared out. `head` as in
        `load_model`."""
        ctx, stage = self.ctx, self.ctx.stage
        return self.first(
            lambda: load_model(
                stage,
                ctx.source,
                precision=stage.train.precision,
                device="cpu" if stage.train.zero_stage == 3 else distributed.device(ctx.world),
                vocab_size=len(tokenizer),
                head=head,
            )
        )

    def max_len(self, model: PreTrainedModel) -> int:
        """Longest row in tokens: what the recipe and the model's positions allow."""
        return min(
            self.ctx.stage.train.max_len, getattr(model.config, "max_position_embeddings", None) or 1 << 30
        )

    def some(self, examples: list[T]) -> list[T]:
        """All of them; `submit --debug`: the first few."""
        return examples[:DEBUG_ROWS] if self.ctx.debug else examples

    def fitting(
        self,
        data: Loaded,
        make: Callable[[int], R],
        count: int,
        *,
        max_len: int,
        cut: Callable[[R], R | None],
    ) -> tuple[list[R], int]:
        """Rows `make(0)` .. `make(count - 1)` of at most `max_len` tokens, and how many were left out.

        Longer ones go through `cut` with `overlong: truncate`; None leaves one out. Raises JobUserError where
        no row fits.
        """
        rows: list[R] = []
        lengths: list[int] = []
        for i in range(count):
            if i % _REPORT_ROWS == 0:
                self.ctx.report.progress(i, count, unit="row")
            row = make(i)
            lengths.append(row.length)
            kept = row if row.length <= max_len else None
            if kept is None and self.ctx.stage.train.overlong == "truncate":
                kept = cut(row)
            if kept is not None:
                rows.append(kept)
        dropped = len(lengths) - len(rows)
        if not rows:
            raise JobUserError(
                f"every row of {data.name} is longer than max_len ({max_len} tokens; "
                f"the median row has {statistics.median(lengths):.0f})",
                hint="raise train.max_len (and model.init.max_len for a random model)",
            )
        if dropped:
            self.ctx.report.note(
                f"{dropped} of {len(lengths)} rows of {data.name} are longer than {max_len} tokens"
            )
        return rows, dropped

    def _load(self, spec: DatasetSpec) -> Loaded:
        plugins = self.ctx.experiment.plugins
        return self.first(lambda: load(spec, data_dir=self.ctx.data_dir, plugins=plugins))

    def first(self, make: Callable[[], T]) -> T:
        """Rank 0 before the others: what it downloads or caches is made once."""
        if self.ctx.world.main:
            made = make()
            distributed.barrier()
            return made
        distributed.barrier()
        return make()


def check_known(tokenizer: Any, name: str, ids: Iterable[int], text: str) -> None:
    """Raises JobUserError where the row `name`, with its token ids and its text, has a piece that the
    tokenizer does not know."""
    if tokenizer.unk_token_id not in ids:
        return
    if (piece := unknown_text(tokenizer, text)) is not None:
        raise JobUserError(
            f"the tokenizer does not know {piece!r}, which stands in row {name}",
            hint="use a tokenizer of kind bpe or byte, or one trained on more text",
        )
