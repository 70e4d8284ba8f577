"""All rewards of a stage together: values, totals, what fails, own rewards and their processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from reward_views import attempt, latent

from jobs.grade import pool
from jobs.grade.pool import Pool
from jobs.grade.protocol import Answered
from jobs.grade.rewards import Attempt, Rewards, register
from jobs.grade.rewards.own import get
from jobs.runtime.errors import JobUserError
from latentctl.spec.rewards import BUILT_IN, RewardsSpec

PLUGIN = str(Path(__file__).with_name("own_rewards.py"))


def rewards(weights: dict[str, Any], grader: str = "numeric", **said: Any) -> Rewards:
    settings: dict[str, Any] = {
        "form": "plain",
        "latent": None,
        "max_len": 256,
        "model": "Qwen/Qwen2.5-3B",
        "timeout": 10.0,
        "workers": 1,
    }
    return Rewards(RewardsSpec.model_validate(weights), grader, **{**settings, "plugins": [PLUGIN], **said})


RIGHT = attempt(r"<think>a b</think>\boxed{5}")
WRONG = attempt(r"<think>a b</think>\boxed{6} hmm")
NOTHING = attempt("")


def test_each_reward_is_kept_before_its_weight() -> None:
    weights = {"correctness": 1.0, "answer_format": 0.1, "strict_format": 0.2, "response_think": -5.0}
    with rewards(weights) as judge:
        assert judge.names == ("correctness", "answer_format", "strict_format", "response_think")
        right, wrong, nothing = judge.judge([RIGHT, WRONG, NOTHING])
    assert right.values == {
        "correctness": 1, "answer_format": 1, "strict_format": 1, "response_think": 2 / 500,
    }  # fmt: skip
    assert right.total == pytest.approx(1 + 0.1 + 0.2 - 5 * 2 / 500)
    assert wrong.total == pytest.approx(0.1 + 0.2 - 5 * 2 / 500)
    assert nothing.total == 0
    assert (right.verdict.status, wrong.verdict.status, nothing.verdict.status) == (
        "correct",
        "wrong",
        "wrong",
    )
    assert not right.failures
    assert not judge.failed


def test_what_has_no_weight_is_not_worked_out() -> None:
    with rewards({"correctness": 0, "loose_format": 1, "own": {"wild_here": 0}}) as judge:
        (one,) = judge.judge([attempt("raise")])
    assert one.values == {"loose_format": 0}
    assert one.total == 0


def test_no_attempts_are_no_rewards() -> None:
    with rewards({}) as judge:
        assert judge.judge([]) == []


ALL = dict.fromkeys(BUILT_IN, 1.0)


def test_all_rewards_of_a_latent_attempt() -> None:
    said = {"latents": 75, "prompt": "Q<think>"}
    with rewards(ALL, latent=latent(max_len=100, end_marker=True)) as judge:
        right, wrong = judge.judge(
            [attempt(r"</think>\boxed{5}", **said), attempt(r"</think>\boxed{6}", **said)]
        )
    assert right.values == pytest.approx(
        {**dict.fromkeys(BUILT_IN, 1), "latent_len": 0.5, "response_think": 0.15}
    )
    assert wrong.values == pytest.approx({**right.values, "correctness": 0, "latent_len": (0.75 - 0.9) / 0.9})


@pytest.mark.parametrize(
    ("stop", "latents", "value"),
    [
        ({"max_len": 100, "end_marker": True}, 75, 0.5),
        ({"fixed": 80, "max_len": 100, "end_marker": True}, 60, 0.5),
        ({"per_step": {"latents": 2}, "end_marker": True}, 192, 0.5),
    ],
)
def test_latent_len_is_measured_by_the_longest_span(stop: dict[str, Any], latents: int, value: float) -> None:
    with rewards({"latent_len": 1}, latent=latent(**stop)) as judge:
        (one,) = judge.judge([attempt(r"</think>\boxed{5}", latents=latents)])
    assert one.values["latent_len"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("said", "model", "value"),
    [
        ("auto", "Qwen/Qwen3-4B", 0.02),
        ("auto", "Qwen/Qwen3-4B-Base", 1),
        (True, "gpt2", 0.02),
        (False, "Qwen/Qwen3-4B", 1),
        ("auto", None, 1),
    ],
)
def test_whose_answers_are_long_follows_the_name_unless_it_is_said(
    said: Any, model: str | None, value: float
) -> None:
    with rewards({"answer_len": 1, "reasoning": said}, model=model) as judge:
        (one,) = judge.judge([attempt("<think>a</think>one two")])
    assert one.values["answer_len"] == pytest.approx(value)


@pytest.mark.parametrize("grader", ["shaky", "shaky_here"])
def test_a_grader_that_fails_leaves_the_reward_unknown_never_wrong(grader: str) -> None:
    weights = {"correctness": 1, "loose_format": 1, "latent_len": 1}
    with rewards(weights, grader, latent=latent()) as judge:
        failed, right, wrong = judge.judge([attempt("raise"), attempt("5"), attempt("6")])
        assert judge.failed == {"grader": 1}
        assert "no idea" in judge.why["grader"]
    assert failed.total is None
    assert failed.values == {"correctness": None, "loose_format": 0, "latent_len": None}
    assert failed.verdict.status == "error"
    assert "RuntimeError: no idea" in failed.failures["grader"]
    assert (right.total, wrong.total) == (2, -1)


def test_a_grader_that_fails_leaves_even_rewards_without_it_unknown() -> None:
    with rewards({"correctness": 0, "loose_format": 1}, "shaky_here") as judge:
        (one,) = judge.judge([attempt("raise")])
    assert (one.values, one.total) == ({"loose_format": 0}, None)


def test_a_problem_that_lacks_what_a_reward_needs_is_told() -> None:
    with rewards({"answer_format": 1}, "countdown") as judge:
        lacking, whole = judge.judge(
            [attempt(r"</think>\boxed{1}"), attempt(r"</think>\boxed{1}", meta={"nums": [1], "target": 1})]
        )
        assert judge.failed == {"grader": 1, "answer_format": 1}
    assert lacking.total is None
    assert lacking.failures["answer_format"] == "answer_format cannot be worked out: KeyError: 'nums'"
    assert whole.total == 2


BAD = [
    ("raise", "the reward failed: RuntimeError: broken"),
    ("nan", "the reward returned nan: expected a finite number"),
    ("inf", "the reward returned inf: expected a finite number"),
    ("text", "the reward returned '0.5': expected a finite number"),
    ("none", "the reward returned None: expected a finite number"),
]
BAD_APART = [
    ("memory", "the reward failed: MemoryError: "),
    ("hang", "timed out after 1 s"),
    ("die", "the reward's process died: exit code 3"),
]


@pytest.mark.parametrize(("name", "cases"), [("wild_here", BAD), ("wild_reward", BAD + BAD_APART)])
def test_an_own_reward_that_fails_is_flagged_with_its_name_never_zero(
    name: str, cases: list[tuple[str, str]]
) -> None:
    texts = ["ab", *(text for text, _ in cases), "abc"]
    with rewards({"own": {name: 0.5}}, "shaky_here", timeout=1.0, workers=2) as judge:
        begin = time.monotonic()
        found = judge.judge([attempt(text, gold="ab") for text in texts if text != "raise"])
        assert time.monotonic() - begin < 60
        assert judge.failed == {name: len(cases) - 1}
    first, *failed, last = found
    assert first.values == {"correctness": 1, name: 2}
    assert first.total == 2
    assert (last.values[name], last.total) == (3, 1.5)
    for one, (_, words) in zip(failed, [c for c in cases if c[0] != "raise"], strict=True):
        assert one.total is None
        assert one.values == {"correctness": 0, name: None}
        assert dict(one.failures) == {name: words}


@pytest.mark.parametrize("name", ["wild_here", "wild_reward"])
def test_an_own_reward_that_raises_is_flagged_with_what_it_raised(name: str) -> None:
    with rewards({"own": {name: 1}}) as judge:
        (one,) = judge.judge([attempt("raise")])
    assert one.values[name] is None
    assert one.failures[name] == "the reward failed: RuntimeError: broken"
    assert one.total is None


def test_an_own_reward_sees_all_of_the_attempt_and_the_verdict() -> None:
    whole = attempt("5", meta={"k": [1, 2]}, prompt="Q", latents=7, truncated=True, tokens=3)
    with rewards({"own": {"seen": 1}}) as judge:
        (one,) = judge.judge([whole])
        assert one.values["seen"] == 1031
        assert judge.names == ("correctness", "seen")


def test_an_own_reward_is_warmed_up_and_says_how_much_memory_it_may_take() -> None:
    with rewards({"own": {"warmed": 1}}) as judge:
        small, big = judge.judge([attempt("small"), attempt("big")])
    assert small.values["warmed"] == 2
    assert big.failures["warmed"] == "the reward failed: MemoryError: "


def test_processes_live_as_long_as_the_rewards() -> None:
    with rewards({"own": {"pid": 1}}) as judge:
        pids = {judge.judge([attempt("5")])[0].values["pid"] for _ in range(3)}
        (pid,) = pids
        assert pid is not None
        os.kill(int(pid), 0)
        assert int(pid) != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_verdict_is_remembered_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REMEMBERED", 2)
    with Pool("shaky", timeout=10.0, workers=1, plugins=[PLUGIN]) as graders:
        verdicts = list(graders.grade([Answered(str(n), "3") for n in range(5)]))
        assert [v.correct for v in verdicts] == [False, False, False, True, False]
        assert len(graders._known) == 2
        assert [v.correct for v in graders.grade([Answered("3", "3"), Answered("0", "3")])] == [True, False]


def test_an_own_reward_that_nobody_knows_is_named_with_the_nearest() -> None:
    with pytest.raises(JobUserError, match="no reward is called 'wild_rewrad'") as caught:
        rewards({"own": {"wild_rewrad": 1}})
    assert "did you mean 'wild_reward'?" in (caught.value.hint or "")
    assert caught.value.where == "grpo.rewards.own"


def test_a_grader_that_nobody_knows_is_named_with_the_nearest() -> None:
    with pytest.raises(JobUserError, match="no grader is called 'nummeric'"):
        rewards({}, "nummeric")


class Taken:
    name = "correctness"

    def reward(self, attempt: Attempt, verdict: Any) -> float:
        return 0.0


def test_a_reward_needs_a_name_of_its_own() -> None:
    with pytest.raises(JobUserError, match="there is already a reward 'correctness'"):
        register(Taken())  # pyright: ignore[reportArgumentType]
    odd = Taken()
    odd.name = "My reward"
    with pytest.raises(JobUserError, match="a reward cannot be called 'My reward'"):
        register(odd)  # pyright: ignore[reportArgumentType]
    same = get("pid", [PLUGIN])
    assert register(same) is same
    other = Taken()
    other.name = "pid"
    with pytest.raises(JobUserError, match="there is already a reward 'pid'"):
        register(other)  # pyright: ignore[reportArgumentType]


def _package(folder: Path, body: str) -> None:
    (folder / "their_rewards.py").write_text(body)
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[latentctl.rewards]\ntheirs = their_rewards:Theirs\n")


THEIRS = """
class Theirs:
    name = "theirs"
    pooled = {pooled}

    def reward(self, attempt, verdict):
        return 7
