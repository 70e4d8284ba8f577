"""Generated problems: right by an independent check, seeded, and never in two splits."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from data_reading import read
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import Example
from jobs.data.expressions import ExpressionError, solves, work_out
from jobs.data.generate import bucket
from jobs.data.generators import countdown, prosqa, shell_game
from jobs.data.generators.countdown import difficulty
from jobs.data.sets.countdown import outer_free
from jobs.data.solver import solve
from jobs.runtime.errors import JobUserError

GENERATORS = ["shell-game", "countdown-gen", "prosqa-gen"]
seeds = st.integers(0, 2**32)


def examples(name: str, **more: Any) -> list[Example]:
    return read(name=name, **more).examples


@pytest.mark.parametrize("name", GENERATORS)
def test_the_same_seed_gives_the_same_problems(name: str) -> None:
    first = examples(name, seed=5, limit=50)
    assert first == examples(name, seed=5, limit=50)
    assert first[20:30] == examples(name, seed=5, start=20, limit=10)
    assert {e.question for e in first}.isdisjoint(e.question for e in examples(name, seed=6, limit=50))
    assert len({e.id for e in first}) == len({e.question for e in first}) == 50


@pytest.mark.parametrize("name", GENERATORS)
def test_another_process_with_another_hash_seed_agrees(name: str) -> None:
    code = (
        "from jobs.data import load; from latentctl.spec.dataset import DatasetSpec; "
        f"print([(e.id, e.question, e.answer) for e in load(DatasetSpec(name={name!r}, limit=5)).examples])"
    )
    import os

    env = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == repr([(e.id, e.question, e.answer) for e in examples(name, limit=5)])


@pytest.mark.parametrize("name", GENERATORS)
def test_no_problem_stands_in_two_splits_whatever_the_seeds(name: str) -> None:
    seen = {
        split: {e.question for seed in range(3) for e in examples(name, split=split, seed=seed, limit=400)}
        for split in ("train", "valid", "test")
    }
    for one, other in itertools.combinations(seen.values(), 2):
        assert one.isdisjoint(other)


def test_small_games_are_shared_out_in_full_without_overlap() -> None:
    """All 3 x 3 x 3 = 27 games of three cups and two swaps: each in exactly one split."""
    found: list[str] = []
    for split in ("train", "valid", "test"):
        with pytest.raises(JobUserError) as caught:
            examples("shell-game", split=split, options={"cups": 3, "swaps": 2})
        count = int(re.findall(r"only (\d+) different", caught.value.message)[0])
        if count:
            found += [
                e.question
                for e in examples("shell-game", split=split, options={"cups": 3, "swaps": 2}, limit=count)
            ]
    assert len(found) == len(set(found)) == 27


@given(st.text(min_size=1))
def test_every_problem_has_one_bucket(key: str) -> None:
    assert bucket(key) == bucket(key) in range(100)


def test_buckets_are_even() -> None:
    counts = Counter(bucket(str(i)) for i in range(20_000))
    assert len(counts) == 100
    assert max(counts.values()) < 280
    assert min(counts.values()) > 130


@settings(deadline=None, max_examples=200)
@given(seeds, st.integers(2, 12), st.integers(1, 20))
def test_shell_game_by_moving_the_cups(seed: int, cups: int, swaps: int) -> None:
    """Independent check: move the cups themselves about, and look under each."""
    _, example = shell_game.draw(random.Random(seed), shell_game.Options(cups=cups, swaps=swaps))
    found = re.fullmatch(
        r"The ball is under cup (\w)\. Swaps: ([A-Z ]+)\. Where is the ball\?", example.question
    )
    assert found is not None
    start, moves = found[1], found[2].split()
    assert len(moves) == len(example.steps) == swaps
    places = {c: "ball" if c == start else "nothing" for c in "ABCDEFGHIJKLMNOPQRST"[:cups]}
    under = start
    for (a, b), step in zip(moves, example.steps, strict=True):
        assert a != b
        before = under
        places[a], places[b] = places[b], places[a]
        (under,) = [c for c, what in places.items() if what == "ball"]
        assert step == f"{before} {a}{b} {under}"
    assert places[example.answer] == "ball"


def test_shell_game_answers_are_even_and_need_the_whole_game() -> None:
    sample = examples("shell-game", limit=5000)
    counts = Counter(e.answer for e in sample)
    assert set(counts) == set("ABCDE")
    assert max(counts.values()) < 1.15 * min(counts.values())
    stays = sum(e.answer == e.question[22] for e in sample) / 5000
    assert 0.15 < stays < 0.25


def test_shell_game_has_few_distinct_words() -> None:
    texts = " ".join(
        f"{e.question} {' '.join(e.steps)} {e.answer}" for e in examples("shell-game", limit=2000)
    )
    assert len(set(re.findall(r"\w+|[^\w\s]", texts))) < 40


@settings(deadline=None, max_examples=300)
@given(seeds, st.sampled_from([[3], [4], [3, 4], [2, 6], [5]]), st.sampled_from([9, 25, 99]))
def test_countdown_solutions_are_exact(seed: int, nums: list[int], largest: int) -> None:
    """Independent check: Python's own evaluation with exact fractions, each number exactly once."""
    options = countdown.Options(nums=nums, max_number=largest, target=[5, 150])
    _, example = countdown.draw(random.Random(seed), options)
    exact = eval(re.sub(r"(\d+)", r"Fraction(\1)", example.answer), {"Fraction": Fraction})
    assert exact == example.meta["target"]
    assert Counter(map(int, re.findall(r"\d+", example.answer))) == Counter(example.meta["nums"])
    assert nums[0] <= len(example.meta["nums"]) <= nums[-1]
    assert all(1 <= n <= largest for n in example.meta["nums"])
    assert 5 <= example.meta["target"] <= 150
    pool = Counter(map(str, example.meta["nums"]))
    for step in example.steps:
        left, right = step.split("=")
        assert eval(re.sub(r"(\d+)", r"Fraction(\1)", left), {"Fraction": Fraction}) == int(right)
        used = Counter(re.findall(r"\d+", left))
        assert used <= pool
        pool = pool - used + Counter([right])
    assert pool == Counter([str(example.meta["target"])])


