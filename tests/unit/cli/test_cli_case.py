"""`latentctl case` from the command line: choosing, streams, exit codes, the page."""

from __future__ import annotations

import json

import pytest
from cli_world import World
from test_cli_imports import HEAVY, imported

from latentctl.report.text import columns
from tests.web.case_runs import fill, latent, make_run, sample, shell_game, wrong


@pytest.fixture
def game(world: World) -> World:
    """Two runs over the same three problems; the second one gets the second problem right."""
    shell_game(world.runs)
    other = shell_game(world.runs, "other", sharper=0.8)
    path = other.job("all").stage("score").samples
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] |= {"verdict": "correct", "extracted": "2", "reason": "equal to the gold", "text": "cup 2"}
    fill(other, rows)
    return world


def test_the_first_problem_is_shown_and_what_comes_next(game: World) -> None:
    done = game("case", "coconut")
    assert "problem 1 of 3: shell-game-test-0-0" in done.out
    assert "chosen: the first problem" in done.out
    assert "latentctl case coconut/score --id shell-game-test-0-0 --html" in done.err
    assert "\x1b" not in done.out
    assert all(columns(line) <= 80 for line in done.out.splitlines())


def test_id_index_and_worst_choose(game: World) -> None:
    assert "shell-game-test-0-2" in game("case", "coconut", "--id", "2").out
    worst = game("case", "coconut", "--worst").out
    assert "shell-game-test-0-1" in worst
    assert "the wrong answer with the largest mean entropy" in " ".join(worst.split())
    assert "has no sample 3" in game("case", "coconut", "--index", "3", code=3).err


def test_changed_lists_and_shows_both_chains(game: World) -> None:
    done = game("case", "coconut", "--changed", "other")
    assert "1 of 3 verdicts differ" in done.out
    assert "shell-game-test-0-1#0  ✗ wrong → ✓ correct" in done.out
    assert done.out.count("most likely next tokens") == 2
    data = game("case", "coconut", "--changed", "other", "--json").json["data"]
    assert data["judged"] == 3
    assert data["changed"] == [
        {
            "id": "shell-game-test-0-1",
            "index": 0,
            "before": {"verdict": "wrong", "extracted": "1", "reason": "1 is not 2"},
            "after": {"verdict": "correct", "extracted": "2", "reason": "equal to the gold"},
        }
    ]
    assert (data["case"]["run"], data["other"]["run"]) == ("coconut", "other")
    kept = game("case", "coconut", "--changed", "other", "--id", "0").out
    assert "problem 1 of 3: shell-game-test-0-0" in kept


def test_where_no_verdict_differs_there_is_nothing_to_show_and_no_error(game: World) -> None:
    done = game("case", "coconut", "--changed", "coconut")
    assert "0 of 3 verdicts differ" in done.out
    assert "problem 1" not in done.out
    data = game("case", "coconut", "--changed", "coconut", "--html", "none.html", "--json").json["data"]
    assert (data["case"], data["changed"], data["page"]) == (None, [], None)
    assert not (game.root / "none.html").exists()


def test_beside_shows_the_same_problem_of_another_run(game: World) -> None:
    done = game("case", "coconut", "--id", "1", "--beside", "other")
    assert done.out.index("── coconut/score") < done.out.index("── other/score")
    fill(make_run(game.runs / "less", {"score": "eval"}), [sample("shell-game-test-0-0", gold="9")])
    done = game("case", "coconut", "--id", "1", "--beside", "less")
    assert "less/score has no sample 0 of shell-game-test-0-1: shown alone" in done.err
    done = game("case", "coconut", "--beside", "less")
    assert "the two runs have different question and gold under this id" in done.err


