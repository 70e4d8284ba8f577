"""The eval method with latent steps: what it asks, what it writes, what it refuses, how it resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_stage import context, experiment, killed_after
from scripted_engine import ScriptedEngine, scripted

from jobs.data.load import load
from jobs.generate.protocol import Sample
from jobs.generate.text import decode
from jobs.grade import samples
from jobs.grade.judge import summary
from jobs.methods.asking import Asking
from jobs.methods.evaluate import Evaluate
from jobs.methods.protocol import Preempted, StageContext
from jobs.methods.rows import Rows
from jobs.runtime.errors import JobUserError
from latentctl.spec.experiment import Experiment

pytestmark = pytest.mark.heavy
HIDDEN: dict[str, Any] = {"input": "hidden", "markers": "coconut", "stop": 3}


def latent_experiment(latent: dict[str, Any] | None = HIDDEN, **stage: Any) -> Experiment:
    asked: dict[str, Any] = {
        "model": {"init": {"arch": "gpt2", "hidden": 32, "heads": 4, "max_len": 512},
                  "tokenizer": {"kind": "byte"}},
        "prompt": {"form": "coconut"},
        "sampling": {"max_new_tokens": 64},
        "latent": latent,
        **stage,
    }  # fmt: skip
    return experiment(**asked)


def checkpoint(folder: Path, **latent: Any) -> Path:
    """A directory that carries latent settings and no weights."""
    told = {"version": 1, "prompt": {"form": "coconut"}, "stage": "c.1", "method": "coconut", **latent}
    (folder / "latent.json").write_text(json.dumps(told))
    return folder


def questions(exp: Experiment, root: Path, **other: Any) -> Any:
    ctx = context(root, exp, **other)
    data = load(ctx.stage.dataset, data_dir=None, plugins=[])
    return Asking(ctx).put(data, data.examples)


def traces(ctx: StageContext) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ctx.paths.traces.read_text().splitlines()]


def test_rows_traces_and_numbers_tell_the_latent_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scripted(monkeypatch)
    exp = latent_experiment(eval={"trace_problems": 5, "trace_top": 3})
    ctx = context(tmp_path, exp)
    result = Evaluate(ctx).run()
    rows = samples.read(ctx.paths.samples)
    assert len(rows) == 12
    first = rows[0]
    assert first["text"] == "### b", "the end marker is not visible text"
    assert first["tokens"] == len("### b")
    assert (first["latents"], first["latent_cause"], first["spans"]) == (3, "fixed", [[0, 3]])
    assert first["forced"] == 0, "the end of a span is no forced end of reasoning"
    assert first["prompt"].endswith("<|start-latent|>")
    told = traces(ctx)
    assert [(t["id"], t["index"]) for t in told] == [(r["id"], r["index"]) for r in rows[:5]]
    assert told[0] == {
        "id": first["id"], "index": 0, "latents": 3, "cause": "fixed", "spans": [[0, 3]], "input": "hidden",
        "steps": [{"entropy": 0.5 + i, "mass": 1.0, "noised": False,
                   "tokens": [[t, pytest.approx(p)] for t, p in zip(
                       [decode(engine[0].tokenizer, [j]) for j in range(3)], (1 / 2, 1 / 3, 1 / 4),
                       strict=True)]} for i in range(3)],
    }  # fmt: skip
    assert [r.thoughts and r.thoughts.trace for r in sorted(engine[0].asked, key=lambda r: r.id)].count(
        3
    ) == 5
    assert result["latents_mean"] == 3
    assert result["latent_causes"] == {"fixed": 12}
    assert result["tokens_mean"] == 5
    assert result["positions_mean"] == 8
    assert result["latent"]["input"] == {"kind": "hidden"}
    assert result["latent"]["stop"]["fixed"] == 3
    assert result["latent"]["start"] == "prompt"
    assert result["sampling"]["max_new_tokens"] == 64
    assert result["latent_overrides"] is None
    assert len(result["data_hash"]) == 16
    assert result["warnings"] == []
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(("trace", "tokens"), [("summary", 1), ("off", None)])
def test_a_trace_is_as_much_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trace: str, tokens: int | None
) -> None:
    scripted(monkeypatch)
    ctx = context(tmp_path, latent_experiment(eval={"trace": trace}))
    Evaluate(ctx).run()
    assert ctx.paths.traces.exists() == (tokens is not None)
    if tokens:
        assert {len(s["tokens"]) for t in traces(ctx) for s in t["steps"]} == {tokens}


def test_the_start_marker_ends_the_prompt_once_and_counts_in_its_hash(tmp_path: Path) -> None:
    think = {**HIDDEN, "markers": "think"}
    plain = questions(latent_experiment(None), tmp_path)
    begun = questions(latent_experiment(think), tmp_path)
    marker = list(begun.tokenizer("<think>", add_special_tokens=False)["input_ids"])
    for (text, ids), (other, other_ids) in zip(plain.prompts, begun.prompts, strict=True):
        assert (other, other_ids) == (text + "<think>", ids + marker)
    assert plain.prompt_hash != begun.prompt_hash
    assert plain.data_hash == begun.data_hash
    model = questions(latent_experiment({**think, "start": "model"}), tmp_path)
    assert model.prompts == plain.prompts


@pytest.mark.parametrize("opening", ["<think>", "<think>\\n"])
def test_a_template_that_opens_the_reasoning_itself_opens_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opening: str
) -> None:
    from jobs.methods import asking

    def with_template(*args: Any) -> Any:
        tokenizer = real(*args)
        tokenizer.chat_template = "{{ messages[-1].content }}[A]" + opening.replace("\\n", "\n")
        return tokenizer

    real = asking.load_tokenizer
    monkeypatch.setattr(asking, "load_tokenizer", with_template)
    asked = questions(latent_experiment({**HIDDEN, "markers": "think"}), tmp_path)
    text, ids = asked.prompts[0]
    assert text.endswith("[A]<think>")
    assert text.count("<think>") == 1
    assert decode(asked.tokenizer, ids) == text


def test_a_count_per_step_follows_each_problems_reference_steps(tmp_path: Path) -> None:
    rule = {**HIDDEN, "stop": {"per_step": {"latents": 2, "cap": 3}}}
    data = {"name": "shell-game", "split": "test", "limit": 2, "options": {"swaps": 2}}
    short = questions(latent_experiment(rule, dataset=data), tmp_path)
    long = questions(latent_experiment(rule, dataset={**data, "options": {"swaps": 5}}), tmp_path)
    assert short.request(0, 0).thoughts.fixed == 4
    assert long.request(0, 0).thoughts.fixed == 6


def test_a_count_per_step_is_refused_where_problems_have_no_steps(tmp_path: Path) -> None:
    file = tmp_path / "bare.jsonl"
    file.write_text('{"question": "1+1?", "answer": "2"}\n')
    rule = {**HIDDEN, "stop": {"per_step": {"latents": 2}}}
    with pytest.raises(JobUserError, match="1 of 1 problems have none") as refused:
        questions(latent_experiment(rule, dataset={"path": str(file)}), tmp_path)
    assert refused.value.where == "eval.latent.stop.per_step"
    assert "stop: 6" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [({"stop": 3}, "of which kind"), ({"input": "hidden"}, "when a latent span ends")],
)
def test_latent_steps_that_nobody_describes_are_refused(
    tmp_path: Path, recipe: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobUserError, match=words):
        Evaluate(context(tmp_path, latent_experiment(recipe)))


def test_what_the_checkpoint_carries_is_asked_where_the_recipe_is_silent(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, input={"kind": "hidden"}, markers={"start": "<<", "end": ">>"},
                        start="prompt", stop={"fixed": 4})  # fmt: skip
    asking = Asking(context(tmp_path, latent_experiment(None, prompt=None), source=source))
    assert asking.latent is not None
    assert asking.latent.markers is not None
    assert asking.latent.stop is not None
    assert (asking.latent.markers.start, asking.latent.stop.fixed) == ("<<", 4)
    assert asking.overrides == {}
    fewer = Asking(context(tmp_path, latent_experiment({"stop": 2}, prompt=None), source=source))
    assert fewer.latent is not None
    assert fewer.latent.stop is not None
    assert fewer.latent.stop.fixed == 2
    assert fewer.overrides == {}, "another count is the evaluation's own choice"


def test_a_recipe_that_says_otherwise_wins_and_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path, input={"kind": "hidden"}, markers={"start": "<<", "end": ">>"},
                        stop={"fixed": 4})  # fmt: skip
    asking = Asking(
        context(tmp_path, latent_experiment({"input": "soft", "markers": "think"}), source=source)
    )
    assert asking.latent is not None
    assert asking.latent.input is not None
    assert asking.latent.input.kind == "soft"
    facts = asking.facts()["latent_overrides"]
    assert facts["markers"] == {
        "recipe": {"start": "<think>", "end": "</think>"}, "checkpoint": {"start": "<<", "end": ">>"},
    }  # fmt: skip
    assert facts["input"]["checkpoint"] == {"kind": "hidden"}
    said = capsys.readouterr().err
    assert "eval: note: latent.markers is the recipe's" in said
    assert "eval: note: latent.input is the recipe's" in said


def test_settings_that_clash_with_the_checkpoints_are_refused_in_words(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, input={"kind": "soft"}, stop={"fixed": 4}, noise={"kind": "dirichlet"})
    with pytest.raises(JobUserError, match="dirichlet noise does nothing to the input hidden"):
        Asking(context(tmp_path, latent_experiment({"input": "hidden"}), source=source))


def test_a_checkpoint_with_latent_steps_is_decoded_as_text_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(tmp_path, input={"kind": "hidden"}, markers={"start": "<<", "end": ">>"},
                        stop={"fixed": 4})  # fmt: skip
    engines = scripted(monkeypatch)
    from jobs.methods import asking

    real = asking.load_tokenizer
    monkeypatch.setattr(asking, "load_tokenizer", lambda stage, source, texts: real(stage, None, texts))
    ctx = context(tmp_path, latent_experiment({"input": "none"}, prompt=None), source=source)
    result = Evaluate(ctx).run()
    assert all(r.thoughts is None for r in engines[0].asked)
    assert result["latent"] is None
    assert "latents_mean" not in result
    assert set(result["latent_overrides"]) == {"input"}
    row = samples.read(ctx.paths.samples)[0]
    assert "latents" not in row
    assert not row["prompt"].endswith("<<")


def test_an_evaluation_goes_on_where_a_row_lacks_its_trace_or_a_trace_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between a trace and its row, and with a trace lost: neither sample counts as done."""
    exp = latent_experiment(sampling={"temperature": 1.0, "samples": 2, "max_new_tokens": 64})
    scripted(monkeypatch)
    whole = context(tmp_path / "whole", exp)
    Evaluate(whole).run()
    ctx = context(tmp_path / "cut", exp)
    with monkeypatch.context() as patch:
        killed_after(patch, 11)  # five whole samples, and a trace without its row
        with pytest.raises(KeyboardInterrupt):
            Evaluate(ctx).run()
    part = ctx.paths.rank_samples(0)
    lines = samples.trace_part(part).read_bytes().splitlines(keepends=True)
    assert (len(lines), len(part.read_bytes().splitlines())) == (6, 5)
    samples.trace_part(part).write_bytes(b"".join(lines[1:]) + b'{"id": "torn')
    engines = scripted(monkeypatch)
    Evaluate(context(tmp_path / "cut", exp, attempt=2)).run()
    assert len(engines[0].asked) == 24 - 4
    for name in ("samples", "traces"):
        assert getattr(ctx.paths, name).read_text() == getattr(whole.paths, name).read_text()


