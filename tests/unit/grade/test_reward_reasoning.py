"""Which parts of a text are reasoning."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.grade.extract import answer, answer_part
from jobs.grade.protocol import Answered
from jobs.grade.reasoning import Parts, parts

S, E = "<think>", "</think>"


@pytest.mark.parametrize(
    ("text", "blocks", "outside", "open", "headless"),
    [
        ("", [], [""], False, False),
        ("plain", [], ["plain"], False, False),
        ("<think>a</think>b", ["a"], ["", "b"], False, False),
        ("x<think>a</think>y<think>b</think>z", ["a", "b"], ["x", "y", "z"], False, False),
        ("<think>a<think>b</think>c</think>d", ["a<think>b</think>c"], ["", "d"], False, False),
        ("a</think>b", ["a"], ["", "b"], False, True),
        ("<think>a</think>b</think>c", ["<think>a</think>b"], ["", "c"], False, True),
        ("x<think>a", [], ["x"], True, False),
        ("<think>a</think>b<think>c", ["a"], ["", "b"], True, False),
        ("<think>a<think>b</think>c", ["a<think>b"], ["", "c"], False, False),
        ("<think>a<think>b</think>c<think>d", ["a<think>b"], ["", "c"], True, False),
        ("<think><think>a</think>b", ["<think>a"], ["", "b"], False, False),
    ],
)
def test_blocks(text: str, blocks: list[str], outside: list[str], open: bool, headless: bool) -> None:
    assert parts(text, S, E) == Parts(tuple(blocks), tuple(outside), open, headless)


@pytest.mark.parametrize(
    ("text", "blocks", "outside", "open"),
    [
        ("a</think>b", ["a"], ["", "b"], False),
        ("a", [], [""], True),
        ("<think>a</think>b", ["<think>a"], ["", "b"], False),
        ("a<think>b</think>c</think>d", ["a<think>b</think>c"], ["", "d"], False),
        ("a</think>b<think>c</think>d", ["a", "c"], ["", "b", "d"], False),
    ],
)
def test_blocks_that_the_prompt_opened(text: str, blocks: list[str], outside: list[str], open: bool) -> None:
    assert parts(text, S, E, opened=True) == Parts(tuple(blocks), tuple(outside), open, True)


@pytest.mark.parametrize(
    ("text", "opened", "blocks", "outside", "open"),
    [
        ("##a##b", None, ["a"], ["", "b"], False),
        ("x##a##y##b##z", None, ["a", "b"], ["x", "y", "z"], False),
        ("##a", None, [], [""], True),
        (" ##a##b##c", None, ["a"], [" ", "b"], True),
        ("a##b", None, ["a"], ["", "b"], False),
        ("a##b", True, ["a"], ["", "b"], False),
        ("a##b", False, [], ["a"], True),
        ("##b", True, [""], ["", "b"], False),
        ("a##b##c", True, ["a"], ["", "b"], True),
    ],
)
def test_equal_markers_open_and_close_in_turn(
    text: str, opened: bool | None, blocks: list[str], outside: list[str], open: bool
) -> None:
    found = parts(text, "##", "##", opened=opened)
    assert (found.blocks, found.outside, found.open) == (tuple(blocks), tuple(outside), open)


@pytest.mark.parametrize(("start", "end"), [("", ""), ("", E), (S, "")])
def test_an_empty_marker_is_never_found(start: str, end: str) -> None:
    assert parts("a", start, end).outside == ("a",)


def test_a_marker_that_holds_the_other_is_itself() -> None:
    assert parts("think a /think b", "think", "/think").blocks == (" a ",)


TEXTS = st.lists(st.sampled_from([S, E, "a", " b ", "<", "think>"]), max_size=12).map("".join)


@given(TEXTS, st.sampled_from([None, True, False]))
def test_there_is_one_piece_more_outside_than_blocks(text: str, opened: bool | None) -> None:
    found = parts(text, S, E, opened=opened)
    assert len(found.outside) == len(found.blocks) + 1
    assert all(piece in text for piece in (*found.blocks, *found.outside))
    assert not any(S in piece or E in piece for piece in found.outside)
    assert bool(found.blocks) == (E in text)


WHOLE = st.recursive(
    st.sampled_from(["a", "b ", "", "1"]), lambda inner: st.lists(inner, max_size=3).map(
        lambda pieces: S + "".join(pieces) + E
    ), max_leaves=8
)  # fmt: skip


@given(st.lists(WHOLE, max_size=4).map("".join))
def test_taking_out_the_innermost_block_again_and_again_leaves_the_same(text: str) -> None:
    left = text
    while (less := re.sub(r"<think>(?:(?!</?think>).)*</think>", "", left)) != left:
        left = less
    found = parts(text, S, E)
    assert "".join(found.outside) == left
    assert not found.open
    assert not found.headless


@given(st.lists(st.sampled_from(["a", "b c", ""]), min_size=1, max_size=9).filter(lambda p: len(p) % 2 == 1))
def test_an_even_number_of_equal_markers_alternates(pieces: list[str]) -> None:
    found = parts("##".join(pieces), "##", "##")
    assert found.outside == tuple(pieces[::2])
    assert found.blocks == tuple(pieces[1::2])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"<think>a <think>\boxed{1}</think> \boxed{2}</think> \boxed{3}", "3"),
        (r"\boxed{5} <think>sure? \boxed{6}</think>", "5"),
        (r"<think>a</think> \boxed{5} <think>b \boxed{6}</think> Done.", "5"),
        (r"<think>a</think> \boxed{5} <think>never ended \boxed{6}", "5"),
        (r"\boxed{5} <think>a</think> <answer>6</answer>", "6"),
        ("### A plan\n<think>a</think> It is 7.", "It is 7."),
        ("Let me think of 42. <think>a</think>", None),
        (r"<think>\boxed{5}", None),
        ("", None),
    ],
)
def test_the_answer_stands_outside_all_blocks(text: str, found: str | None) -> None:
    one = answer(Answered(text, ""))
    assert (one and one.text) == found


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (r"## \boxed{1} ## \boxed{2}", r"\boxed{2}"),
        (r"## \boxed{1}", None),
        (r"\boxed{1} ## \boxed{2}", r"\boxed{2}"),
        ("no marker", "no marker"),
    ],
)
def test_the_answer_behind_equal_markers(text: str, part: str | None) -> None:
    assert answer_part(Answered(text, "", markers=("##", "##"))) == part


@pytest.mark.parametrize(
    "text",
    [S * 200_000, E * 200_000, (S + E) * 100_000, S * 100_000 + E * 100_000, (S + E + r"\boxed{") * 50_000],
)
def test_hostile_text_is_cut_quickly(text: str) -> None:
    begin = time.process_time()
    answer(Answered(text, ""))
    assert time.process_time() - begin < 4.0
