"""One curriculum stage of Coconut in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jobs.data import Example, Loaded
from jobs.data.curriculum import Curriculum, difficulty_counts
from jobs.data.render import Renderer
from jobs.methods.coconut.layout import Layout, Row, Span, frame_of, pieces
from jobs.methods.coconut.objective import CoconutObjective
from jobs.methods.coconut.settings import settle
from jobs.methods.preparing import Preparing, check_known
from jobs.methods.protocol import StageContext
from jobs.models.markers import add_markers
from jobs.models.parts import parts
from jobs.models.plain_export import gathered
from jobs.models.unroll import check_training
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from jobs.train.loop import Trainer
from jobs.train.order import mix
from latentctl.spec.latent import LATENT_TOKEN


class Coconut:
    """Trains `coconut.stage`; the chain of stages is made before, in the spec."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.preparing = Preparing(ctx)
        self.settled = settle(ctx)
        self.settings = self.settled.settings
        self.seed = mix(ctx.experiment.seed, ctx.stage.name, "coconut")

    def run(self) -> dict[str, Any]:
        ctx, preparing, settled = self.ctx, self.preparing, self.settled
        distributed.init(ctx.world, deepspeed=True)
        data, held_out = preparing.problems()
        target = "answer" if preparing.prompt.form == "answer" else "cot"
        tokenizer = preparing.tokenizer((data, held_out), target, self.settings.steps)
        model = preparing.model(tokenizer)
        span = self._span(model, tokenizer)
        taken = parts(model)
        if span is not None and settled.input.kind != "pause":
            check_training(taken)
        max_len = preparing.max_len(model)
        rows = Rows(self, tokenizer, span, max_len)
        train, dropped = rows.of(data, training=True)
        validation = rows.of(held_out, training=False)[0] if held_out else None
        apart = ctx.stage.train.zero_stage == 3 and ctx.world.size > 1
        objective = CoconutObjective(
            settled.curriculum,
            rows.layout,
            settled.input,
            pad=cast(int, tokenizer.pad_token_id),
            max_len=max_len,
            seed=self.seed,
            learned=settled.learned,
            longest=max(row.most for row in [*train, *(validation or ())]) if apart else None,
        )
        trainer = Trainer(
            ctx,
            model=model,
            tokenizer=tokenizer,
            objective=objective,
            rows=train,
            validation=validation,
            latent=lambda: {
                **settled.latent_json(_weights(objective)),
                "prompt": preparing.prompt.model_dump(mode="json"),
                "stage": ctx.stage.name,
                "method": ctx.stage.method,
            },
            reset=self.settings.reset_optimizer,
        )
        facts = {"coconut_stage": settled.curriculum.stage, "latents_max": max(row.most for row in train)}
        return {**trainer.run(), **facts, "dropped": dropped, "bad_rows": len(data.bad_rows)}

    def _span(self, model: Any, tokenizer: Any) -> Span | None:
        """Tokens around and at latent positions, in tokenizer and model; they are there already in a later
        stage."""
        markers = self.settled.markers
        if markers is None:
            return None
        texts = (markers.start, markers.end, LATENT_TOKEN)
        found = add_markers(model, tokenizer, texts, self.settings.marker_init)
        return Span(found[markers.start], found[markers.end], found[LATENT_TOKEN][0])


