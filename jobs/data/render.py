"""What a model sees of an example: the prompt, the target, and their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from jobs.data.example import Example, Rendered
from jobs.runtime.errors import JobUserError
from latentctl.spec.prompt import Markers, PromptSpec

Target = Literal["cot", "answer"]

SYSTEM_PROMPTS = {
    "none": "",
    "general": "You are a helpful assistant.",
    "reasoning": "You solve problems. Think step by step first, then give the final answer.",
}
"""What the names in `prompt.system` stand for; any other text is a system prompt itself."""

_XML = Markers(start="<think>", end="</think>")


def format_instruction(form: str, markers: Markers) -> str:
    """How an answer is to be laid out; empty for the forms that a model learns by example alone."""
    if form == "plain":
        return (
            f"Write your reasoning between {markers.start} and {markers.end}, "
            "then the final answer in \\boxed{}."
        )
    if form == "xml":
        return (
            "Write your reasoning inside <think> </think>, then the final answer inside <answer> </answer>."
        )
    return ""


def reasoning(example: Example, steps: str = "auto", *, where: str = "sft.steps") -> tuple[str, ...]:
    """The reference steps, as they are (`auto`) or in one of the example's variants.

    Raises JobUserError at `where` for a variant that the example does not have.
    """
    if steps == "auto":
        return example.steps
    if steps not in example.variants:
        there = ", ".join(example.variants) or "only its own: auto"
        raise JobUserError(f"{example.id} has no {steps!r} steps", hint=f"it has {there}", where=where)
    return example.variants[steps]


def lay_out(form: str, markers: Markers, steps: Iterable[str] | None, answer: str) -> str:
    """The target text. Without `steps` (None): the final answer alone, in the form's own frame."""
    if form == "answer":
        return answer
    if form == "coconut":
        return "".join(f"{step}\n" for step in steps or ()) + f"### {answer}"
    final = f"<answer>{answer}</answer>" if form == "xml" else f"\\boxed{{{answer}}}"
    if steps is None:
        return final
    mark = _XML if form == "xml" else markers
    return "\n".join([mark.start, *steps, mark.end, final])


class Renderer:
    """Renders the examples of one dataset for one tokenizer.

    `tokenizer` may be None: then only texts come out, in the plain template (what a tokenizer is trained on).
    Raises JobUserError where the tokenizer cannot do what the prompt asks.
    """

    def __init__(self, tokenizer: Any, prompt: PromptSpec, instruction: str = "") -> None:
        self.tokenizer = tokenizer
        self.spec = prompt
        self.chat = _wants_chat(tokenizer, prompt)
        self.system = SYSTEM_PROMPTS.get(prompt.system, prompt.system)
        layout = format_instruction(prompt.form, prompt.markers)
        self.suffix = (
            "\n" + " ".join(p for p in (instruction, layout) if p) if prompt.instruction and layout else ""
        )
        self.prefix_ids = [] if tokenizer is None or self.chat else _prefix_ids(tokenizer)

    def prompt_text(self, example: Example) -> str:
        """The prompt up to where the model begins."""
        content = example.question + self.suffix
        if not self.chat:
            return f"{self.system}\n\n{content}\n" if self.system else f"{content}\n"
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": content})
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # the template is a program of the tokenizer's author
            raise JobUserError(
                f"the tokenizer's chat template refuses this prompt: {error}",
                hint="it may know no system prompt: prompt.system: none; or use prompt.template: plain",
            ) from error

    def target_text(self, example: Example, target: Target = "cot", steps: str = "auto") -> str:
        """What the model is to write, without the end of sequence."""
        if not example.answer:
            raise JobUserError(
                f"{example.id} has no answer to train on",
                hint="evaluate on it, or train on a set with solutions",
            )
        if target == "answer":
            return lay_out(self.spec.form, self.spec.markers, None, example.answer)
        if self.spec.form == "answer":
            raise JobUserError(
                "prompt.form: answer has no place for reasoning, but the target is cot",
                hint="set sft.target: answer, or another prompt.form",
                where="prompt.form",
            )
        return lay_out(self.spec.form, self.spec.markers, reasoning(example, steps), example.answer)

    def prompt(self, example: Example, *, opens: str = "") -> tuple[str, list[int]]:
        """Prompt text and ids, begin-of-sequence included where the tokenizer has one.

        `opens`: what will be put after it (a start marker); some chat templates write it themselves, and
        then it is left out here.
        """
        text = self.prompt_text(example)
        if opens and text.rstrip().endswith(opens):
            text = text.rstrip().removesuffix(opens)
        return text, self.prefix_ids + self.ids(text)

    def row(self, example: Example, target: Target = "cot", steps: str = "auto") -> Rendered:
        """A training row; the target ends with the end-of-sequence token."""
        prompt, prompt_ids = self.prompt(example)
        text = self.target_text(example, target, steps)
        if self.tokenizer.eos_token_id is None:
            raise JobUserError("the tokenizer has no end-of-sequence token", hint="use another tokenizer")
        return Rendered(example.id, prompt, text, prompt_ids, [*self.ids(text), self.tokenizer.eos_token_id])

    def texts(
        self, examples: Iterable[Example], target: Target = "cot", steps: str = "auto"
    ) -> Iterator[str]:
        """Prompt and target of each example, to train a tokenizer on."""
        for example in examples:
            yield self.prompt_text(example) + self.target_text(example, target, steps)

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text, with nothing put before or after it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _wants_chat(tokenizer: Any, prompt: PromptSpec) -> bool:
    has: Callable[[], bool] = lambda: bool(getattr(tokenizer, "chat_template", None))  # noqa: E731
    if prompt.template == "chat" and tokenizer is not None and not has():
        raise JobUserError(
            "prompt.template: chat, but the tokenizer has no chat template",
            hint="use prompt.template: plain (or auto)",
            where="prompt.template",
        )
    return prompt.template != "plain" and tokenizer is not None and has()


def _prefix_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text by itself (begin of sequence); what it appends is left out."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []
