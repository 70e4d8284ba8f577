"""`method: sft`: supervised fine-tuning on reference reasoning, or on answers alone."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar, cast

from transformers import PreTrainedTokenizerBase

from jobs.data import Example, Loaded, load
from jobs.data.render import Renderer
from jobs.methods.protocol import StageContext
from jobs.models.load import load_model
from jobs.models.tokenizer import load_tokenizer, unknown_text
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from jobs.train.loop import DEBUG_ROWS, Trainer
from jobs.train.packing import check_packing
from jobs.train.text import TextObjective, TextRow
from latentctl.spec.dataset import DatasetSpec
from latentctl.spec.methods import SftSettings
from latentctl.spec.prompt import PromptSpec

T = TypeVar("T")
_REPORT_ROWS = 1000


class Sft:
    """The loss falls on the response only."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.prompt = ctx.stage.prompt or PromptSpec()
        settings = ctx.stage.settings
        assert isinstance(settings, SftSettings)
        self.settings = settings

    def run(self) -> dict[str, Any]:
        ctx, stage = self.ctx, self.ctx.stage
        distributed.init(ctx.world, deepspeed=True)
        data = self._load(stage.dataset)
        held_out = self._load(stage.validation) if stage.validation else None
        sets = [d for d in (data, held_out) if d]
        tokenizer = self._first(lambda: load_tokenizer(stage, ctx.source, lambda: self._texts(sets)))
        model = self._first(
            lambda: load_model(
                stage,
                ctx.source,
                precision=stage.train.precision,
                device="cpu" if stage.train.zero_stage == 3 else distributed.device(ctx.world),
                vocab_size=len(tokenizer),
            )
        )
        if self.settings.packing:
            check_packing(model)
        max_len = min(stage.train.max_len, getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        rows, dropped = self._rows(tokenizer, data, max_len)
        validation = self._rows(tokenizer, held_out, max_len) if held_out else None
        trainer = Trainer(
            ctx,
            model=model,
            tokenizer=tokenizer,
            objective=TextObjective(
                pad=cast(int, tokenizer.pad_token_id), pack_to=max_len if self.settings.packing else None
            ),
            rows=rows,
            validation=validation[0] if validation else None,
            latent={
                "prompt": self.prompt.model_dump(mode="json"),
                "stage": stage.name,
                "method": stage.method,
            },
        )
        return {**trainer.run(), "dropped": dropped, "bad_rows": len(data.bad_rows)}

    def _load(self, spec: DatasetSpec) -> Loaded:
        plugins = self.ctx.experiment.plugins
        return self._first(lambda: load(spec, data_dir=self.ctx.data_dir, plugins=plugins))

    def _first(self, make: Callable[[], T]) -> T:
        """Rank 0 before the others: what it downloads or caches is made once."""
        if self.ctx.world.main:
            made = make()
            distributed.barrier()
            return made
        distributed.barrier()
        return make()

    def _examples(self, data: Loaded) -> list[Example]:
        return data.examples[:DEBUG_ROWS] if self.ctx.debug else data.examples

    def _texts(self, sets: Iterable[Loaded]) -> Iterator[str]:
        """What a tokenizer is trained on: all that this stage will see, with and without reasoning."""
        renderers = [(d, Renderer(None, self.prompt, d.instruction)) for d in sets]
        target, steps = self.settings.target, self.settings.steps
        return chain.from_iterable(r.texts(self._examples(d), target, steps) for d, r in renderers)

    def _rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Loaded, max_len: int
    ) -> tuple[list[TextRow], int]:
        """Rows that fit into `max_len` tokens, and how many were left out."""
        renderer = Renderer(tokenizer, self.prompt, data.instruction)
        rows: list[TextRow] = []
        lengths: list[int] = []
        examples = self._examples(data)
        for i, example in enumerate(examples):
            if i % _REPORT_ROWS == 0:
                self.ctx.report.progress(i, len(examples), unit="row")
            rendered = renderer.row(example, self.settings.target, self.settings.steps)
            row = TextRow(array("i", rendered.prompt_ids), array("i", rendered.target_ids))
            if tokenizer.unk_token_id in row.prompt or tokenizer.unk_token_id in row.response:
                _check_known(tokenizer, example.id, rendered.prompt + rendered.target)
            lengths.append(row.length)
            if row.length > max_len and self.ctx.stage.train.overlong == "truncate":
                row = TextRow(row.prompt[:max_len], row.response[: max(0, max_len - len(row.prompt))])
            if row.length <= max_len and row.response:
                rows.append(row)
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


def _check_known(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> None:
    if (piece := unknown_text(tokenizer, text)) is not None:
        raise JobUserError(
            f"the tokenizer does not know {piece!r}, which stands in row {name}",
            hint="use a tokenizer of kind bpe or byte, or one trained on more text",
        )