"""


@pytest.mark.parametrize("pooled", [True, False])
def test_an_installed_package_may_bring_a_reward(
    pooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.grade.rewards import own

    _package(tmp_path, THEIRS.format(pooled=pooled))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_rewards", raising=False)
    monkeypatch.setattr(own, "_TABLE", dict(own._TABLE))
    with rewards({"own": {"theirs": 0.5}}) as judge:
        (one,) = judge.judge([attempt("5")])
    assert one.values["theirs"] == 7
    assert one.total == pytest.approx(4.5)
    monkeypatch.delitem(sys.modules, "their_rewards", raising=False)


def test_a_package_that_does_not_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.grade.rewards import own

    _package(tmp_path, "raise OSError('no disk')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_rewards", raising=False)
    monkeypatch.setattr(own, "_TABLE", {})
    with pytest.raises(
        JobUserError, match="the reward 'theirs' of their_rewards:Theirs does not load: no disk"
    ):
        rewards({"own": {"theirs": 0.5}})


def test_the_example_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.grade.rewards import own

    readme = (Path(own.__file__).parents[1] / "README.md").read_text()
    (code,) = [part.partition("```")[0] for part in readme.split("```python\n")[1:] if "class Brief" in part]
    (tmp_path / "brief.py").write_text(code)
    monkeypatch.setattr(own, "_TABLE", {})
    with rewards({"own": {"brief": 0.2}}, plugins=[str(tmp_path / "brief.py")]) as judge:
        (one,) = judge.judge([attempt("5" + " " * 499)])
    assert one.values["brief"] == pytest.approx(0.5)
    assert one.total == pytest.approx(1.1)


REFUSED = [
    ({"correctness": 0}, {}, "grpo.rewards", "every weight is 0"),
    ({"latent_len": 1}, {}, "grpo.rewards.latent_len", "there are no latent steps to count"),
    (
        {"latent_len": 1},
        {"latent": latent(fixed=6)},
        "grpo.rewards.latent_len",
        "latent.stop.fixed gives all rollouts",
    ),
    (
        {"strict_format": 1},
        {"form": "coconut"},
        "grpo.rewards.strict_format",
        "looks for the parts of the forms",
    ),
    (
        {"loose_format": 1},
        {"form": "answer"},
        "grpo.rewards.loose_format",
        "prompt.form: answer is the answer alone",
    ),
    ({"answer_len": 1}, {"form": "answer"}, "grpo.rewards.answer_len", "no markers that end the reasoning"),
    (
        {"response_think": 1},
        {"form": "coconut"},
        "grpo.rewards.response_think",
        "no markers that end the reasoning",
    ),
    (
        {"answer_format": 1},
        {"grader": "prosqa"},
        "grpo.rewards.answer_format",
        "the grader prosqa takes sentences",
    ),
]


@pytest.mark.parametrize(("weights", "said", "where", "words"), REFUSED)
def test_what_would_mean_nothing_is_refused(
    weights: dict[str, Any], said: dict[str, Any], where: str, words: str
) -> None:
    with pytest.raises(JobUserError) as caught:
        rewards(weights, **said)
    assert words in str(caught.value)
    assert caught.value.where == where
    assert caught.value.hint
