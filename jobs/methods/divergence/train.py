"""`method: divergence`: an encoder learns to say whether two continuations come to the same answer."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from jobs.grade.samples import Row
from jobs.methods.divergence import rows
from jobs.methods.divergence.measure import data, evaluate
from jobs.methods.divergence.objective import JudgeObjective, JudgeRow
from jobs.methods.preparing import Preparing
from jobs.methods.protocol import Preempted, StageContext
from jobs.models.divergence import DivergenceConfig, DivergenceJudge, DivergenceModel, Encoding
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
        tokenizer = self.preparing.first(lambda: load_tokenizer(ctx.stage, ctx.source, lambda: _texts(found)))
        model = self._model(tokenizer)
        encoding = Encoding(tokenizer, settings.separator, model.config.max_len)
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
        return {**numbers, "held_out": self._measured(test), "labels": _labels(train)}

    def _measured(self, test: list[Row]) -> dict[str, Any]:
        """By process 0, for which the others wait. Raises Preempted on all."""
        told, stopped = {}, None
        if self.ctx.world.main:
            judge = DivergenceJudge.load(self.ctx.paths.model, device=distributed.device(self.ctx.world))
            try:
                told = evaluate(self.ctx, judge, self.preparing.some(test), batch=_EVAL_BATCH)
            except Preempted as error:
                stopped = str(error)
        if stopped := distributed.broadcast(stopped):
            raise Preempted(stopped)
        return told

    def _split(self, found: list[Row]) -> tuple[list[Row], list[Row]]:
        """Rows to train on, and those of held-out problems."""
        seed, settings = self.ctx.experiment.seed, self.settings
        parts: dict[bool, list[Row]] = {True: [], False: []}
        for row in found:
            parts[rows.held_out(row, settings.held_out, seed)].append(row)
        test, train = parts[True], parts[False]
        if not test or not train:
            problems = len({r["problem"] for r in found})
            raise JobUserError(
                f"of {problems} problems {'none is' if not test else 'all are'} held out "
                f"(held_out: {settings.held_out:g})",
                hint="collect more problems, or change divergence.held_out",
                where=f"{self.ctx.stage.name}.divergence.held_out",
            )
        return (mixed(train, seed) if settings.mix == "equal" else train), test

    def _model(self, tokenizer: PreTrainedTokenizerBase) -> DivergenceModel:
        settings, seed = self.settings, self.ctx.experiment.seed
        encoder = self.preparing.model(tokenizer, head=False)
        config = DivergenceConfig(
            encoder.config.to_dict(),
            pooling=settings.pooling,
            norm=settings.norm,
            dropout=settings.dropout,
            separator=settings.separator,
            max_len=self.preparing.max_len(encoder),
            held_out=settings.held_out,
            split_seed=seed,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the same head on every rank
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


def _labels(found: Sequence[Row]) -> dict[str, int]:
    return dict(Counter(str(row["label"]) for row in found))
