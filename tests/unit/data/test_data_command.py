"""`latentctl data`, as a person calls it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.answers import checked

Write = Callable[..., str]


def call(*args: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "latentctl.cli.main", "data", *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def as_json(*args: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    return checked(call(*args, "--json", cwd=cwd, code=code).stdout)["data"]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    repo = Path(__file__).resolve().parents[3]
    monkeypatch.setenv("PYTHONPATH", str(repo))


def test_rows_as_a_model_sees_them(tmp_path: Path) -> None:
    text = call("shell-game", "--rows", "2", "--set", "prompt.form=coconut", cwd=tmp_path).stdout
    assert "20,000 (train), 0 bad" in text
    assert text.count("Where is the ball?") == 2
    before, _, loss = text.partition("⟦")
    assert "Where is the ball?" in before
    assert loss.partition("⟧")[0].split("\n")[-1].strip().startswith("### ")
    assert "\x1b" not in text


def test_lengths_fit_into_80_columns(tmp_path: Path, write: Write) -> None:
    rows = [{"question": "q" * (1 + i * i % 977), "answer": "1"} for i in range(300)]
    text = call(
        write("r.jsonl", rows),
        "--rows",
        "0",
        "--set",
        "prompt.form=answer",
        "--set",
        "sft.target=answer",
        cwd=tmp_path,
    ).stdout
    bars = [line for line in text.split("\n") if "█" in line]
    assert 2 <= len(bars) <= 11
    assert all(len(line) <= 80 for line in bars)
    counts = [int(line.split()[1].replace(",", "")) for line in bars]
    assert sum(counts) == 300


def test_json_has_what_the_screen_has(tmp_path: Path, write: Write) -> None:
    path = write("r.jsonl", [{"question": "q1", "answer": "a1"}, {"question": "q2"}])
    found = as_json(path, cwd=tmp_path)
    (item,) = found["sets"]
    assert found["ok"] is False
    assert (item["rows"], item["bad"], item["bad_rows"][0]["line"]) == (1, 1, 2)
    assert item["samples"][0]["target"].endswith("\\boxed{a1}")
    assert item["lengths"]["unit"] == "characters"


def test_check_judges(tmp_path: Path, write: Write) -> None:
    good = write("good.jsonl", [{"question": "q", "answer": "1"}])
    bad = write("bad.jsonl", [{"question": "q", "answer": "1"}, {"question": 1}])
    assert call(good, "--check", cwd=tmp_path).stdout.rstrip().endswith("ok")
    text = call(bad, "--check", cwd=tmp_path, code=1).stdout
    assert f"{bad}:2: " in text
    assert "not ok" in text
    call(bad, "--check", "--set", "dataset.on_bad_row=skip", cwd=tmp_path)
    call("shell-game", "--check", cwd=tmp_path)
    assert "is empty" in call(write("none.jsonl", ""), "--check", cwd=tmp_path, code=1).stdout


def test_looking_at_bad_rows_is_no_failure_by_itself(tmp_path: Path, write: Write) -> None:
    bad = write("bad.jsonl", [{"question": "q", "answer": "1"}, {"question": 1}])
    assert "bad row" in call(bad, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["shel-game"], "did you mean shell-game"),
        (["shell-game", "--set", "dataset.options.swap=3"], "did you mean 'swaps'"),
        (["shell-game", "--set", "dataset.optoins.swaps=3"], "options"),
        (["shell-game", "--split", "dev"], "splits: train, valid, test"),
        (["./none.jsonl"], "no such file"),
        ([], "--list"),
        (["recipe.yaml", "--split", "test"], "--set"),
    ],
)
def test_what_a_person_can_mend_is_two_lines(tmp_path: Path, args: list[str], says: str) -> None:
    done = call(*args, cwd=tmp_path, code=2)
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


def test_a_failure_is_an_envelope_too(tmp_path: Path) -> None:
    done = call("shel-game", "--json", cwd=tmp_path, code=2)
    assert checked(done.stdout)["ok"] is False


def test_list(tmp_path: Path) -> None:
    text = call("--list", cwd=tmp_path).stdout
    for word in (
        "gsm8k-aug",
        "countdown-gen",
        "grader numeric",
        "option swaps = 8",
        "splits train, valid, test",
    ):
        assert word in text
    names = [d["name"] for d in checked(call("--list", "--json", cwd=tmp_path).stdout)["data"]]
    assert {"prosqa", "aime", "shell-game"} <= set(names)


RECIPE = """
name: two-stages
model: {{init: {{}}, tokenizer: {{kind: word}}}}
dataset: {{path: {train}}}
prompt: {{form: coconut}}
stages:
  - {{method: sft, train: {{max_len: 12}}}}
  - {{method: eval, dataset: {{path: {held}}}}}
"""


@pytest.mark.heavy
def test_a_recipe_in_tokens_with_its_leakage(tmp_path: Path, write: Write) -> None:
    rows = [{"question": f"How much is {i} plus {i} ?", "answer": str(2 * i)} for i in range(30)]
    train, held = write("train.jsonl", rows), write("held.jsonl", rows[10:12])
    recipe = write("recipe.yaml", RECIPE.format(train=train, held=held))
    found = as_json(recipe, "--rows", "1", cwd=tmp_path, code=0)
    sft, evaluation = found["sets"]
    assert (sft["name"], evaluation["name"]) == ("sft", "eval")
    assert sft["lengths"]["unit"] == "tokens"
    tokens = sft["samples"][0]["target_tokens"]
    assert "".join(tokens[:-1]).replace(" ", "") == "###0"
    assert tokens[-1] not in sft["samples"][0]["target"]
    assert "".join(sft["samples"][0]["prompt_tokens"]) == sft["samples"][0]["prompt"]
    assert sft["lengths"]["over"]["max_len"] == 12
    (pair,) = found["leakage"]["pairs"]
    assert (pair["exact"], pair["eval_rows"]) == (2, 2)
    text = call(recipe, "--check", cwd=tmp_path, code=1).stdout
    assert "2 of 2 questions" in text
    assert "not ok" in text


@pytest.mark.heavy
def test_in_a_models_own_tokens(tmp_path: Path, write: Write) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<unk>", "</s>", "one", "two", "three"])}, "<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>").save_pretrained(
        tmp_path / "m"
    )
    path = write("r.jsonl", [{"question": "one two", "answer": "three"}])
    options = ["--set", "prompt.form=answer", "--set", "sft.target=answer"]
    (item,) = as_json(path, "--model", str(tmp_path / "m"), *options, cwd=tmp_path)["sets"]
    assert item["note"] is None
    assert item["samples"][0]["prompt_tokens"] == ["one", "two"]
    assert item["samples"][0]["target_tokens"] == ["three", "</s>"]
    assert item["lengths"]["total"]["max"] == 4
    (item,) = as_json(path, "--model", "nobody/nothing-of-that-name", *options, cwd=tmp_path)["sets"]
    assert "characters" in item["note"]
    assert item["lengths"]["unit"] == "characters"