def test_several_processes_leave_each_trace_once_in_the_order_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    scripted(monkeypatch)
    exp = latent_experiment()
    alone = context(tmp_path / "one", exp)
    Evaluate(alone).run()
    methods = [Evaluate(context(tmp_path / "three", exp, rank=r, size=3)) for r in range(3)]
    threads = [threading.Thread(target=m.run) for m in methods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    paths = methods[0].ctx.paths
    assert paths.traces.read_text() == alone.paths.traces.read_text()
    assert len(list((paths.root / "samples").glob("traces-*.jsonl"))) == 3


def rows_of(exp: Experiment, root: Path) -> Rows:
    ctx = context(root, exp)
    data = load(ctx.stage.dataset, data_dir=None, plugins=[])
    asking = Asking(ctx)
    return Rows(asking.put(data, data.examples), asking.prompt)


def two_spans(rows: Rows, *, cut: int = 0) -> tuple[Sample, list[str]]:
    """`a` START END `b` START END(cut short by so many tokens) `c`, as the engine gives it."""
    start, end = rows.questions.marker_ids()
    pieces = [list(rows.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in ("a", "b\n", "### c")]
    ids = [*pieces[0], *start]
    first = len(ids)
    ids += [*end, *pieces[1], *start]
    second = len(ids)
    ids += [*end[: len(end) - cut], *([] if cut else pieces[2])]
    marker_tokens = 2 * (len(start) + len(end)) - cut
    sample = Sample("x", 0, ids, [0.0] * len(ids), "eos", forced=2 * len(end) - cut,
                    text=decode(rows.tokenizer, ids), latents=5, latent_cause="max_len",
                    spans=((first, 2), (second, 3)), marker_tokens=marker_tokens)  # fmt: skip
    return sample, ["a", "b\n", "### c"]


@pytest.mark.parametrize("markers", ["coconut", {"start": "<<", "end": ">>"}])
def test_markers_around_spans_are_no_visible_text(tmp_path: Path, markers: Any) -> None:
    rows = rows_of(latent_experiment({**HIDDEN, "markers": markers, "start": "model"}), tmp_path)
    sample, pieces = two_spans(rows)
    row = rows.sample(sample, 0)
    assert row["text"] == "".join(pieces)
    assert row["spans"] == [[1, 2], [3, 3]]
    assert row["tokens"] == len("".join(pieces))
    assert row["forced"] == 0


def test_a_marker_that_was_cut_short_is_no_visible_text_either(tmp_path: Path) -> None:
    rows = rows_of(latent_experiment({**HIDDEN, "start": "model"}), tmp_path)
    row = rows.sample(two_spans(rows, cut=3)[0], 0)
    assert (row["text"], row["spans"], row["forced"]) == ("ab\n", [[1, 2], [3, 3]], 0)


def test_markers_that_are_part_of_the_form_stay(tmp_path: Path) -> None:
    exp = latent_experiment({**HIDDEN, "markers": "think", "start": "model"}, prompt={"form": "plain"})
    rows = rows_of(exp, tmp_path)
    row = rows.sample(two_spans(rows)[0], 0)
    assert row["text"] == "a<think></think>b\n<think></think>### c"
    assert row["spans"] == [[len("a<think>"), 2], [len("a<think></think>b\n<think>"), 3]]


def test_a_text_that_ends_before_a_later_span_keeps_its_spans_inside(tmp_path: Path) -> None:
    rows = rows_of(latent_experiment({**HIDDEN, "start": "model"}), tmp_path)
    sample, _ = two_spans(rows)
    from dataclasses import replace

    stopped = replace(sample, cause="stop", text=sample.text[: sample.text.index("b")])
    assert rows.sample(stopped, 0)["text"] == "a"
    assert rows.sample(stopped, 0)["spans"] == [[1, 2], [1, 3]]


def test_an_evaluation_that_nobody_could_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, answer=lambda r: "")
    result = Evaluate(context(tmp_path, latent_experiment())).run()
    assert result["accuracy"] == 0
    assert result["warnings"][0].startswith("0 of 12 answers could be read")
    assert "eval: warning: 0 of 12 answers could be read" in capsys.readouterr().err


def test_spans_that_all_run_into_their_cap_are_told_unless_the_cap_is_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, cause="max_len")
    stop: dict[str, Any] = {"max_len": 2, "end_marker": True}
    result = Evaluate(context(tmp_path / "a", latent_experiment({**HIDDEN, "stop": stop}))).run()
    assert "12 reached max_len" in result["warnings"][0]
    counted = {**HIDDEN, "stop": {"max_len": 2}}
    assert Evaluate(context(tmp_path / "b", latent_experiment(counted))).run()["warnings"] == []
    scripted(monkeypatch, cause="budget")
    result = Evaluate(context(tmp_path / "c", latent_experiment(counted))).run()
    assert "12 max_new_tokens" in result["warnings"][0]


