"""Prompts and targets, letter by letter and token by token."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jobs.data import Example
from jobs.data.render import SYSTEM_PROMPTS, Renderer
from jobs.runtime.errors import JobUserError
from latentctl.spec.prompt import PromptSpec

EXAMPLE = Example(
    "e-1",
    "What is 1+1+1?",
    "3",
    ("1+1=2", "2+1=3"),
    variants={"sentence": ("One and one is two.", "And three.")},
)
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(*, bos: bool = False, eos_too: bool = False, chat: str | None = None, **more: Any) -> Any:
    """One token per byte, as a real fast tokenizer; with `bos` it adds one by itself, like Llama's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<bos>", "<eos>"]
    vocab = {sign: i for i, sign in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        single = "<bos> $A <eos>" if eos_too else "<bos> $A"
        core.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<bos>", 0), ("<eos>", 1)]
        )
    kept = {"bos_token": "<bos>", "eos_token": "<eos>", **more}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **{k: v for k, v in kept.items() if v})
    tokenizer.chat_template = chat
    return tokenizer


def target(form: Any, **more: Any) -> str:
    kept = {k: more.pop(k) for k in ("target", "steps") if k in more}
    return Renderer(None, PromptSpec(form=form, **more)).target_text(EXAMPLE, **kept)


def test_targets() -> None:
    assert target("plain") == "<think>\n1+1=2\n2+1=3\n</think>\n\\boxed{3}"
    assert target("plain", markers={"start": "<<", "end": ">>"}) == "<<\n1+1=2\n2+1=3\n>>\n\\boxed{3}"
    assert target("xml") == "<think>\n1+1=2\n2+1=3\n</think>\n<answer>3</answer>"
    assert target("coconut") == "1+1=2\n2+1=3\n### 3"
    assert target("plain", steps="sentence").startswith("<think>\nOne and one is two.\nAnd three.\n</think>")


def test_direct_targets_have_no_reasoning() -> None:
    assert target("plain", target="answer") == "\\boxed{3}"
    assert target("xml", target="answer") == "<answer>3</answer>"
    assert target("coconut", target="answer") == "### 3"
    assert target("answer", target="answer") == "3"


def test_reasoning_has_no_place_in_the_form_answer() -> None:
    with pytest.raises(JobUserError, match="no place for reasoning"):
        target("answer", target="cot")


def test_steps_that_a_dataset_does_not_have() -> None:
    with pytest.raises(JobUserError, match="no 'formula' steps") as caught:
        target("plain", steps="formula")
    assert "sentence" in (caught.value.hint or "")


def test_a_row_without_an_answer_cannot_be_trained_on() -> None:
    with pytest.raises(JobUserError, match="no answer to train on"):
        Renderer(None, PromptSpec()).target_text(Example("e", "q", ""))


def test_plain_prompts() -> None:
    def prompt(instruction: str = "A number.", **more: Any) -> str:
        return Renderer(None, PromptSpec(**more), instruction).prompt_text(EXAMPLE)

    assert prompt(form="coconut") == prompt(form="answer") == "What is 1+1+1?\n"
    first, second, end = prompt(form="plain").split("\n")
    assert (first, end) == ("What is 1+1+1?", "")
    assert second.startswith("A number. ")
    assert "<think>" in second
    assert "\\boxed{}" in second
    assert "<answer>" in prompt(form="xml")
    assert "<<" in prompt(form="plain", markers={"start": "<<", "end": ">>"})
    assert (
        Renderer(None, PromptSpec(instruction=False), "A number.").prompt_text(EXAMPLE) == "What is 1+1+1?\n"
    )
    assert prompt(form="coconut", system="Be brief.") == "Be brief.\n\nWhat is 1+1+1?\n"
    assert prompt(form="coconut", system="general").startswith(SYSTEM_PROMPTS["general"] + "\n\n")


