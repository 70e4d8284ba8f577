"""A rollout as one sequence of positions: prompt, tokens, latent steps, in the order in which they stood."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.generate.protocol import Sample

LATENT = -1
"""Stands for a latent step among token ids."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a replay feeds, and what it looks at."""

    ids: list[int]
    """Every position, the end of sequence included where it was drawn; `LATENT` for a latent step."""
    text: list[int]
    """Places of the tokens that the policy drew."""
    engine: list[float]
    """Their log-probs as the engine reported them."""
    latent: list[int]
    """Places of the latent steps, in their order."""
    span: list[int]
    """For each latent step its number in its span, from 0."""
    prompt: int
    """Positions of the prompt."""

    @property
    def length(self) -> int:
        """Positions that are fed: the last one is only looked at."""
        return max(1, len(self.ids) - 1)


def sequence(prompt: list[int], sample: Sample) -> Sequence:
    """Of one sample."""
    ids, text, engine = list(prompt), [], []
    latent, span = [], []
    forced = set(sample.forced_at)
    opens: dict[int, list[int]] = {}
    for before, steps in sample.spans:
        opens.setdefault(before, []).append(steps)

    def think(at: int) -> None:
        for steps in opens.get(at, ()):
            for number in range(steps):
                latent.append(len(ids))
                span.append(number)
                ids.append(LATENT)

    for i, (token, logp) in enumerate(zip(sample.ids, sample.logps, strict=True)):
        think(i)
        if i not in forced:
            text.append(len(ids))
            engine.append(logp)
        ids.append(token)
    think(len(sample.ids))
    if sample.end is not None:
        text.append(len(ids))
        engine.append(sample.end[1])
        ids.append(sample.end[0])
    return Sequence(ids, text, engine, latent, span, len(prompt))
