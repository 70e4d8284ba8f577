"""How one problem is laid out as token ids, and what is learned where.

    question | start marker | latent steps | end marker | remaining steps, answer, end of sequence

Pieces are tokenised apart and joined by their ids, so that no border ever merges.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jobs.data import Example
from jobs.data.curriculum import Cut
from jobs.data.render import Renderer, lay_out, reasoning
from jobs.runtime.errors import JobUserError
from latentctl.spec.prompt import Markers

IGNORED = -100
"""Nothing is learned here."""
GO_ON = -200
"""Anything but the end of the span: its first token is made unlikely."""
_XML = Markers(start="<think>", end="</think>")

Ids = Sequence[int]


class Row(NamedTuple):
    """One problem, before it is known which of its steps are replaced."""

    prompt: Ids
    steps: tuple[Ids, ...]
    answer: Ids
    """With the end of sequence."""
    longest: int
    """Positions of its longest layout, in any stage that may be drawn for it."""
    most: int
    """Latent positions, likewise."""
    asked: int = 0
    """Latent positions by difficulty."""
    drawn: bool = True
    """Whether its stage may be drawn (`uniform_prob`): in training, never in validation."""

    @property
    def length(self) -> int:
        return self.longest


class Laid(NamedTuple):
    """One row of one stage."""

    ids: list[int]
    targets: list[int]
    """For each position what comes next: a token, IGNORED or GO_ON."""
    first: int
    """Where the first latent position stands, if there are any."""
    latents: int


class Frame(NamedTuple):
    """What the prompt's form puts around the remaining steps."""

    before: Ids
    """Before them."""
    after: Ids
    """Between them and the answer."""
    alone: Ids
    """Before the answer, where no step remains."""


class Span(NamedTuple):
    """Token ids around latent positions."""

    start: Ids
    end: Ids
    token: int
    """Stands at each latent position."""


@dataclass(frozen=True)
class Layout:
    """Of one stage and one tokenizer."""

    frame: Frame
    span: Span | None
    """None: no latent steps and no markers."""
    dynamic: bool = False
    """The model learns where the span ends."""
    start_learned: bool = False
    """The model learns to write the start marker."""

    def lay(self, row: Row, cut: Cut) -> Laid:
        """The row with `cut.latents` latent positions; the first supervised prediction is made at the end
        marker, unless the model learns to open or to end the span."""
        steps = [i for s in cut.text for i in row.steps[s]]
        frame = self.frame
        text = [*frame.before, *steps, *frame.after, *row.answer] if cut.text else [*frame.alone, *row.answer]
        before, n = len(row.prompt), cut.latents
        if self.span is None:
            return _next([*row.prompt, *text], learned=range(before, before + len(text)))
        start, end, token = self.span
        ids = [*row.prompt, *start, *[token] * n, *end, *text]
        first = before + len(start)
        stop = first + n
        laid = _next(ids, learned=range(stop + len(end), len(ids)))
        targets = laid.targets
        if self.start_learned:
            targets[before - 1 : first - 1] = start
        if self.dynamic:
            targets[first - 1 : stop - 1] = [GO_ON] * n
            targets[stop - 1 : stop - 1 + len(end)] = end
        return Laid(ids, targets, first, n)

    def positions(self, row: Row, cut: Cut) -> int:
        """How many positions `lay` makes."""
        return len(self.lay(row, cut).ids)

    def head(self, row: Row) -> int:
        """Positions before the text, at most."""
        markers = 0 if self.span is None else len(self.span.start) + len(self.span.end)
        return len(row.prompt) + markers + row.most


def _next(ids: list[int], learned: range) -> Laid:
    """Plain next-token targets for the tokens at `learned`; nothing stands before the first token of all."""
    targets = [IGNORED] * len(ids)
    for i in learned:
        if i > 0:
            targets[i - 1] = ids[i]
    return Laid(ids, targets, 0, 0)


def frame_of(renderer: Renderer, markers: Markers | None) -> Frame:
    """The frame of the renderer's form. `markers`: those of the latent span.

    Forms with a block of reasoning put remaining steps into it; where the latent span itself is that block
    (the same markers), remaining steps follow it, one a line.
    """
    spec = renderer.spec
    if spec.form in ("coconut", "answer"):
        return Frame((), (), ())
    block = _XML if spec.form == "xml" else spec.markers
    line = array("i", renderer.ids("\n"))
    if markers == block:
        return Frame(line, (), line)
    return Frame(array("i", renderer.ids(f"{block.start}\n")), array("i", renderer.ids(f"{block.end}\n")), ())


def pieces(renderer: Renderer, example: Example, steps: str, *, opens: str) -> tuple[str, Row]:
    """The example's whole text, and its row (lengths still unknown). `opens`: text of a start marker that
    follows the prompt. Raises JobUserError."""
    spec = renderer.spec
    if not example.answer:
        raise JobUserError(
            f"{example.id} has no answer to train on",
            hint="evaluate on it, or train on a set with solutions",
        )
    prompt, prompt_ids = renderer.prompt(example, opens=opens)
    lines = [f"{s}\n" for s in reasoning(example, steps, where="coconut.steps")]
    answer = lay_out(spec.form, spec.markers, None, example.answer)
    eos = renderer.tokenizer.eos_token_id
    row = Row(
        array("i", prompt_ids),
        tuple(array("i", renderer.ids(line)) for line in lines),
        array("i", [*renderer.ids(answer), eos]),
        0,
        0,
    )
    return "".join((prompt, *lines, answer)), row
