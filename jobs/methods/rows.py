"""What an evaluation writes of a sample: its row of samples.jsonl, and of traces.jsonl."""

from __future__ import annotations

from typing import Any

from jobs.data.example import Example
from jobs.generate.protocol import Sample
from jobs.generate.text import count_before, decode
from jobs.grade.samples import Row
from jobs.methods.asking import Questions
from latentctl.spec.latent import LatentSpec
from latentctl.spec.prompt import Markers, PromptSpec

_XML = Markers()
"""The form `xml` has its own markers, whatever `prompt.markers` says."""


class Rows:
    """Makes the rows of one stage."""

    def __init__(self, questions: Questions, prompt: PromptSpec) -> None:
        self.questions = questions
        self.tokenizer: Any = questions.tokenizer
        self.prompt = prompt
        self.shown = questions.latent is None or _part_of_form(questions.latent, prompt)
        """Whether the markers around latent spans stay in the text: a reader of the form looks for them."""

    def sample(self, sample: Sample, place: int) -> Row:
        """Row of samples.jsonl."""
        example: Example = self.questions.examples[place]
        prompt_text, prompt_ids = self.questions.prompts[place]
        markers = self.prompt.markers.start, self.prompt.markers.end
        text, spans = self._text(sample)
        around = self._around(sample)
        hidden = {i for pair in around for part in pair for i in part}
        row = {
            "id": sample.id,
            "index": sample.index,
            "question": example.question,
            "prompt": prompt_text,
            "prompt_tokens": len(prompt_ids),
            "gold": example.answer,
            "meta": example.meta,
            "markers": list(("", "") if self.prompt.form == "coconut" else markers),
            "text": text,
            "tokens": len(sample.ids) - sample.marker_tokens,
            "think_tokens": count_before(self.tokenizer, sample.ids, markers[1]),
            "cause": sample.cause,
            "forced": sample.forced - sum(len(end) for _, end in around),
            "logp_sum": round(sum(v for i, v in enumerate(sample.logps) if i not in hidden), 4),
        }
        if self.questions.latent is not None:
            row |= {"latents": sample.latents, "latent_cause": sample.latent_cause, "spans": spans}
        if sample.branch is not None:
            row["branch"] = self._branch(sample)
        return row | ({"error": sample.error} if sample.error else {})

    def _branch(self, sample: Sample) -> Row:
        """How a searched answer descends, and its text from there on."""
        branch = sample.branch
        assert branch is not None
        birth = branch.birth
        return {
            "parent": branch.parent,
            "birth": birth,
            "prob": round(branch.prob, 6),
            "token": decode(self.tokenizer, sample.ids[birth : birth + 1]),
            "at": self._characters(sample, birth),
            "duplicate": branch.duplicate,
        }

    def trace(self, sample: Sample) -> Row:
        """Row of traces.jsonl: what each latent step of a traced sample said."""
        latent = self.questions.latent
        assert latent is not None, "text alone has no trace"
        assert latent.input is not None, "not settled"
        return {
            "id": sample.id,
            "index": sample.index,
            "latents": sample.latents,
            "cause": sample.latent_cause,
            "spans": self._text(sample)[1],
            "input": latent.input.kind,
            "steps": [
                {
                    "entropy": round(thought.entropy, 6),
                    "mass": round(thought.mass, 6),
                    "noised": thought.noised,
                    "tokens": [
                        [decode(self.tokenizer, [id]), round(weight, 6)]
                        for id, weight in zip(thought.ids, thought.weights, strict=True)
                    ],
                }
                for thought in sample.thoughts or ()
            ],
        }

    def _around(self, sample: Sample) -> list[tuple[range, range]]:
        """For each latent span: where in `ids` its start marker and its end marker stand; empty where they
        do not."""
        start, end = self.questions.marker_ids()
        found = []
        for at, _ in sample.spans:
            before = range(at - len(start), at)
            opened = before.start >= 0 and tuple(sample.ids[before.start : at]) == start
            closing = 0
            while closing < len(end) and sample.ids[at + closing : at + closing + 1] == [end[closing]]:
                closing += 1
            found.append((before if opened else range(at, at), range(at, at + closing)))
        return found

    def _text(self, sample: Sample) -> tuple[str, list[list[int]]]:
        """The text, without the markers around spans unless they are shown, and for each span the
        characters before it and its latent steps."""
        cuts: list[tuple[int, int]] = []
        places = []
        for opening, closing in self._around(sample):
            places.append(self._characters(sample, closing.start))
            if not self.shown:
                cuts += [
                    (self._characters(sample, r.start), self._characters(sample, r.stop))
                    for r in (opening, closing)
                ]
        text, kept, done = sample.text, "", 0
        for start, stop in cuts:
            kept += text[done:start]
            done = max(done, stop)
        cut = [sum(min(stop, at) - min(start, at) for start, stop in cuts) for at in places]
        kept += text[done:]
        spans = [
            [min(at - lost, len(kept)), latents]
            for at, lost, (_, latents) in zip(places, cut, sample.spans, strict=True)
        ]
        return kept, spans

    def _characters(self, sample: Sample, ids: int) -> int:
        return len(decode(self.tokenizer, sample.ids[:ids])) if ids else 0


def _part_of_form(latent: LatentSpec, prompt: PromptSpec) -> bool:
    """The forms `plain` and `xml` put the reasoning between markers; latent spans may stand in its place."""
    own = {"plain": prompt.markers, "xml": _XML}.get(prompt.form)
    return own == latent.markers