def test_countdown_question_names_numbers_and_target() -> None:
    for example in examples("countdown-gen", limit=100):
        shown = list(map(int, re.findall(r"\d+", example.question)))
        assert shown == [*example.meta["nums"], example.meta["target"]]


def test_countdown_splits_share_no_set_of_numbers() -> None:
    held = {
        s: {tuple(sorted(e.meta["nums"])) for e in examples("countdown-gen", split=s, limit=2000)}
        for s in ("train", "test")
    }
    assert held["train"].isdisjoint(held["test"])


def test_countdown_difficulty_can_be_chosen() -> None:
    easy = examples("countdown-gen", limit=50, options={"difficulty": [0.0, 0.2]})
    hard = examples("countdown-gen", limit=50, options={"difficulty": [0.5, 1.0], "nums": [4]})
    assert all(e.meta["difficulty"] <= 0.2 for e in easy)
    assert all(e.meta["difficulty"] >= 0.5 for e in hard)
    assert (
        difficulty(["+", "+"]) < difficulty(["+", "-"]) < difficulty(["*", "-"]) < difficulty(["/", "*", "-"])
    )


@pytest.mark.parametrize(
    "options",
    [
        {"nums": [1]}, {"nums": [4, 3]}, {"nums": [3, 7]}, {"nums": 4},
        {"target": [100, 10]}, {"target": [0, 5]},
        {"target": [1]}, {"max_number": 2}, {"difficulty": [0.5, 0.1]},
        {"difficulty": [0, 2]},
        {"number": 3},
    ],
)  # fmt: skip
def test_countdown_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(JobUserError) as caught:
        examples("countdown-gen", limit=1, options=options)
    assert caught.value.where == "dataset.options"


def test_options_that_nothing_fits_end_with_a_word() -> None:
    with pytest.raises(JobUserError, match="only 0 different"):
        examples("countdown-gen", limit=1, options={"nums": [2], "difficulty": [0.99, 1.0]})


def facts_of(question: str) -> tuple[dict[str, set[str]], str, str, str]:
    """The graph and the question, read from the text alone."""
    body, _, asked = question.rpartition(" Is ")
    after: dict[str, set[str]] = {}
    for subject, kind in re.findall(r"(?:Every )?(\w+) is a (\w+)\.", body):
        after.setdefault(subject, set()).add(kind)
    name, first, second = re.fullmatch(r"(\w+) a (\w+) or (\w+)\?", asked).groups()  # type: ignore[union-attr]
    return after, name, first, second


