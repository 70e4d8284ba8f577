"""`method: divergence`: an encoder learns to say whether two continuations come to the same answer."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from jobs.grade.samples import Row
from jobs.methods.divergence import rows
from jobs.methods.divergence.measure import data, evaluate
from jobs.methods.divergence.objective import JudgeObjective, JudgeRow
from jobs.methods.preparing import Preparing
from jobs.methods.protocol import StageContext
from jobs.models.divergence import DivergenceConfig, DivergenceJudge, DivergenceModel, Encoding
from jobs.models.load import load_encoder
from jobs.models.tokenizer import load_tokenizer
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from jobs.train.loop import Trainer
from latentctl.spec.divergence import DivergenceSettings

_EVAL_BATCH = 64


class Divergence:
    """One stage in one process."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.settings = cast(DivergenceSettings, ctx.stage.settings)
        self.preparing = Preparing(ctx)

    def run(self) -> dict[str, Any]:
        """Train, then measure the exported model on the problems that were held out. Raises Preempted,
        JobUserError."""
        ctx, settings = self.ctx, self.settings
        distributed.init(ctx.world, deepspeed=True)
        found = data(ctx, settings.data)
        train, test = self._split(found)
        tokenizer = load_tokenizer(ctx.stage, ctx.source, lambda: _texts(found))
        model = self._model(len(tokenizer))
        max_len = min(ctx.stage.train.max_len, _positions(model.encoder) or 1 << 30)
        model.config.max_len = max_len
        encoding = Encoding(tokenizer, settings.separator, max_len)
        pad = cast(int, tokenizer.pad_token_id)
        trainer = Trainer(
            ctx,
            model=model,
            tokenizer=tokenizer,
            objective=JudgeObjective(settings.loss, pad),
            rows=self.preparing.some(_encoded(encoding, train)),
            validation=self.preparing.some(_encoded(encoding, test)),
            latent=lambda: {"stage": ctx.stage.name, "method": ctx.stage.method},
        )
        numbers = trainer.run()
        del trainer, model
        told = self._measured(test)
        distributed.barrier()
        return {**numbers, "held_out": told, "labels": dict(Counter(str(r["label"]) for r in train))}

    def _measured(self, test: Sequence[Row]) -> dict[str, Any]:
        if not self.ctx.world.main:
            return {}
        judge = DivergenceJudge.load(self.ctx.paths.model, device=distributed.device(self.ctx.world))
        return evaluate(self.ctx, judge, self.preparing.some(list(test)), batch=_EVAL_BATCH)

    def _split(self, found: list[Row]) -> tuple[list[Row], list[Row]]:
        """Rows to train on, and those of held-out problems."""
        seed, settings = self.ctx.experiment.seed, self.settings
        test = [r for r in found if rows.held_out(r, settings.held_out, seed)]
        train = [r for r in found if not rows.held_out(r, settings.held_out, seed)]
        if not test or not train:
            problems = len({r["problem"] for r in found})
            raise JobUserError(
                f"of {problems} problems {'none is' if not test else 'all are'} held out "
                f"(held_out: {settings.held_out:g})",
                hint="collect more problems, or change divergence.held_out",
                where=f"{self.ctx.stage.name}.divergence.held_out",
            )
        return (mixed(train, seed) if settings.mix == "equal" else train), test

    def _model(self, vocab_size: int) -> DivergenceModel:
        ctx, settings = self.ctx, self.settings
        encoder = load_encoder(
            ctx.stage,
            ctx.source,
            precision=ctx.stage.train.precision,
            device="cpu" if ctx.stage.train.zero_stage == 3 else distributed.device(ctx.world),
            vocab_size=vocab_size,
        )
        config = DivergenceConfig(
            encoder.config.to_dict(),
            pooling=settings.pooling,
            norm=settings.norm,
            dropout=settings.dropout,
            separator=settings.separator,
            held_out=settings.held_out,
            split_seed=ctx.experiment.seed,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.experiment.seed)  # the same head on every rank
            model = DivergenceModel(config, encoder)
        return model.to(device=encoder.device, dtype=encoder.dtype)  # type: ignore[arg-type]


def mixed(found: Sequence[Row], seed: int) -> list[Row]:
    """Equally many rows of each source: as many as the smallest has, drawn by the seed."""
    names = list(dict.fromkeys(r["source"] for r in found))
    groups = [[r for r in found if r["source"] == name] for name in names]
    least = min(map(len, groups))
    return [row for g in groups for row in random.Random(seed).sample(g, least)]


def _encoded(encoding: Encoding, found: Sequence[Row]) -> list[JudgeRow]:
    ids = encoding.rows([rows.triple(r) for r in found])
    return [JudgeRow(array("i", i), float(r["label"])) for i, r in zip(ids, found, strict=True)]


def _texts(found: Sequence[Row]) -> list[str]:
    return [" ".join((r["before"], r["one"], r["other"])) for r in found]


def _positions(encoder: PreTrainedModel) -> int | None:
    return getattr(encoder.config, "max_position_embeddings", None)