def test_chat_prompts() -> None:
    tokenizer = byte_tokenizer(chat=CHAT)
    assert Renderer(tokenizer, PromptSpec(form="coconut")).prompt_text(EXAMPLE) == (
        "<|user|>What is 1+1+1?<|end|><|assistant|>"
    )
    with_system = Renderer(tokenizer, PromptSpec(form="coconut", system="Be brief.")).prompt_text(EXAMPLE)
    assert with_system.startswith("<|system|>Be brief.<|end|><|user|>")
    assert (
        Renderer(tokenizer, PromptSpec(form="coconut", template="plain")).prompt_text(EXAMPLE)
        == "What is 1+1+1?\n"
    )


def test_chat_without_a_template() -> None:
    with pytest.raises(JobUserError) as caught:
        Renderer(byte_tokenizer(), PromptSpec(template="chat"))
    assert caught.value.where == "prompt.template"
    assert "plain" in (caught.value.hint or "")
    assert not Renderer(byte_tokenizer(), PromptSpec(template="auto")).chat


def test_a_chat_template_that_refuses_system_prompts() -> None:
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
    )
    renderer = Renderer(byte_tokenizer(chat=refusing), PromptSpec(system="general"))
    with pytest.raises(JobUserError, match="no system role") as caught:
        renderer.prompt(EXAMPLE)
    assert "system: none" in (caught.value.hint or "")


@pytest.mark.parametrize("chat", [None, CHAT])
@pytest.mark.parametrize("form", ["plain", "xml", "coconut"])
@pytest.mark.parametrize("bos", [False, True])
def test_ids_say_what_the_text_says(chat: str | None, form: Any, bos: bool) -> None:
    tokenizer = byte_tokenizer(bos=bos, chat=chat)
    example = Example("e", "Wie groß ist √2? 🎈\u2028", "π", ("erst", "dann\tso"))
    row = Renderer(tokenizer, PromptSpec(form=form), "Kurz.").row(example)
    prompt_ids = row.prompt_ids[1:] if bos and chat is None else row.prompt_ids
    assert tokenizer.decode(prompt_ids) == row.prompt
    assert tokenizer.decode(row.target_ids[:-1]) == row.target
    assert row.target_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in row.target_ids[:-1]
    assert (row.prompt_ids[0] == tokenizer.bos_token_id) == (bos and chat is None)
    assert tokenizer.bos_token_id not in row.prompt_ids[1:] + row.target_ids


def test_the_prompt_of_evaluation_is_that_of_training() -> None:
    for tokenizer in (byte_tokenizer(), byte_tokenizer(bos=True), byte_tokenizer(chat=CHAT)):
        renderer = Renderer(tokenizer, PromptSpec())
        row = renderer.row(EXAMPLE)
        assert renderer.prompt(EXAMPLE) == (row.prompt, row.prompt_ids)


def test_a_tokenizer_that_also_appends_an_end_does_not_end_the_prompt() -> None:
    tokenizer = byte_tokenizer(bos=True, eos_too=True)
    row = Renderer(tokenizer, PromptSpec(form="coconut")).row(EXAMPLE)
    assert row.prompt_ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in row.prompt_ids
    assert row.target_ids.count(tokenizer.eos_token_id) == 1


def test_no_end_of_sequence_token() -> None:
    with pytest.raises(JobUserError, match="no end-of-sequence"):
        Renderer(byte_tokenizer(eos_token=None), PromptSpec()).row(EXAMPLE)


def test_special_tokens_written_in_a_question_stay_where_they_are() -> None:
    """Prompt and target are tokenised apart: nothing merges over their border."""
    tokenizer = byte_tokenizer()
    row = Renderer(tokenizer, PromptSpec(form="answer")).row(Example("e", "q", "a"), "answer")
    assert tokenizer.decode(row.prompt_ids + row.target_ids) == "q\na<eos>"


def test_texts_for_a_tokenizer_need_none() -> None:
    renderer = Renderer(None, PromptSpec(form="coconut", template="chat"))
    assert list(renderer.texts([EXAMPLE])) == ["What is 1+1+1?\n1+1=2\n2+1=3\n### 3"]
