"""Slices, ids, places, options, plugins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from data_reading import read

from jobs.data import load
from jobs.data.registry import find
from jobs.runtime.errors import JobUserError
from latentctl.spec.dataset import DatasetSpec

Write = Callable[..., str]
ROWS = [{"question": f"q{i}", "answer": str(i)} for i in range(20)]


def answers(path: str | None = None, **more: object) -> list[str]:
    return [e.answer for e in read(path, **more).examples]


def refusal(path: str | None = None, **more: object) -> JobUserError:
    with pytest.raises(JobUserError) as caught:
        read(path, **more)
    return caught.value


def test_slices_are_parts_of_one_order(write: Write) -> None:
    path = write("r.jsonl", ROWS)
    assert answers(path, start=3, limit=2) == ["3", "4"]
    assert answers(path, start=18, limit=9) == ["18", "19"]
    whole = answers(path, seed=7)
    assert sorted(whole, key=int) == [str(i) for i in range(20)]
    assert answers(path, seed=7, start=5, limit=6) == whole[5:11]
    assert answers(path, seed=7) == whole
    assert answers(path, seed=8) != whole


def test_the_shuffle_is_the_same_on_every_machine(write: Write) -> None:
    """Pinned: a change would silently change every run that says `seed`."""
    assert answers(write("r.jsonl", ROWS), seed=0) == [
        "10", "18", "16", "14", "0", "17", "11", "2", "3", "9",
        "5", "7", "4", "19", "6", "15", "8", "1", "13", "12"
    ]  # fmt: skip


def test_ids_stay_with_their_rows_under_any_slice(write: Write) -> None:
    path = write("r.jsonl", ROWS)
    ids = {e.answer: e.id for e in read(path).examples}
    assert len(set(ids.values())) == 20
    for more in ({"seed": 3}, {"start": 4, "limit": 3}, {"seed": 3, "start": 2, "limit": 9}):
        assert all(ids[e.answer] == e.id for e in read(path, **more).examples)


def test_a_slice_beyond_the_end(write: Write) -> None:
    error = refusal(write("r.jsonl", ROWS), start=20)
    assert "only 20 rows" in error.message
    assert error.where == "dataset.start"


def test_folders_by_split(write: Write, tmp_path: Path) -> None:
    write("mine/train.jsonl", ROWS[:3])
    write("mine/validation.csv", "question,answer\nq,1\n")
    write("mine/dev.jsonl", ROWS[:2])
    write("mine/notes.md", "no data")
    folder = str(tmp_path / "mine")
    assert len(answers(folder)) == 3
    assert answers(folder, split="valid") == ["1"]
    error = refusal(folder, split="test")
    assert "train.jsonl" in error.message
    assert "notes.md" not in error.message


def test_two_files_that_could_be_meant(write: Write, tmp_path: Path) -> None:
    write("mine/train.jsonl", ROWS)
    write("mine/train.jsonl.gz", ROWS)
    assert "which one" in refusal(str(tmp_path / "mine")).message


def test_parquet_shards_in_a_folder(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "hub" / "data").mkdir(parents=True)
    for shard in range(2):
        table = pa.table({"question": [f"q{shard}"], "answer": [f"#### {shard}"]})
        pq.write_table(table, tmp_path / "hub" / "data" / f"train-0000{shard}-of-00002.parquet")
    assert answers(str(tmp_path / "hub"), name="gsm8k") == ["0", "1"]


def test_a_path_that_is_not_there(write: Write, tmp_path: Path) -> None:
    path = write("rows.jsonl", ROWS)
    error = refusal(path.replace("rows", "row"))
    assert "no such file" in error.message
    assert path in (error.hint or "")
    assert "no such file" in refusal(str(tmp_path / "not" / "here" / "a.jsonl")).message


def test_offline_a_hub_id_is_one_clear_error() -> None:
    error = refusal("nobody/nothing-of-that-name")
    assert "Hugging Face Hub" in error.message
    assert "dataset.path" in (error.hint or "")


def test_an_unknown_name_gets_the_nearest() -> None:
    error = refusal(name="gsm8")
    assert "did you mean 'gsm8k'" in (error.hint or "")
    assert "--list" in (error.hint or "")


def test_an_unknown_option_gets_the_nearest() -> None:
    error = refusal(name="shell-game", options={"swap": 3, "cups": 1})
    assert "no option 'swap'" in error.message
    assert "options.cups" in error.message
    assert "did you mean 'swaps'" in (error.hint or "")
    assert "no option" in refusal(name="svamp", options={"x": 1}, data_dir="/").message
    assert "options.swaps" in refusal(name="shell-game", options={"swaps": "8"}).message


def test_a_generator_has_no_path_and_three_splits() -> None:
    assert "reads no file" in refusal("x.jsonl", name="shell-game").message
    assert "train, valid, test" in (refusal(name="shell-game", split="dev").hint or "")


def test_a_named_dataset_of_one_split() -> None:
    assert "splits: test" in (refusal(name="math500", split="train").hint or "")


PLUGIN = '''
from jobs.data import Example, dataset

@dataset("{name}", grader="numeric", instruction="A number.")
def squares(split, options):
    """Squares."""
    for i in range(5 if split == "train" else 2):
        yield Example(str(i), f"What is {{i}} squared?", str(i * i), (f"{{i}}*{{i}}={{i * i}}",))
'''


def test_own_datasets_from_a_python_file(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(name="own-squares"))
    loaded = read(name="own-squares", plugins=[str(plugin)], start=1, limit=2)
    assert [e.answer for e in loaded.examples] == ["1", "4"]
    assert (loaded.grader, loaded.instruction) == ("numeric", "A number.")
    assert len(load(DatasetSpec(name="own-squares"), split="test", plugins=[str(plugin)]).examples) == 2
    assert "no option" in refusal(name="own-squares", options={"x": 1}).message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n\nraise RuntimeError('oh')", "oh"),
        ("x = (\n", "syntax"),
        (PLUGIN.format(name="gsm8k"), "already a dataset"),
    ],
)
def test_a_plugin_that_fails_names_its_line(tmp_path: Path, code: str, message: str) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(code)
    before = set(sys.modules)
    error = refusal(name="gsm8k", plugins=[str(plugin)])
    assert message in str(error)
    assert str(plugin) in (error.where or "")
    assert not {m for m in set(sys.modules) - before if "plugin" in m}


def test_a_plugin_that_is_not_there() -> None:
    assert "no such plugin" in refusal(name="gsm8k", plugins=["/no/such.py"]).message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('    return [Example("a", "q", "1"), Example("a", "q", "2")]', "not unique"),
        ('    return [{"question": "q"}]', "not an Example"),
        ("    return []", "no examples"),
    ],
)
def test_what_an_own_dataset_gives_is_checked(tmp_path: Path, body: str, message: str) -> None:
    name = f"own-{message.replace(' ', '-').lower()}"
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        f"from jobs.data import Example, dataset\n\n@dataset({name!r})\ndef make(split, options):\n{body}\n"
    )
    assert message in refusal(name=name, plugins=[str(plugin)]).message


def test_own_datasets_from_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.data import registry

    (tmp_path / "their_package.py").write_text(PLUGIN.format(name="their-squares"))
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[latentctl.datasets]\ntheir-squares = their_package:squares\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_loaded", False)
    assert find("their-squares").name == "their-squares"
    assert len(read(name="their-squares").examples) == 5


def test_listing_needs_no_torch_and_names_every_dataset() -> None:
    import subprocess

    code = (
        "import sys; from jobs.data.listing import listing; names = {d['name'] for d in listing()}; "
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules); print(*sorted(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    asked = "gsm8k gsm8k-aug countdown prosqa prontoqa math math500 aime mmlu-stem arc-challenge metamathqa"
    assert set(asked.split()) | {"countdown-gen", "prosqa-gen", "shell-game"} <= set(done.stdout.split())
