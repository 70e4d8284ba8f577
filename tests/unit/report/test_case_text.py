"""What a case looks like on a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from latentctl.report.case import Case, Choice, case_of, changed
from latentctl.report.case_files import find
from latentctl.report.case_text import print_case, print_changed
from tests.web.case_runs import fill, latent, make_run, sample, shell_game, step, trace, wrong

NASTY = ["شكرا", " 数学", "\u202eevil", "\x1b[31m", "\u0301", "🧠" * 9, " " * 70, "[bold]x[/bold]", "[/]"]


def shown(*cases: Case, colour: bool = False, width: int = 80, **more: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    print_case(console, cases, Choice(("", 0), "because").words, **more)
    return out.getvalue()


def only(tmp_path: Path, row: dict, traces: list[dict], name: str = "r") -> Case:
    fill(make_run(tmp_path / name, {"score": "eval"}), [row], traces)
    found = case_of(find(tmp_path, name), (row["id"], row["index"]))
    assert found is not None
    return found


def test_a_case_shows_question_steps_text_and_verdict(tmp_path: Path) -> None:
    shell_game(tmp_path)
    case = case_of(find(tmp_path, "coconut"), ("shell-game-test-0-1", 0))
    assert case is not None
    text = shown(case)
    order = [
        "coconut/score",
        "problem 2 of 3: shell-game-test-0-1",
        "There are 5 cups",
        "gold\n  2",
        "6 latent steps (input hidden); 8 tokens of text",
        "1.08  ·4 0.60  ·2 0.24  ·cup 0.10",
        "fixed: the fixed number of steps was reached",
        "eos: the model ended it",
        "The ball is under cup 1.",
        "✗ wrong\n  read 1: 1 is not 2",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "\x1b" not in text


def test_nothing_is_wider_than_80_columns_or_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    steps = [step([*NASTY[i:], *NASTY[:i]], 0.3, mass=0.5, noised=True) for i in range(len(NASTY))]
    long = "شكرا 数学 \x1b[2J\u202e 🧠" * 30 + "x" * 200 + "\t\tend   \n\n  z"
    row = wrong(
        "数" * 60, question=long, gold=long, text=long, reason=long, extracted=long, **latent(len(steps))
    )
    text = shown(only(tmp_path, row, [trace(row["id"], steps)]))
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    assert not any(c in text for c in ("\x1b", "\u202e", "\t"))
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "[bold]x[/bold]" in text
    assert "◌\u0301" in text


@pytest.mark.parametrize("width", [20, 40])
def test_a_narrow_terminal_is_bad_luck_and_no_error(tmp_path: Path, width: int) -> None:
    row = wrong("a", **latent(3))
    shown(only(tmp_path, row, [trace("a", [step(NASTY, 0.3)] * 3)]), width=width)


def test_a_long_chain_shows_its_ends_and_one_line_for_the_middle(tmp_path: Path) -> None:
    steps = [step(["a", "b"], 0.0 if i == 3000 else 3.0) for i in range(6000)]
    case = only(tmp_path, sample("a", **latent(6000, "max_len")), [trace("a", steps)])
    text = shown(case)
    assert "[5,976 latent steps, entropy 0.19-0.69]  --all shows them" in text
    assert len(text.splitlines()) < 60
    assert "      16  " in text
    assert "      17  " not in text
    assert "   5,993  " in text
    whole = shown(case, whole=True)
    assert sum("·" not in line and " a 0." in line for line in whole.splitlines()) == 6000
    assert "[5,976" not in whole


def test_many_spans_are_shown_in_order_with_the_text_between(tmp_path: Path) -> None:
    row = sample("a", text="one two", latents=3, latent_cause="end_marker", spans=[[0, 1], [4, 2]])
    lines = shown(only(tmp_path, row, [trace("a", [step(["x", "y"], 1.0)] * 3)])).splitlines()
    at = [i for i, line in enumerate(lines) if line.startswith("       ") and "x 0.73" in line]
    assert [lines[i].split()[0] for i in at] == ["1", "2", "3"]
    assert lines[at[0] + 1] == "        one"
    assert "  [1 latent step] one [2 latent steps] two" in lines[at[2] :]


def test_an_untraced_chain_is_a_run_length_and_the_reason(tmp_path: Path) -> None:
    text = shown(only(tmp_path, sample("a", **latent(6)), []))
    assert "[6 latent steps]" in text
    assert "note: no trace of its latent steps" in text


def test_an_explicit_run_shows_text_tokens_log_probability_and_cause(tmp_path: Path) -> None:
    text = shown(only(tmp_path, sample("a", tokens=4, logp_sum=-2.0, cause="length"), []))
    for part in (
        "4 tokens of text; log-prob -0.5 a token",
        "no latent steps",
        "length: cut at max_new_tokens",
    ):
        assert part in text


def test_entropy_has_a_colour_where_there_are_colours(tmp_path: Path) -> None:
    sure, unsure = step(["a", "b"], 9.0), step(["a", "b", "c", "d"], 0.0)
    case = only(tmp_path, sample("a", **latent(2)), [trace("a", [sure, unsure])])
    lines = [line for line in shown(case, colour=True).splitlines() if " 0." in line or " 1.39" in line]
    styles = [line.split("\x1b[")[1].split("m")[0] for line in lines if "\x1b[" in line][-2:]
    assert styles[0] != styles[1]


def test_two_runs_follow_one_another_under_one_question_and_one_scale(tmp_path: Path) -> None:
    shell_game(tmp_path)
    shell_game(tmp_path, "other", sharper=0.8)
    key = ("shell-game-test-0-0", 0)
    found = [case_of(find(tmp_path, n), key) for n in ("coconut", "other")]
    text = shown(*[c for c in found if c is not None])
    assert text.count("There are 5 cups") == 1
    assert text.index("── coconut/score ──") < text.index("── other/score ──")
    assert text.count("████████") == 2  # the largest entropy, in the first run alone


def test_the_list_of_changed_verdicts_is_short_and_counts_all(tmp_path: Path) -> None:
    names = [f"q{i}" for i in range(30)]
    fill(make_run(tmp_path / "a", {"score": "eval"}), [sample(n) for n in names])
    fill(make_run(tmp_path / "b", {"score": "eval"}), [wrong(n) if n != "q3" else sample(n) for n in names])
    a, b = find(tmp_path, "a"), find(tmp_path, "b")
    found, judged = changed(a, b, a.rows)
    out = io.StringIO()
    print_changed(Console(file=out, width=80, no_color=True), found, judged, (a.name, b.name))
    text = out.getvalue()
    assert "29 of 30 verdicts differ" in text
    assert "q0#0  ✓ correct → ✗ wrong  3 → 1" in text
    assert "q3#0" not in text
    assert "... and 17 more" in text