def test_rows_written_before_latent_steps_were_known_are_counted_as_text(tmp_path: Path) -> None:
    old = {"id": "a", "index": 0, "verdict": "correct", "extracted": "1", "tokens": 4, "cause": "eos",
           "forced": 0}  # fmt: skip
    numbers = summary([old])
    assert numbers["tokens_mean"] == 4
    assert not {"latents_mean", "latent_causes", "positions_mean"} & set(numbers)


def test_a_stop_in_the_middle_keeps_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(ScriptedEngine):
        def generate(self, requests: Any) -> Any:
            yield from list(super().generate(requests))[:7]

    def make(model: Any, tokenizer: Any, **_: Any) -> ScriptedEngine:
        return Stopped(tokenizer)

    monkeypatch.setattr("jobs.methods.sharing.make_engine", make)
    monkeypatch.setattr("jobs.methods.sharing.load_model", lambda *a, **k: None)
    ctx = context(tmp_path, latent_experiment())
    with pytest.raises(Preempted, match="7 of 12"):
        Evaluate(ctx).run()
    part = ctx.paths.rank_samples(0)
    assert len(part.read_text().splitlines()) == len(samples.trace_part(part).read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("changes", "words", "where", "hint"),
    [
        ({"latent": {**HIDDEN, "stop": 64}}, "no room for an answer", "eval.latent", "the latent block"),
        ({"sampling": {"max_new_tokens": 600}}, "exceed the model's 512", "eval.sampling.max_new_tokens",
         "lower sampling.max_new_tokens"),
        ({"model": {"init": {"arch": "gpt2", "hidden": 32, "heads": 4, "max_len": 32},
                    "tokenizer": {"kind": "byte"}}},
         "exceed the model's 32", "eval.prompt", "the dataset"),
    ],
)  # fmt: skip
def test_what_no_problem_fits_is_refused_and_the_part_at_fault_is_named(
    tmp_path: Path, changes: dict[str, Any], words: str, where: str, hint: str
) -> None:
    with pytest.raises(JobUserError, match=words) as refused:
        Evaluate(context(tmp_path, latent_experiment(**changes))).run()
    assert refused.value.where == where
    assert hint in (refused.value.hint or "")
    assert not list(tmp_path.rglob("rank-*.jsonl"))
