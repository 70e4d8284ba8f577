"""`method: sft`: supervised fine-tuning on reference reasoning, or on answers alone."""

from __future__ import annotations

from array import array
from itertools import chain
from typing import Any, cast

from jobs.data import Loaded
from jobs.data.render import Renderer
from jobs.methods.preparing import Preparing, check_known
from jobs.methods.protocol import StageContext
from jobs.runtime import distributed
from jobs.train.loop import Trainer
from jobs.train.packing import check_packing
from jobs.train.text import TextObjective, TextRow
from latentctl.spec.methods import SftSettings


class Sft:
    """The loss falls on the response only."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.preparing = Preparing(ctx)
        settings = ctx.stage.settings
        assert isinstance(settings, SftSettings)
        self.settings = settings

    def run(self) -> dict[str, Any]:
        ctx, stage, preparing = self.ctx, self.ctx.stage, self.preparing
        distributed.init(ctx.world, deepspeed=True)
        data, held_out = preparing.problems()
        tokenizer = preparing.tokenizer((data, held_out), self.settings.target, self.settings.steps)
        model = preparing.model(tokenizer)
        if self.settings.packing:
            check_packing(model)
        max_len = preparing.max_len(model)
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
            latent=lambda: {
                "prompt": preparing.prompt.model_dump(mode="json"),
                "stage": stage.name,
                "method": stage.method,
            },
        )
        return {**trainer.run(), "dropped": dropped, "bad_rows": len(data.bad_rows)}

    def _rows(self, tokenizer: Any, data: Loaded, max_len: int) -> tuple[list[TextRow], int]:
        """Rows that fit into `max_len` tokens, and how many were left out."""
        renderer = Renderer(tokenizer, self.preparing.prompt, data.instruction)
        examples = self.preparing.some(data.examples)

        def make(i: int) -> TextRow:
            rendered = renderer.row(examples[i], self.settings.target, self.settings.steps)
            row = TextRow(array("i", rendered.prompt_ids), array("i", rendered.target_ids))
            ids = chain(row.prompt, row.response)
            check_known(tokenizer, examples[i].id, ids, rendered.prompt + rendered.target)
            return row

        def cut(row: TextRow) -> TextRow | None:
            response = row.response[: max(0, max_len - len(row.prompt))]
            return TextRow(row.prompt, response) if response else None

        return self.preparing.fitting(data, make, len(examples), max_len=max_len, cut=cut)
