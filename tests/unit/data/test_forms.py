"""Every form of every named dataset, on made-up files of that form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_reading import read

from jobs.data.boxed import last_boxed
from jobs.data.fields import plain_number
from jobs.data.sets.gsm8k import formula_steps, sentence_steps
from jobs.runtime.errors import JobUserError

Write = Callable[..., str]


def one(path: str, name: str, **more: Any) -> Any:
    return read(path, name=name, **more).examples[0]


def refusal(path: str, name: str, **more: Any) -> str:
    with pytest.raises(JobUserError) as caught:
        read(path, name=name, **more)
    return str(caught.value)


SOLUTION = (
    "Ann packs 6*2 = <<6*2=12>>12 apples. Each costs $.50, so 12*.5 = $<<12*.5=6>>6.\n"
    "With 3 more she has 12+3 = <<12+3=15>>15 and pays 6+1.5 = $<<6+1.5=7.5>>7.50 in all.\n#### 1,007.50"
)


def test_gsm8k_original(write: Write) -> None:
    example = one(write("a.jsonl", [{"question": "How much?", "answer": SOLUTION}]), "gsm8k")
    assert example.answer == "1007.5"
    assert example.variants["formula"] == ("<<6*2=12>>", "<<12*.5=6>>", "<<12+3=15>>", "<<6+1.5=7.5>>")
    assert example.variants["sentence"] == (
        "Ann packs 6*2 = 12 apples.",
        "Each costs $.50, so 12*.5 = $6.",
        "With 3 more she has 12+3 = 15.",
        "and pays 6+1.5 = $7.50 in all.",
    )
    assert example.steps == (
        "Ann packs 6*2 = 12 apples. Each costs $.50, so 12*.5 = $6.",
        "With 3 more she has 12+3 = 15 and pays 6+1.5 = $7.50 in all.",
    )


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("#### 18", "18"),
        ("#### -3", "-3"),
        ("#### 1,234,567", "1234567"),
        ("#### 5 #### 7", "7"),
        ("####  2.50 ", "2.5"),
    ],
)
def test_gsm8k_gold_stands_behind_the_last_mark(write: Write, written: str, gold: str) -> None:
    assert one(write("a.jsonl", [{"question": "q", "answer": f"so\n{written}"}]), "gsm8k").answer == gold


@pytest.mark.parametrize("answer", ["no mark at all", "ends with ####", "####   "])
def test_gsm8k_without_gold_is_a_bad_row(write: Write, answer: str) -> None:
    assert "####" in refusal(write("a.jsonl", [{"question": "q", "answer": answer}]), "gsm8k")


def test_gsm8k_tokenskip_form(write: Write) -> None:
    rows = [{"question": "q", "cot": "It is 1+1 = <<1+1=2>>2 now.", "answer": "2", "id": "g-7"}]
    example = one(write("a.jsonl", rows), "gsm8k")
    assert (example.id, example.answer, example.steps) == ("g-7", "2", ("It is 1+1 = 2 now.",))


def test_sentence_steps_have_one_step_per_formula() -> None:
    for text in ("", "no formula. at all.", "<<1+1=2>>", "a <<1+1=2>>2 b", "<<1=1>>1<<2=2>>2<<3=3>>3"):
        steps = sentence_steps(text)
        assert len(steps) <= len(formula_steps(text))
        assert all(s.endswith((".", "!", "?")) and "<<" not in s for s in steps)


def test_icot_text(write: Write) -> None:
    text = "What is it?||<<1+1=2>> <<2*3=6>> #### 6\nNo step?||#### 4\nWords?||He has 2. She has 3. #### 5\n"
    examples = read(write("a.txt", text), name="gsm8k-aug").examples
    assert [e.steps for e in examples] == [("<<1+1=2>>", "<<2*3=6>>"), (), ("He has 2.", "She has 3.")]
    assert [e.answer for e in examples] == ["6", "4", "5"]
    assert examples[0].variants == {"formula": ("<<1+1=2>>", "<<2*3=6>>")}
    assert examples[2].variants == {"sentence": ("He has 2.", "She has 3.")}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no bars #### 4", "no '||'"),
        ("q||<<1=1>> 4", "no '#### '"),
        ("q||<<1=1>> ####", "no '#### '"),
        ("q||<<1=1>> #### 1q2||<<2=2>> #### 2", "more than one '||'"),
        ("||<<1=1>> #### 4", "question is empty"),
        ("half a li", "no '||'"),
    ],
)
def test_icot_text_faults(write: Write, line: str, reason: str) -> None:
    path = write("a.txt", f"q||<<1=1>> #### 1\n{line}\n")
    message = refusal(path, "gsm8k-aug")
    assert message.startswith(f"{path}:2")
    assert reason in message


def test_coconut_json(write: Write) -> None:
    rows = [{"question": "q", "steps": ["<<1+1=2>>", ""], "answer": "2"}]
    example = one(write("a.json", json.dumps(rows)), "gsm8k-aug")
    assert (example.steps, example.answer) == (("<<1+1=2>>",), "2")
    bad = [{"question": "q", "steps": "<<1+1=2>>", "answer": "2"}]
    assert "list of texts" in refusal(write("b.json", json.dumps(bad)), "gsm8k-aug")


def test_large_augmented_file_is_read_in_full(write: Write) -> None:
    text = "".join(f"What is {i} plus {i}?||<<{i}+{i}={2 * i}>> #### {2 * i}\n" for i in range(385_620))
    examples = read(write("train.txt", text), name="gsm8k-aug").examples
    assert len(examples) == 385_620
    assert examples[-1].answer == "771238"
    assert len({e.id for e in examples}) == 385_620


def test_metamathqa(write: Write) -> None:
    rows = [
        {
            "query": "How many?",
            "response": "First 2.\nThen 3.\n#### 5\nThe answer is: 5",
            "type": "GSM_Rephrased",
        },
        {
            "query": "Which?",
            "response": "It is $\\frac12$. The answer is: $\\frac{1}{2}$\n",
            "type": "MATH_AnsAug",
        },
        {"query": "Which?", "response": "The answer is: 1 in words. But no.\nIn fact: nothing", "type": "x"},
    ]
    path = write("MetaMathQA-395K.json", json.dumps(rows))
    loaded = read(path, name="metamathqa", on_bad_row="skip")
    first, second = loaded.examples
    assert (first.answer, first.steps, first.meta) == (
        "5",
        ("First 2.", "Then 3."),
        {"type": "GSM_Rephrased"},
    )
    assert (second.answer, second.steps) == ("$\\frac{1}{2}$", ("It is $\\frac12$.",))
    assert "does not end with" in loaded.bad_rows[0].reason
    assert loaded.grader == "math"


def test_math_train(write: Write) -> None:
    rows = [
        {
            "problem": "p",
            "level": "Level 5",
            "type": "Algebra",
            "solution": "Not \\boxed{1}.\nBut \\boxed{\\frac{1}{2}}.",
        },
        {"problem": "p", "level": "Level 1", "type": "Algebra", "solution": "nothing boxed"},
    ]
    loaded = read(write("train.jsonl", rows), name="math", on_bad_row="skip")
    assert loaded.examples[0].answer == "\\frac{1}{2}"
    assert loaded.examples[0].meta == {"type": "Algebra", "level": "Level 5"}
    assert "boxed" in loaded.bad_rows[0].reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{5}", "5"),
        ("\\boxed{a{b}{c{d}}} and more", "a{b}{c{d}}"),
        ("\\boxed{1} then \\fbox{2}", "2"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed 7", "7"),
        ("\\boxed{open", None),
        ("\\boxed", None),
        ("none", None),
    ],
)
def test_last_boxed(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


AIME_CSV = (
    "ID,Year,Problem Number,Question,Answer,Part\n"
    '1983-1,1983,1,"Let $x$, $y$\nbe real",060,\n'
    "2000-II-3,2000,3,Second,7,II\n"
    "2024-I-1,2024,1,Third,204,I\n"
)


def test_aime_train_csv_keeps_to_its_years(write: Write) -> None:
    path = write("1983-2024.csv", AIME_CSV)
    examples = read(path, name="aime").examples
    assert [(e.id, e.answer, e.meta["year"]) for e in examples] == [
        ("1983-1", "60", 1983),
        ("2000-II-3", "7", 2000),
    ]
    chosen = read(path, name="aime", options={"years": [2000, 2024]}).examples
    assert [e.id for e in chosen] == ["2000-II-3", "2024-I-1"]
    assert "years are [first, last]" in refusal(path, "aime", options={"years": [2024, 1983]})
    assert "no row" in refusal(path, "aime", options={"years": [1900, 1901]})


@pytest.mark.parametrize("answer", ["1000", "-1", "7.5", "x", ""])
def test_aime_answers_are_whole_numbers_below_1000(write: Write, answer: str) -> None:
    path = write("a.csv", f"ID,Year,Problem Number,Question,Answer,Part\nx,1990,1,q,{answer},\n")
    assert refusal(path, "aime").startswith(f"{path}:2")


def test_aime_test_is_2024_then_2025(write: Write, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"ID": ["2024-I-1"], "Problem": ["p24"], "Solution": ["s"], "Answer": [25]}
    (tmp_path / "aime").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "aime" / "2024.parquet")
    write("aime/2025.jsonl", [{"question": "p25", "answer": "025"}])
    examples = read(name="aime", split="test", data_dir=tmp_path).examples
    assert [(e.question, e.answer) for e in examples] == [("p24", "25"), ("p25", "25")]


def test_chat_form(write: Write) -> None:
    rows = [{"prompt": [{"from": "user", "value": "p"}], "final_answer": "073"}]
    path = write("a.json", json.dumps(rows))
    assert one(path, "aime").answer == "73"
    assert one(path, "math500").answer == "073"
    assert one(path, "amc").answer == "73"
    two = [{"prompt": [{"from": "user", "value": "p"}] * 2, "final_answer": "1"}]
    assert "one turn" in refusal(write("b.json", json.dumps(two)), "math500")


def test_mmlu_stem(write: Write) -> None:
    row = {"question": "q", "type": "astronomy", "choices": ["w", "x", "y", "z"], "answer": 2}
    example = one(write("a.jsonl", [row]), "mmlu-stem", split="test")
    assert example.question == "q\nA. w\nB. x\nC. y\nD. z"
    assert (example.answer, example.meta["choices"]) == ("C", ["w", "x", "y", "z"])
    assert one(write("b.jsonl", [{**row, "answer": "b"}]), "mmlu-stem").answer == "B"
    for wrong in (4, -1, "E", 1.5, None):
        assert "c.jsonl:1" in refusal(write("c.jsonl", [{**row, "answer": wrong}]), "mmlu-stem")
    assert "1 options" in refusal(write("d.jsonl", [{**row, "choices": ["w"], "answer": 0}]), "mmlu-stem")
    assert "empty option" in refusal(write("e.jsonl", [{**row, "choices": ["w", ""]}]), "mmlu-stem")


def test_arc_challenge_forms(write: Write) -> None:
    choices = [{"text": "w", "label": "1"}, {"text": "x", "label": "2"}]
    ai2 = {"id": "Q1", "question": {"stem": "q", "choices": choices}, "answerKey": "2"}
    hub = {
        "id": "Q1",
        "question": "q",
        "choices": {"text": ["w", "x"], "label": ["1", "2"]},
        "answerKey": "2",
    }
    adapters = {
        "instruction": "Please choose the correct answer to the question: q\n\nAnswer1: w Answer2: x\n\n"
        "Answer format: answer1/answer2",
        "input": "",
        "output": "the correct answer is answer2",
        "answer": "answer2",
    }
    for row in (ai2, hub, adapters):
        example = one(write("a.jsonl", [row]), "arc-challenge")
        assert (example.question, example.answer) == ("q\nA. w\nB. x", "B")
    assert one(write("b.jsonl", [ai2]), "arc-challenge").id == "Q1"
    assert "none of the labels" in refusal(write("c.jsonl", [{**ai2, "answerKey": "C"}]), "arc-challenge")
    assert "none of the 2 options" in refusal(
        write("d.jsonl", [{**adapters, "answer": "answer3"}]), "arc-challenge"
    )
    assert "answer1, answer2" in refusal(write("e.jsonl", [{**adapters, "answer": "2"}]), "arc-challenge")


def test_svamp(write: Write) -> None:
    row = {
        "ID": "chal-1",
        "Body": "He has 87 pens",
        "Question": "How many?",
        "Equation": "( 290.0 / 2.0 )",
        "Answer": 145.0,
    }
    example = one(write("a.jsonl", [row]), "svamp")
    assert (example.id, example.question) == ("chal-1", "He has 87 pens. How many?")
    assert (example.answer, example.steps) == ("145", ("290/2=145",))
    nested = {**row, "Equation": "( ( 3.0 + 4.0 ) - 2.5 )", "Answer": 4.5}
    assert one(write("b.jsonl", [nested]), "svamp").steps == ("((3+4)-2.5)=4.5",)


def test_countdown_forms(write: Write) -> None:
    plain = one(write("a.jsonl", [{"nums": [44, 19, 35], "target": 98, "id": 5}]), "countdown")
    assert (plain.id, plain.answer, plain.meta) == ("5", "", {"nums": [44, 19, 35], "target": 98})
    solved = {"id": "t1", "numbers": [11, 34, 82, 80], "target": 56, "gold_expr": "(34-(11*(80-82)))"}
    example = one(write("b.jsonl", [solved]), "countdown")
    assert example.answer == "34-(11*(80-82))"
    assert example.steps == ("80-82=-2", "11*(-2)=-22", "34-(-22)=56")
    pair = one(write("c.jsonl", [{"input": "30,100,93", "output": "23"}]), "countdown")
    assert pair.meta == {"nums": [30, 100, 93], "target": 23}
    wrong = {**solved, "target": 57}
    assert "does not make 57" in refusal(write("d.jsonl", [wrong]), "countdown")
    unsafe = {**solved, "gold_expr": "__import__('os').system('true')"}
    assert "only whole numbers" in refusal(write("e.jsonl", [unsafe]), "countdown")
    for nums in ([1], "7", [1, 2.5], ["x", 1], None):
        assert "nums" in refusal(write("f.jsonl", [{"nums": nums, "target": 5}]), "countdown")


def test_countdown_can_be_solved_on_the_way(write: Write) -> None:
    rows = [{"nums": [44, 19, 35], "target": 98}, {"nums": [2, 2], "target": 97}]
    path = write("a.jsonl", rows)
    solved = read(path, name="countdown", options={"solve": True}, limit=1).examples[0]
    assert eval(solved.answer) == 98
    assert solved.steps[-1].endswith("=98")
    assert "no solution" in refusal(path, "countdown", options={"solve": True})
    kept = read(path, name="countdown", options={"solve": True}, on_bad_row="skip")
    assert (len(kept.examples), len(kept.bad_rows)) == (1, 1)


def test_prosqa(write: Write) -> None:
    row = {
        "question": "Tom is a lempus. Is Tom a lempus or sterpus?",
        "answer": "Tom is a lempus.",
        "steps": ["Tom is a lempus."],
        "idx_to_symbol": ["Tom", "lempus", "sterpus"],
        "edges": [[0, 1]],
        "root": 0,
        "target": 1,
        "neg_target": 2,
    }
    example = one(write("a.json", json.dumps([row])), "prosqa")
    assert example.meta == {"root": "Tom", "target": "lempus", "neg_target": "sterpus"}
    assert "has 3 names" in refusal(write("b.json", json.dumps([{**row, "neg_target": 9}])), "prosqa")


RAW = {
    "question": "Rompuses are blue. Each zumpus is a rompus. Max is a zumpus.",
    "query": "True or false: Max is blue.",
    "chain_of_thought": [
        "Max is a zumpus.",
        "Each zumpus is a rompus.",
        "Max is a rompus.",
        "Rompuses are blue.",
        "Max is blue.",
    ],
    "answer": "True",
}


def test_prontoqa_raw_generator(write: Write) -> None:
    entry = {"in_context_example0": RAW, "test_example": {**RAW, "answer": "False"}}
    path = write("5hop.json", json.dumps({"example1": entry, "example2": entry}, indent=1))
    examples = read(path, name="prontoqa").examples
    assert [e.id for e in examples] == [
        f"example{i}/{n}" for i in (1, 2) for n in ("in_context_example0", "test_example")
    ]
    assert examples[0].question == f"{RAW['question']} {RAW['query']}"
    assert examples[0].steps == (
        "Max is a zumpus. Each zumpus is a rompus.",
        "Max is a rompus. Rompuses are blue.",
        "Max is blue.",
    )
    assert [e.answer for e in examples[:2]] == ["True", "False"]


def test_prontoqa_raw_faults_name_the_entry(write: Write) -> None:
    good = {"test_example": RAW}
    bad = {"test_example": {k: v for k, v in RAW.items() if k != "query"}}
    text = json.dumps({"example1": good, "example2": bad, "example3": good}, indent=1)
    path = write("raw.json", text)
    line = text[: text.index('"example2"')].count("\n") + 1
    message = refusal(path, "prontoqa")
    assert message.startswith(f"{path}:{line}")
    assert "test_example" in message
    assert "query" in message
    assert len(read(path, name="prontoqa", on_bad_row="skip").examples) == 2
    other = write("b.json", json.dumps({"example1": {"test_example": {**RAW, "answer": "Maybe"}}}))
    assert "True or False" in refusal(other, "prontoqa")


def test_prontoqa_logic_llm(write: Write) -> None:
    row = {
        "id": "P1",
        "context": "Max is a zumpus.",
        "question": "Is the following statement true or false? Max is sour.",
        "options": ["A) True", "B) False"],
        "answer": "B",
        "explanation": ["Max is a zumpus.", "Zumpuses are not sour.", "Max is not sour."],
    }
    example = one(write("a.json", json.dumps([row])), "prontoqa")
    assert example.question == "Max is a zumpus. True or false: Max is sour."
    assert (example.answer, len(example.steps)) == ("False", 2)


def test_any_file_with_a_field_mapping(write: Write) -> None:
    rows = [
        {"ask": "q1", "gold": 27.0, "why": "a\nb", "n": 7},
        {"ask": "q2", "gold": "x", "why": ["c"], "n": 8},
    ]
    fields = {"question": "ask", "answer": "gold", "steps": "why", "id": "n"}
    loaded = read(write("mine.jsonl", rows), fields=fields)
    assert [(e.id, e.answer, e.steps) for e in loaded.examples] == [
        ("7", "27", ("a", "b")),
        ("8", "x", ("c",)),
    ]
    assert loaded.name == "mine"
    with pytest.raises(JobUserError, match="'question' is missing"):
        read(write("mine.jsonl", [{"ask": "q", "answer": "1"}]))


@pytest.mark.parametrize(
    ("value", "plain"),
    [(27.0, "27"), ("27.0", "27"), ("025", "25"), ("1,234", "1234"), (0.1, "0.1"), ("-3", "-3"),
     ("x+1", "x+1"), ("nan", "nan"), (1e22, "10000000000000000000000"), ("1e5000", "1e5000"), ("", "")],
)  # fmt: skip
def test_plain_numbers(value: Any, plain: str) -> None:
    assert plain_number(value) == plain