def test_json_has_every_step_with_its_whole_distribution(game: World) -> None:
    envelope = game("case", "coconut", "--json").json
    assert (envelope["ok"], envelope["kind"]) == (True, "case")
    case = envelope["data"]["case"]
    assert (case["run"], case["stage"], case["problem"], case["problems"]) == ("coconut", "score", 1, 3)
    assert len(case["steps"]) == 6
    assert case["steps"][0]["tokens"][0] == [" 4", 0.3574]
    assert case["sample"]["verdict"] == "correct"
    assert case["input"] == "hidden"


@pytest.mark.parametrize(
    ("args", "file"),
    [
        (["coconut", "--html", "my.html"], "my.html"),
        (["coconut", "--html=my.html"], "my.html"),
        (["coconut", "--html"], "case-coconut-shell-game-test-0-0.html"),
        (["--html", "coconut"], "case-coconut-shell-game-test-0-0.html"),
        (["coconut", "--html", "--worst"], "case-coconut-shell-game-test-0-1.html"),
        (["coconut", "--html=runs"], "runs/case-coconut-shell-game-test-0-0.html"),
    ],
)
def test_html_writes_one_page_and_prints_its_path(game: World, args: list[str], file: str) -> None:
    done = game("case", *args)
    path = game.root / file
    assert done.out == f"{path}\n"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_cannot_be_written_where_there_is_no_folder(game: World) -> None:
    done = game("case", "coconut", "--html", "no/such/my.html", code=2)
    assert f"{game.root}/no/such: no such folder" in done.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nothing"], 3, "no run 'nothing'"),
        (["coconut/train"], 3, "stage train of coconut leaves no samples\nhint: stages with samples: score"),
        (["coconut/x"], 3, "coconut has no stage 'x'"),
        (
            ["coconut", "--id", "shell-gane"],
            3,
            "no problem 'shell-gane' among 3\nhint: ids look like shell-game",
        ),
        (["coconut", "--id", "shell"], 3, "'shell' is ambiguous: 3 ids begin with it"),
        (["coconut", "--worst", "--id", "1"], 2, "--worst chooses the problem itself"),
        (["coconut", "--changed", "other", "--beside", "other"], 2, "--changed shows the other run"),
        (["coconut", "--changed", "nothing"], 3, "no run 'nothing'"),
        (["coconut", "--changed", ""], 3, "no run ''"),
        (["coconut", "--index", "-1"], 2, "index"),
        (["empty"], 3, "empty/score has no samples yet\nhint: `latentctl status empty`"),
        (["right", "--worst"], 3, "none of 1 answers of right/score is wrong"),
    ],
)
def test_wrong_words_get_one_error_and_their_exit_code(
    game: World, args: list[str], code: int, words: str
) -> None:
    make_run(game.runs / "empty", {"score": "eval"})
    fill(make_run(game.runs / "right", {"score": "eval"}), [sample("a")])
    done = game("case", *args, code=code)
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_failure_is_an_envelope_too(game: World) -> None:
    done = game("case", "coconut", "--id", "x", "--json", code=3)
    assert done.json["error"]["kind"] == "not_found"


def test_other_evaluations_are_named(game: World) -> None:
    run = make_run(game.runs / "many", {"one": "eval", "two": "eval"})
    fill(run, [sample("a")], name="one")
    fill(run, [wrong("a", **latent(2))], name="two")
    done = game("case", "many")
    assert "many/two" in done.out
    assert "latentctl case many/one" in done.err


def test_a_damaged_line_is_noted_on_stderr(game: World) -> None:
    path = game.runs / "coconut/jobs/all/stages/score/samples.jsonl"
    path.write_text("{broken\n" + path.read_text())
    done = game("case", "coconut", "--json")
    assert done.json["data"]["notes"] == [f"{path}:1: not a sample, left out"]
    assert f"note: {path}:1: not a sample" in game("case", "coconut").err


def test_nothing_heavy_is_imported(game: World) -> None:
    for args in (["case", "coconut"], ["case", "coconut", "--html"], ["case", "--help"]):
        found = imported(game, *args)
        assert not [m for m in (*HEAVY, "yaml", "latentctl.spec") if m in found], args
    assert "rich" not in found