class Rows:
    """From examples to rows."""

    def __init__(self, method: Coconut, tokenizer: Any, span: Span | None, max_len: int) -> None:
        self.method, self.tokenizer, self.max_len = method, tokenizer, max_len
        self.curriculum: Curriculum = method.settled.curriculum
        self.markers = method.settled.markers
        prompt = method.preparing.prompt
        bare = Renderer(tokenizer, prompt)
        self.layout = Layout(
            frame_of(bare, self.markers),
            span,
            dynamic=method.settings.dynamic,
            start_learned=method.settled.start_learned,
        )

    def of(self, data: Loaded, *, training: bool) -> tuple[list[Row], int]:
        """Rows that fit, and how many did not. Training takes the stage's share of the problems, and may draw
        the stage of a row. Raises JobUserError."""
        method = self.method
        renderer = Renderer(self.tokenizer, method.preparing.prompt, data.instruction)
        examples = self._selected(data) if training else data.examples
        examples = method.preparing.some(examples)
        asked = self._asked(examples)
        drawn = training and method.settings.uniform_prob > 0

        def make(i: int) -> Row:
            return self._row(renderer, examples[i], asked[i], drawn)

        def cut(row: Row) -> Row | None:
            return row if self.layout.head(row) < self.max_len else None

        return method.preparing.fitting(data, make, len(examples), max_len=self.max_len, cut=cut)

    def _row(self, renderer: Renderer, example: Example, asked: int, drawn: bool) -> Row:
        opens = self.markers.start if self.markers and not self.layout.start_learned else ""
        text, row = pieces(renderer, example, self.method.settings.steps, opens=opens)
        ids = (i for piece in (row.prompt, *row.steps, row.answer) for i in piece)
        check_known(self.tokenizer, example.id, ids, text)
        steps = len(row.steps)
        stages = {self.curriculum.stage, *(range(steps + 1) if drawn else ())}
        cuts = [self.curriculum.train(steps, stage=s, asked=asked) for s in stages]
        if renderer.spec.form == "answer" and any(c.text for c in cuts):
            raise JobUserError(
                f"prompt.form: answer has no place for steps that stay as text, and stage "
                f"{self.curriculum.stage} leaves some of {example.id}",
                hint="use prompt.form: coconut",
                where=f"{self.method.ctx.stage.name}.prompt.form",
            )
        row = row._replace(asked=asked, drawn=drawn, most=max(c.latents for c in cuts))
        return row._replace(longest=max(self.layout.positions(row, c) for c in cuts))

    def _selected(self, data: Loaded) -> list[Example]:
        """The problems that this stage trains on (`data_mixing_ratio`)."""
        examples, name = data.examples, data.name
        chosen = self.curriculum.select([len(e.steps) for e in examples], seed=self.method.seed)
        if not chosen:
            raise JobUserError(
                f"no problem of {name} has as many as {self.curriculum.stage} steps, "
                "and data_mixing_ratio takes no others",
                hint="fewer stages (coconut.max_stage), or no data_mixing_ratio",
                where=f"{self.method.ctx.stage.name}.coconut.data_mixing_ratio",
            )
        if len(chosen) < len(examples):
            self.method.ctx.report.note(f"{len(chosen)} of {len(examples)} problems of {name} in this stage")
        return [examples[i] for i in chosen]

    def _asked(self, examples: Sequence[Example]) -> list[int]:
        """Latent positions by difficulty; 0 where another rule counts."""
        spec = self.method.settings.difficulty
        if spec is None:
            return [0] * len(examples)
        where = f"{self.method.ctx.stage.name}.coconut.difficulty"
        if spec.field == "steps":
            return difficulty_counts(spec, [len(e.steps) for e in examples])
        values = [e.meta.get(spec.field) for e in examples]
        for example, value in zip(examples, values, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise JobUserError(
                    f"{example.id} has no number {spec.field!r} among its facts: it has "
                    f"{', '.join(sorted(example.meta)) or 'none'}",
                    hint="name one of the dataset's fields, or say field: steps",
                    where=f"{where}.field",
                )
        try:
            return difficulty_counts(spec, cast("list[float]", values))
        except ValueError as error:
            raise JobUserError(str(error), hint="set divide_by, or normal: true", where=where) from error


def _weights(objective: CoconutObjective) -> list[float] | None:
    """The learned window weights as they are now; a collective under ZeRO-3."""
    if objective.learned is None:
        return None
    with gathered([objective.learned.logits]):
        return objective.learned.logits.detach().float().softmax(-1).tolist()
