"""An attempt as the rewards look at it: its reasoning and what stands outside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jobs.grade.extract import Found, answer, without_specials
from jobs.grade.protocol import Answered
from jobs.grade.reasoning import Parts, parts
from jobs.grade.rewards.protocol import Attempt
from latentctl.spec.latent import LatentSpec
from latentctl.spec.prompt import Markers

_XML = Markers()
"""The form `xml` has its own markers, whatever `prompt.markers` says."""


@dataclass(frozen=True)
class Frame:
    """What holds for every attempt of a stage: the prompt's form, and its latent settings (settled)."""

    form: str
    latent: LatentSpec | None

    def markers(self, attempt: Attempt) -> tuple[str, str]:
        """Of the reasoning in words."""
        return (_XML.start, _XML.end) if self.form == "xml" else attempt.markers

    def hides(self, start: str, end: str) -> bool:
        """Whether markers around latent spans are left out of the text: they are not those of the form."""
        if self.latent is None or self.latent.markers is None:
            return False
        shown = self.form in ("plain", "xml") and self.latent.markers == _pair(start, end)
        return not shown

    def opened(self, attempt: Attempt) -> bool:
        """Whether the text begins inside the reasoning: its start marker stands at the prompt's end."""
        start, end = self.markers(attempt)
        latent = self.latent
        begins = latent is not None and latent.start in (None, "prompt")
        if begins and not self.hides(start, end):
            return bool(start)
        if begins and latent is not None and latent.markers is not None and latent.markers.start == start:
            return False  # that marker opened the span, whose own end is left out of the text
        return bool(start) and attempt.prompt.rstrip().endswith(start)


@dataclass(frozen=True)
class View:
    """One attempt."""

    attempt: Attempt
    frame: Frame

    @cached_property
    def answered(self) -> Answered:
        """What the grader sees."""
        one = self.attempt
        return Answered(one.text, one.gold, one.meta, self.frame.markers(one))

    @cached_property
    def answer(self) -> Found | None:
        """The answer, read as the graders read it."""
        return answer(self.answered)

    @cached_property
    def opened(self) -> bool:
        return self.frame.opened(self.attempt)

    @cached_property
    def parts(self) -> Parts:
        return parts(self.attempt.text, *self.frame.markers(self.attempt), opened=self.opened or None)

    @cached_property
    def hidden_span(self) -> bool:
        """A latent span without markers in the text came to its end."""
        one = self.attempt
        if not one.latents or not self.frame.hides(*self.frame.markers(one)):
            return False
        return not one.truncated or bool(one.text.strip())

    @cached_property
    def after(self) -> str | None:
        """All that stands behind the end of the reasoning, further blocks left out; None where no reasoning
        ended."""
        found = self.parts
        if found.blocks:
            return without_specials("\n".join(found.outside[1:]))
        return without_specials("\n".join(found.outside)) if self.hidden_span else None


def _pair(start: str, end: str) -> Markers | None:
    return Markers(start=start, end=end) if start and end else None
