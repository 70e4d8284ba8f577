"""Tables for other programs: nothing in a name breaks them, nothing is rounded."""

from __future__ import annotations

import csv
import io

from latentctl.report.export import csv_text, latex, markdown, tex


def test_csv_keeps_every_digit_and_every_column() -> None:
    rows = [{"a": 0.1 + 0.2, "b": None, "c": True}, {"a": 1 / 3, "d": {"eos": 3}, "b": 'x, "y"\n'}]
    first, second = csv.DictReader(io.StringIO(csv_text(rows)))
    assert float(first["a"]) == 0.1 + 0.2
    assert (first["b"], first["c"], first["d"]) == ("", "1", "")
    assert float(second["a"]) == 1 / 3
    assert (second["b"], second["c"], second["d"]) == ('x, "y"\n', "", '{"eos": 3}')


def test_latex_prints_what_was_written() -> None:
    assert tex("100 % of a_b & c #1 {x} ~^\\ $5 <|end|>") == (
        r"100 \% of a\_b \& c \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \$5 "
        r"\textless{}\textbar{}end\textbar{}\textgreater{}"
    )


def test_latex_has_the_best_in_bold_and_as_many_cells_as_columns() -> None:
    lines = latex(
        ["name", "accuracy", "n"], [["a_1", "98.3", "5"], ["b", "-", "-"]], texts=1, bold=[0]
    ).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r"name & accuracy & n \\"
    assert lines[4] == r"a\_1 & \textbf{98.3} & 5 \\"
    assert lines[-1] == r"\end{tabular}"


def test_a_pipe_in_a_name_is_no_column_of_markdown() -> None:
    lines = markdown(["name", "n"], [["a|b\nc", "5"]], texts=1).splitlines()
    assert lines == ["| name | n |", "| :--- | ---: |", "| a\\|b c | 5 |"]