def reachable(after: dict[str, set[str]], start: str) -> set[str]:
    seen, todo = set(), [start]
    while todo:
        for kind in after.get(todo.pop(), ()):
            if kind not in seen:
                seen.add(kind)
                todo.append(kind)
    return seen


@settings(deadline=None, max_examples=200)
@given(
    seeds, st.sampled_from([[16, 24], [8, 8], [40, 60]]), st.sampled_from([[3, 6], [2, 2]]), st.integers(2, 6)
)
def test_prosqa_by_walking_the_facts(seed: int, kinds: list[int], hops: list[int], names: int) -> None:
    """Independent check: read the question as text; the answer can be reached, the other option cannot."""
    options = prosqa.Options(kinds=kinds, hops=hops, names=names)
    _, example = prosqa.draw(random.Random(seed), options)
    after, name, first, second = facts_of(example.question)
    target, other = example.meta["target"], example.meta["neg_target"]
    assert {first, second} == {target, other}
    assert example.answer == f"{name} is a {target}."
    known = reachable(after, name)
    assert target in known
    assert other not in known
    assert hops[0] <= len(example.steps) <= hops[1]
    chain = [re.fullmatch(r"(?:Every )?(\w+) is a (\w+)\.", s).groups() for s in example.steps]  # type: ignore[union-attr]
    assert chain[0][0] == name
    assert chain[-1][1] == target
    assert all(a[1] == b[0] for a, b in itertools.pairwise(chain))
    assert all(step in example.question for step in example.steps)
    edges = re.findall(r"(?:Every )?(\w+) is a (\w+)\.", example.question)
    assert len(edges) == len(set(edges))


def test_prosqa_steps_are_a_shortest_way() -> None:
    for example in examples("prosqa-gen", limit=100):
        after, name, _, _ = facts_of(example.question)
        layer, depth = {name}, 0
        while example.meta["target"] not in layer:
            layer, depth = {k for n in layer for k in after.get(n, ())}, depth + 1
        assert depth == len(example.steps)


def test_prosqa_order_of_options_tells_nothing() -> None:
    sample = examples("prosqa-gen", limit=2000)
    first = sum(facts_of(e.question)[2] == e.meta["target"] for e in sample)
    assert 900 < first < 1100


@pytest.mark.parametrize(
    "options", [{"kinds": [4, 200]}, {"hops": [1, 3]}, {"hops": [9, 12]}, {"names": 1}, {"kind": 3}]
)
def test_prosqa_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(JobUserError) as caught:
        examples("prosqa-gen", limit=1, options=options)
    assert caught.value.where == "dataset.options"


@pytest.mark.parametrize("name", GENERATORS)
def test_twenty_thousand_rows_take_seconds(name: str) -> None:
    start = time.process_time()
    assert len(examples(name)) == 20_000
    assert time.process_time() - start < 15


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(1, 60))
def test_the_solver_agrees_with_brute_force(nums: list[int], target: int) -> None:
    found = solve(nums, target)
    if found is not None:
        assert solves(found, nums, target)
    else:
        assert target not in all_values(tuple(Fraction(n) for n in nums))


def all_values(nums: tuple[Fraction, ...]) -> set[Fraction]:
    """Every value that can be made, by splitting the numbers in two in all ways: another algorithm."""
    if len(nums) == 1:
        return {nums[0]}
    out: set[Fraction] = set()
    for size in range(1, len(nums)):
        for chosen in itertools.combinations(range(len(nums)), size):
            left = all_values(tuple(nums[i] for i in chosen))
            right = all_values(tuple(nums[i] for i in range(len(nums)) if i not in chosen))
            for a, b in itertools.product(left, right):
                out |= {a + b, a - b, a * b} | ({a / b} if b else set())
    return out


@pytest.mark.parametrize(
    "text",
    ["", "2**9", "9**9**9", "7//2", "-3", "1.5+2", "f(2)", "a", "1 if 2 else 3", "(1", "1+", "'a'", "True+1",
     "1/0", "1/(2-2)", "[1]", "9" * 2000, "(" * 500, "1\n+2;3"],
)  # fmt: skip
def test_only_plain_arithmetic_is_worked_out(text: str) -> None:
    with pytest.raises(ExpressionError):
        work_out(text)


def test_parentheses_around_the_whole() -> None:
    assert outer_free("(1+(2*3))") == "1+(2*3)"
    assert outer_free("(1+2)*(3+4)") == "(1+2)*(3+4)"
    assert outer_free("7") == "7"
