"""`latentctl compare` and `latentctl report`, in one process: pages, forms, exit codes, refusals."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from evals_world import SAMPLING, right, sample_rows, score, thinking, write_run, write_sweep

from latentctl.cli.main import main
from tests.answers import checked

GOLDEN = Path(__file__).with_name("golden")


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return checked(self.out)


Call = Callable[..., Said]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """A command over the runs in `tmp_path / "runs"`."""
    monkeypatch.setenv("LATENTCTL_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Said:
        with pytest.raises(SystemExit) as end:
            main(list(args))
        printed = capsys.readouterr()
        return Said(int(end.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """Answer-only, CoT and Coconut over the same 40 problems, an unfinished stage, and a sweep with seeds."""
    runs = tmp_path / "runs"
    answers = sample_rows(right(*[1] * 8, *[0] * 32))
    steps = sample_rows(right(*[1] * 39, 0))
    thoughts = sample_rows(right(0, 0, *[1] * 38), prompt="Q{i}\n<|start-latent|>")
    fast = {"problems_per_s": 300.0, "tokens_mean": 2.0}
    write_run(runs, "answer-11111111", {"answer-eval": (score(answers, **fast), answers)})
    ends = {"stop_causes": {"eos": 39, "length": 1}, "truncated": 0.025, "graded_errors": 1}
    write_run(runs, "cot-22222222", {"cot-eval": (score(steps, tokens_mean=37.6, **ends), steps)})
    numbers = score(thoughts, **thinking(8.0, problems_per_s=220.5, latent_causes={"fixed": 40}))
    write_run(runs, "coconut-33333333", {"coconut.4-eval": (numbers, thoughts), "hard": (None, None)})
    points = {}
    for lr, shares in {"0.001": (20, 24), "0.0001": (10, 8)}.items():
        for seed, count in enumerate(shares):
            rows = sample_rows(right(*[1] * count, *[0] * (40 - count)))
            name = f"grid-{seed}000{len(lr):04d}"
            sampling = {**SAMPLING, "temperature": 0.7}
            write_run(runs, name, {"score": (score(rows, sampling=sampling), rows)})
            points[name] = {"train.lr": lr, "seed": seed}
    write_run(runs, "grid-99999999", {"score": (None, None)})
    points["grid-99999999"] = {"train.lr": "0.0001", "seed": 2}
    write_sweep(runs, "lr_sweep-44444444", points)
    return runs


STORY = ("answer", "cot", "coconut")
PAGES = {
    "compare.txt": ("compare", *STORY),
    "compare.md": ("compare", *STORY, "--baseline", "cot", "--markdown"),
    "compare.csv": ("compare", *STORY, "lr_sweep", "--csv"),
    "report.txt": ("report", *STORY, "lr_sweep"),
    "report.md": ("report", *STORY, "lr_sweep", "--markdown"),
    "report.tex": ("report", *STORY, "lr_sweep", "--latex"),
    "report.csv": ("report", *STORY, "lr_sweep", "--csv"),
    "sweep.md": ("report", "lr_sweep", "--markdown"),
}


@pytest.mark.usefixtures("story")
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_as_they_were_agreed(call: Call, name: str) -> None:
    said = call(*PAGES[name])
    assert said.code == 0
    assert said.out == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.usefixtures("story")
@pytest.mark.parametrize(
    "command", [("compare", *STORY, "lr_sweep"), ("report", *STORY, "lr_sweep"), ("report", "cot")]
)
def test_pages_fit_80_columns(call: Call, command: tuple[str, ...]) -> None:
    table = call(*command).out.split("\nmarks:")[0]
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.usefixtures("story")
def test_json_says_what_csv_says(call: Call) -> None:
    data = call("compare", *STORY, "--json").json["data"]
    lines = list(csv.DictReader(io.StringIO(call("compare", *STORY, "--csv").out)))
    assert [row["number"] for row in data["rows"]] == [1, 2, 3, 4]
    for row, line in zip(data["rows"], lines, strict=True):
        for key in ("run", "stage"):
            assert line[key] == row[key]
        for key in (
            "accuracy",
            "difference",
            "difference_low",
            "common",
            "latents_mean",
            "seconds_per_problem",
        ):
            assert (float(line[key]) if line[key] else None) == row[key]
    coconut = data["rows"][2]
    assert coconut["difference"] == pytest.approx(38 / 40 - 8 / 40)
    assert (coconut["better"], coconut["worse"], coconut["common"]) == (32, 2, 40)
    assert coconut["seconds_per_problem"] == pytest.approx(1 / 220.5)
    assert data["rows"][3]["marks"] == [{"letter": "u", "text": "planned"}]


@pytest.mark.usefixtures("story")
def test_report_json_has_full_precision_and_the_seeds(call: Call) -> None:
    rows = call("report", "lr_sweep", "--json").json["data"]["rows"]
    assert [(r["varies.train.lr"], r["runs"], r["runs_asked"], r["unfinished"]) for r in rows] == [
        ("0.001", 2, 2, None),
        ("0.0001", 2, 3, "planned"),
    ]
    assert [r["accuracy"] for r in rows] == pytest.approx([22 / 40, 9 / 40])
    assert [r["best"] for r in rows] == [True, False]


def test_report_tells_gpu_hours_of_each_run_once(call: Call, story: Path) -> None:
    assert "GPU-hours" not in call("report", "cot", "answer").err, "no GPU, nothing to tell"
    (run,) = story.glob("cot-*")
    plan = json.loads((run / "plan.json").read_text())
    plan["jobs"][0] |= {"gpus_per_node": 4, "nodes": 2, "time_s": 7200}
    (run / "plan.json").write_text(json.dumps(plan))
    for number, (start, end) in enumerate((("10:00", "10:15"), ("11:00", "11:30")), start=1):
        attempt = run / "jobs" / "all" / "attempts" / str(number)
        attempt.mkdir(parents=True)
        (attempt / "attempt.json").write_text(json.dumps({"time": f"2026-01-01T{start}:00+00:00"}))
        said = {"time": f"2026-01-01T{end}:00+00:00", "exit": "requeued"}
        (attempt / "end.json").write_text(json.dumps(said))
    assert "GPU-hours: 6.00 used, 16 asked for at most" in call("report", "cot", "cot", "answer").err
    told = call("report", "cot", "--json").json["data"]["gpu_hours"]
    assert told == {"used": 6.0, "asked": 16.0}


@pytest.mark.usefixtures("story")
def test_strict_makes_a_mark_an_error(call: Call) -> None:
    clean = call("compare", "answer", "coconut/coconut.4-eval", "--strict")
    assert (clean.code, clean.err) == (0, "")
    marked = call("compare", "answer", "cot", "--strict")
    assert marked.code == 1
    assert "2 e  1 answer could not be graded" in marked.out, "the page comes all the same"
    assert "1 of 2 rows have marks" in marked.err


@pytest.mark.usefixtures("story")
def test_a_baseline_that_is_not_among_the_rows_comes_first(call: Call) -> None:
    rows = call("compare", "answer", "--baseline", "cot", "--json").json["data"]["rows"]
    assert [row["run"] for row in rows] == ["cot-22222222", "answer-11111111"]
    assert rows[1]["difference"] == pytest.approx((8 - 39) / 40)


@pytest.mark.usefixtures("story")
def test_one_evaluation_is_shown_and_says_how_to_add_another(call: Call) -> None:
    said = call("compare", "cot")
    assert said.code == 0
    assert "97.5 %" in said.out
    assert "nothing to compare it with" in said.err
    assert "latentctl compare cot-22222222 OTHER_RUN" in said.err


@pytest.mark.usefixtures("story")
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("compare", "nobody"), 3, "no run 'nobody'"),
        (("compare", "cot/sft"), 3, "stage 'sft' of run cot-22222222 is no evaluation"),
        (("compare", "cot", "--baseline", "coconut"), 2, "--baseline coconut: 2 evaluations"),
        (("compare", "cot", "--baseline", "nobody"), 3, "no run 'nobody'"),
        (("compare", "cot", "--csv", "--markdown"), 2, "give one"),
        (("compare", "cot", "--csv", "--json"), 2, "give one"),
        (("compare", "cot", "--plot", "steps.gif"), 2, "a plot ends in .png, .svg, .pdf"),
        (("compare", "cot", "--plot", "nowhere/steps.png"), 2, "no such folder"),
        (("compare", "coconut/hard", "--plot", "steps.svg"), 2, "nothing to plot"),
        (("compare",), 2, "Missing argument"),
        (("report", "nobody"), 3, "no run 'nobody'"),
        (("report", "cot", "--csv", "--latex"), 2, "give one"),
        (("report", "cot", "--csv", "--out", "nowhere/table.csv"), 2, "no such folder"),
        (("report", "cot", "--csv", "--out", "."), 2, "cannot be written"),
        (("report", "cot", "--json", "--out", "t.json"), 2, "--json goes to stdout"),
    ],
)
def test_wrong_use_is_one_clear_error(call: Call, args: tuple[str, ...], code: int, message: str) -> None:
    said = call(*args)
    assert said.code == code
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_run_whose_plan_is_damaged_is_one_clear_error(call: Call, story: Path) -> None:
    (story / "cot-22222222" / "plan.json").write_text('{"version": 1')
    said = call("compare", "answer", "cot")
    assert said.code == 2
    assert "the run cannot be read" in said.err
    assert "Traceback" not in said.err
    assert call("compare", "answer", "cot", "--json").json["ok"] is False


@pytest.mark.usefixtures("story")
def test_report_writes_a_file(call: Call, tmp_path: Path) -> None:
    said = call("report", *STORY, "lr_sweep", "--latex", "--out", "table.tex")
    assert said.out == ""
    assert "wrote table.tex: 6 rows" in said.err
    assert (tmp_path / "table.tex").read_text() == (GOLDEN / "report.tex").read_text(encoding="utf-8")


PROBE = """
import json, sys
from latentctl.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("MODULES" + json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_comparison_imports_nothing_heavy(story: Path, command: str) -> None:
    args = [command, *STORY, "--runs-dir", str(story)]
    done = subprocess.run([sys.executable, "-c", PROBE, *args], capture_output=True, text=True, check=True)
    found = set(json.loads(done.stderr.rsplit("MODULES", 1)[1]))
    heavy = {"torch", "numpy", "matplotlib", "rich", "yaml", "latentctl.spec", "submitit"}
    assert not found & heavy
