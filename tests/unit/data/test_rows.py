"""Broken files: every fault names its file and line, and `on_bad_row: skip` loses nothing but the bad row."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_reading import read

from jobs.runtime.errors import JobUserError

GOOD = [{"question": f"q{i}", "answer": str(i)} for i in range(4)]
Write = Callable[..., str]


def lines(rows: list[Any]) -> list[str]:
    return [json.dumps(r) for r in rows]


def fails(path: str, **more: Any) -> JobUserError:
    with pytest.raises(JobUserError) as caught:
        read(path, **more)
    return caught.value


BAD_LINES = {
    "truncated": ('{"question": "what is', "cut short"),
    "truncated object": ('{"question": "q", "answer": "1"', "cut short"),
    "not json": ("question: q", "not JSON"),
    "missing field": ('{"question": "q"}', "'answer' is missing"),
    "null": ('{"question": "q", "answer": null}', "is null"),
    "wrong type": ('{"question": 5, "answer": "1"}', "must be a text, this is a number"),
    "list as answer": ('{"question": "q", "answer": ["1"]}', "must be a text or a number"),
    "truth as answer": ('{"question": "q", "answer": true}', "must be a text or a number"),
    "empty question": ('{"question": "  ", "answer": "1"}', "is empty"),
    "a list": ('["q", "1"]', "must be a JSON object, this is a list"),
    "a number": ("17", "must be a JSON object"),
    "two rows in a line": ('{"question": "q", "answer": "1"}{"question": "q", "answer": "1"}', "Extra data"),
    "NaN": ('{"question": "q", "answer": NaN}', "NaN is not JSON"),
    "half a surrogate": ('{"question": "q\\ud800", "answer": "1"}', "surrogate"),
    "control character": ('{"question": "q\x01", "answer": "1"}', "not JSON"),
    "too deep": ("[" * 100_000, "nested too deep"),
    "very long number": ('{"question": "q", "answer": ' + "9" * 5000 + "}", "not JSON"),
    "bom inside": ('\ufeff{"question": "q", "answer": "1"}', "not JSON"),
}


@pytest.mark.parametrize("fault", BAD_LINES)
def test_a_bad_line_is_named_by_file_and_line(write: Write, fault: str) -> None:
    bad, reason = BAD_LINES[fault]
    path = write("rows.jsonl", "\n".join([*lines(GOOD[:2]), bad, *lines(GOOD[2:])]) + "\n")
    error = fails(path)
    assert error.where == f"{path}:3"
    assert reason in error.message
    assert "on_bad_row: skip" in (error.hint or "")


@pytest.mark.parametrize("fault", BAD_LINES)
def test_skip_leaves_out_the_bad_line_alone_and_counts_it(write: Write, fault: str) -> None:
    bad, reason = BAD_LINES[fault]
    path = write("rows.jsonl", "\n".join([*lines(GOOD[:2]), bad, *lines(GOOD[2:])]) + "\n")
    loaded = read(path, on_bad_row="skip")
    assert [e.question for e in loaded.examples] == ["q0", "q1", "q2", "q3"]
    assert [(b.file, b.line) for b in loaded.bad_rows] == [(path, 3)]
    assert reason in loaded.bad_rows[0].reason


def test_ids_do_not_move_when_a_bad_row_is_mended(write: Write) -> None:
    broken = write("rows.jsonl", "\n".join([*lines(GOOD[:1]), "{", *lines(GOOD[2:])]))
    skipped = read(broken, on_bad_row="skip").examples
    whole = read(write("rows.jsonl", GOOD)).examples
    assert [e.id for e in skipped] == [whole[0].id, whole[2].id, whole[3].id]


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.csv", "r.jsonl.gz", "r.csv.gz"])
def test_byte_order_mark_and_crlf_are_read_as_meant(write: Write, name: str) -> None:
    if "csv" in name:
        text = "question,answer\r\n" + "".join(f"q{i},{i}\r\n" for i in range(4))
    elif name == "r.json":
        text = json.dumps(GOOD, indent=1).replace("\n", "\r\n")
    else:
        text = "\r\n".join(lines(GOOD)) + "\r\n"
    loaded = read(write(name, b"\xef\xbb\xbf" + text.encode()))
    assert [(e.question, e.answer) for e in loaded.examples] == [(f"q{i}", str(i)) for i in range(4)]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_end_a_row(write: Write, sign: str) -> None:
    asked = f"one{sign}two"
    text = f"{asked}||<<1+1=2>> #### 2\nthree||<<1+2=3>> #### 3\n"
    loaded = read(write("rows.txt", text), name="gsm8k-aug")
    assert [e.question for e in loaded.examples] == [asked, "three"]
    if sign in "\u2028\u2029\x85":
        raw = "".join(
            json.dumps({"question": q, "answer": "1"}, ensure_ascii=False) + "\n" for q in (asked, "b")
        )
        assert [e.question for e in read(write("rows.jsonl", raw)).examples] == [asked, "b"]


def test_wrong_encoding_names_byte_and_line(write: Write) -> None:
    rows = [*lines(GOOD[:1]), '{"question": "caf\xe9", "answer": "1"}', *lines(GOOD[1:])]
    path = write("latin.jsonl", "\n".join(rows).encode("latin-1"))
    error = fails(path)
    assert error.where == f"{path}:2"
    assert "not UTF-8: byte 0xe9" in error.message
    assert len(read(path, on_bad_row="skip").examples) == 4


def test_wrong_encoding_inside_a_json_list(write: Write) -> None:
    text = json.dumps([*GOOD, {"question": "caf\xe9", "answer": "1"}], indent=1, ensure_ascii=False)
    path = write("latin.json", text.encode("latin-1"))
    line = text[: text.index("\xe9")].count("\n") + 1
    error = fails(path)
    assert error.where == f"{path}:{line}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_utf16_and_utf32_are_refused(write: Write, encoding: str) -> None:
    path = write("wide.jsonl", "\n".join(lines(GOOD)).encode(encoding))
    assert fails(path).where == f"{path}:1" if encoding == "utf-16" else fails(path)


@pytest.mark.parametrize("content", ["", "\n\n  \n", "\ufeff", "[]", " [ ] "])
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_file_without_rows_is_an_error_whatever_the_policy(write: Write, content: str, policy: str) -> None:
    path = write("none.json", content)
    error = fails(path, on_bad_row=policy)
    assert error.where == path or "no row" in error.message


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_file_of_bad_rows_alone_is_an_error(write: Write, policy: str) -> None:
    path = write("none.jsonl", [{"q": 1}, {"q": 2}])
    error = fails(path, on_bad_row=policy)
    assert "missing" in error.message or "no known form" in error.message


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.txt.gz", "rows.csv.gz", "rows.json.gz"])
def test_a_gzip_cut_short_is_named(write: Write, name: str, tmp_path: Path) -> None:
    if name.startswith("rows.txt"):
        text = "".join(f"question {i} {i * 7919}||<<{i}+1={i + 1}>> #### {i + 1}\n" for i in range(3000))
    elif name.startswith("rows.csv"):
        text = "question,answer\n" + "".join(f"q{i * 7919},{i}\n" for i in range(3000))
    else:
        rows = [{"question": f"q{i * 7919}", "answer": str(i)} for i in range(3000)]
        text = "\n".join(lines(rows)) if "jsonl" in name else json.dumps(rows, indent=0)
    whole = gzip.compress(text.encode())
    path = write(name, whole[: len(whole) // 2])
    dataset = "gsm8k-aug" if ".txt" in name else None
    error = fails(path, name=dataset)
    assert "gzip file is cut short" in error.message
    if ".json.gz" in name:
        assert error.where == path
        return
    kept = read(path, name=dataset, on_bad_row="skip")
    assert 0 < len(kept.examples) < 3000
    assert len(kept.bad_rows) == 1
    header = 1 if ".csv" in name else 0
    assert kept.bad_rows[0].line in (len(kept.examples) + 1 + header, len(kept.examples) + 2 + header)


def test_a_gzip_with_flipped_bytes_is_named(write: Write) -> None:
    rows = [{"question": f"q{i * 7919}", "answer": str(i)} for i in range(3000)]
    whole = bytearray(gzip.compress("\n".join(lines(rows)).encode()))
    whole[len(whole) // 2] ^= 0xFF
    error = fails(write("rows.jsonl.gz", bytes(whole)))
    assert "gzip" in error.message or "JSON" in error.message or "UTF-8" in error.message
    assert error.where is not None


def test_gzip_is_known_by_its_bytes_not_its_name(write: Write, tmp_path: Path) -> None:
    packed = write("a.jsonl", gzip.compress("\n".join(lines(GOOD)).encode()))
    plain = tmp_path / "b.jsonl.gz"
    plain.write_text("\n".join(lines(GOOD)))
    assert len(read(packed).examples) == len(read(str(plain)).examples) == 4


def test_json_lists_and_lines_under_either_ending(write: Write) -> None:
    as_list, as_lines, pretty = json.dumps(GOOD), "\n".join(lines(GOOD)), json.dumps(GOOD, indent=2)
    for name in ("a.json", "a.jsonl"):
        for content in (as_list, as_lines, pretty):
            assert len(read(write(name, content)).examples) == 4, (name, content[:20])
    assert len(read(write("one.json", lines(GOOD[:1])[0])).examples) == 1
    assert len(read(write("one.jsonl", lines(GOOD[:1])[0] + "\n")).examples) == 1


def test_json_lines_named_json_whose_first_line_is_broken(write: Write) -> None:
    path = write("rows.json", "\n".join(['{"question": "q', *lines(GOOD)]))
    assert fails(path).where == f"{path}:1"
    assert len(read(path, on_bad_row="skip").examples) == 4


def test_a_broken_element_of_a_json_list_is_named_by_its_line(write: Write) -> None:
    rows: list[Any] = [*GOOD[:2], {"question": "q"}, *GOOD[2:]]
    text = json.dumps(rows, indent=1)
    line = text[: text.index('"question": "q"\n')].count("\n")  # the { stands one line before
    path = write("rows.json", text)
    assert fails(path).where == f"{path}:{line}"
    assert len(read(path, on_bad_row="skip").examples) == 4


@pytest.mark.parametrize("cut", ["in text", "after comma", "after element"])
def test_a_json_list_cut_short(write: Write, cut: str) -> None:
    text = json.dumps(GOOD, indent=1)
    third = text.index('"q2"')
    end = {
        "in text": third + 2,
        "after comma": text.index("{", third - 20),
        "after element": text.index("}", third) + 1,
    }
    path = write("rows.json", text[: end[cut]])
    error = fails(path)
    assert "cut short" in error.message
    assert (error.where or "").startswith(f"{path}:")
    kept = read(path, on_bad_row="skip")
    assert len(kept.examples) == (3 if cut == "after element" else 2)
    assert len(kept.bad_rows) == 1


def test_text_behind_a_json_list_is_no_row(write: Write) -> None:
    path = write("rows.json", json.dumps(GOOD) + "\nextra")
    assert fails(path).where == f"{path}:2"


def test_an_object_that_is_no_table_of_rows(write: Write) -> None:
    path = write("rows.json", json.dumps({"data": GOOD}, indent=1))
    assert "must be a JSON object, this is a list" in fails(path).message


def test_duplicate_ids_name_both_lines(write: Write) -> None:
    rows = [{"question": "a", "answer": "1", "key": k} for k in ("x", "y", "x")]
    path = write("rows.jsonl", rows)
    fields = {"id": "key"}
    error = fails(path, fields=fields)
    assert error.where == f"{path}:3"
    assert "'x'" in error.message
    assert "line 1" in error.message
    kept = read(path, fields=fields, on_bad_row="skip")
    assert [e.id for e in kept.examples] == ["x", "y"]


def test_csv_keeps_text_as_text_and_names_lines(write: Write) -> None:
    text = 'question,answer\n"a, ""b""\nsecond line",025\nNA,null\nthird,1,2\nlast,7\n'
    path = write("rows.csv", text)
    error = fails(path)
    assert error.where == f"{path}:5"
    assert "3 values" in error.message
    kept = read(path, on_bad_row="skip")
    assert [(e.question, e.answer) for e in kept.examples] == [
        ('a, "b"\nsecond line', "025"),
        ("NA", "null"),
        ("last", "7"),
    ]


def test_csv_with_an_open_quote(write: Write) -> None:
    path = write("rows.csv", 'question,answer\na,1\n"b,2\nc,3\n')
    error = fails(path)
    assert error.where == f"{path}:3"
    assert "CSV" in error.message


def test_csv_faults_of_the_header(write: Write) -> None:
    assert "twice" in fails(write("a.csv", "question,question\na,1\n")).message
    assert "'answer' is missing" in fails(write("b.csv", "question,gold\na,1\n")).message
    assert "no row" in fails(write("c.csv", "question,answer\n")).message


def test_tab_separated(write: Write) -> None:
    assert (
        read(write("rows.tsv", "question\tanswer\nq, with comma\t1\n")).examples[0].question
        == "q, with comma"
    )


def test_git_lfs_pointers_are_told_from_data(write: Write) -> None:
    path = write("train.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    error = fails(path, name="gsm8k-aug")
    assert "Git LFS pointer" in error.message
    assert error.where == f"{path}:1"


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"question": ["a", None, "c"], "answer": ["1", "2", "3"]}), path)
    error = fails(str(path))
    assert error.where == f"{path}:2"
    assert [e.answer for e in read(str(path), on_bad_row="skip").examples] == ["1", "3"]
    path.write_bytes(path.read_bytes()[:40])
    assert "parquet" in fails(str(path)).message


@pytest.mark.parametrize("name", ["rows.pickle", "rows", "rows.jsonl.bz2"])
def test_other_kinds_of_files_are_refused(write: Write, name: str) -> None:
    assert "not a data file" in fails(write(name, "{}")).message


def test_a_file_that_may_not_be_read(write: Write) -> None:
    """Root may read everything, so the file is looked at as somebody who is not."""
    path = write("rows.jsonl", GOOD)
    Path(path).chmod(0)
    mine = os.geteuid()
    if mine == 0:
        for folder in Path(path).parents[:-1]:
            if folder.stat().st_uid == 0 and folder.is_relative_to(tempfile.gettempdir()):
                folder.chmod(folder.stat().st_mode | 0o011)
        os.seteuid(65534)
    try:
        message = fails(path).message
    finally:
        os.seteuid(mine)
    assert "cannot read" in message
