"""A small tokenizer, a small model, problems; and Coconut's loss computed the slow, obvious way."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from jobs.data import Example
from jobs.data.curriculum import Curriculum, Cut
from jobs.data.render import Renderer
from jobs.methods.coconut.layout import Layout, Row, Span, frame_of, pieces
from jobs.methods.coconut.objective import CoconutObjective
from jobs.models.markers import add_markers
from jobs.models.random_init import random_model
from jobs.models.vocab import train
from latentctl.spec.latent import LATENT_TOKEN, HiddenInput
from latentctl.spec.methods import CoconutSettings
from latentctl.spec.model import InitSpec, TokenizerInit
from latentctl.spec.prompt import Markers, PromptSpec

COCONUT = Markers(start="<|start-latent|>", end="<|end-latent|>")
PROBLEMS = [
    Example("a", "one two", "red", ("up", "down left", "right")),
    Example("b", "two one two one one two", "blue", ("left",)),
    Example("c", "one", "red", ()),
    Example("d", "two two", "blue", ("up right left down", "down", "up", "left up", "right")),
]


class World:
    """One tokenizer, one model, one layout."""

    def __init__(
        self,
        arch: str = "gpt2",
        *,
        input: Any = None,
        markers: Markers | None = COCONUT,
        prompt: PromptSpec | None = None,
        start_learned: bool = False,
        max_len: int = 128,
        longest: int | None = None,
        learned: list[float] | None = None,
        **said: Any,
    ) -> None:
        self.prompt = prompt or PromptSpec(form="coconut")
        plain = Renderer(None, PromptSpec(form="plain"))
        texts = [*plain.texts(PROBLEMS), "### red ### blue << >> <answer>red</answer><answer>blue</answer>"]
        self.tokenizer = train(TokenizerInit(kind="word", vocab_size=99), texts, max_len=max_len)
        init = InitSpec(arch=arch, hidden=32, layers=2, heads=2, max_len=128)  # type: ignore[arg-type]
        self.model = random_model(
            init,
            vocab_size=len(self.tokenizer),
            attention="sdpa",
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        self.span = None
        if markers:
            found = add_markers(self.model, self.tokenizer, (markers.start, markers.end, LATENT_TOKEN), None)
            self.span = Span(found[markers.start], found[markers.end], found[LATENT_TOKEN][0])
            with torch.no_grad():  # rows of their own, so that markers can be told apart
                table = self.model.get_input_embeddings().weight
                table[-3:] += torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 0.3
        self.renderer = Renderer(self.tokenizer, self.prompt)
        self.curriculum = Curriculum(CoconutSettings(**said))
        self.layout = Layout(
            frame_of(self.renderer, markers),
            self.span,
            dynamic=self.curriculum.settings.dynamic,
            start_learned=start_learned,
        )
        assert self.tokenizer.pad_token_id is not None
        self.input = input or HiddenInput()
        self.objective = CoconutObjective(
            self.curriculum,
            self.layout,
            self.input,
            pad=self.tokenizer.pad_token_id,
            max_len=max_len,
            seed=5,
            learned=learned,
            longest=longest,
        )

    def row(self, example: Example, **said: Any) -> Row:
        opens = "" if self.span is None else self.tokenizer.decode(self.span.start)
        return pieces(self.renderer, example, "auto", opens=opens)[1]._replace(drawn=False, **said)

    def rows(self) -> list[Row]:
        return [self.row(e) for e in PROBLEMS]

    def shown(self, ids: list[int]) -> list[str]:
        """Token by token; ids below 0 as they are."""
        return [str(i) if i < 0 else self.tokenizer.decode([i]) for i in ids]


def naive_loss(world: World, row: Row, cut: Cut, *, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of the loss of one row: no batch, no padding, no cache; after each latent step everything before is
    computed anew. `weights` (m,): of a contextual input, newest first."""
    model, span = world.model, world.span
    body, table = model.get_decoder(), model.get_input_embeddings().weight
    kind = world.input.kind
    text = [i for s in cut.text for i in row.steps[s]] + list(row.answer)
    if span is None:
        start, end = [], []
    else:
        start, end = list(span.start), list(span.end)
    inputs = [table[i] for i in [*row.prompt, *start]]
    for _ in range(cut.latents):
        if kind == "pause":
            inputs.append(table[span.token])
            continue
        hidden = body(inputs_embeds=torch.stack(inputs)[None], use_cache=False).last_hidden_state[0]
        if kind == "hidden":
            inputs.append(hidden[-1])
        elif kind == "soft":
            p = (model.lm_head(hidden[-1]) / world.input.temperature).softmax(-1)
            best = p.topk(world.input.top_k)
            inputs.append((best.values / best.values.sum()) @ table[best.indices])
        else:
            seen = hidden.flip(0)[: len(weights)]
            share = weights[: len(seen)] / weights[: len(seen)].sum()
            inputs.append(share @ seen)
    inputs += [table[i] for i in [*end, *text]]
    logits = model.lm_head(
        body(inputs_embeds=torch.stack(inputs)[None], use_cache=False).last_hidden_state[0]
    )
    begin = len(inputs) - len(text)
    loss = sum(F.cross_entropy(logits[begin + i - 1], torch.tensor(t)) for i, t in enumerate(text))
    if world.layout.dynamic:
        opened = len(row.prompt) + len(start) - 1
        for j in range(cut.latents):
            loss = loss - torch.log1p(-logits[opened + j].softmax(-1)[end[0]])
        for j, token in enumerate(end):
            loss = loss + F.cross_entropy(logits[opened + cut.latents + j], torch.tensor(token))
    if world.layout.start_learned:
        for j, token in enumerate(start):
            loss = loss + F.cross_entropy(logits[len(row.prompt) - 1 + j], torch.tensor(token))
    return loss
