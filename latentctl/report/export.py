"""A table for another program: CSV, Markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_",
    "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "…": r"\ldots{}", "±": r"$\pm$", "−": r"$-$", "–": "--",
}  # fmt: skip


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Full precision; an empty cell is what is not known. The columns are those of all rows together."""
    many = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in many for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in many)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Booleans as 0 and 1, what is no scalar as JSON."""
    if isinstance(value, bool):
        return int(value)
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int) -> str:
    """A pipe table; the first `texts` columns to the left, the numbers to the right."""
    rule = [":---" if i < texts else "---:" for i in range(len(head))]
    body = [[_pipe(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def _pipe(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def latex(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int, bold: Iterable[int] = ()) -> str:
    """A `tabular` with booktabs' rules (`\\usepackage{booktabs}`); rows at the places `bold` have their first
    number in bold."""
    strong = set(bold)
    lines = [
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(head) - texts)}}}",
        r"\toprule",
        rf"{' & '.join(map(tex, head))} \\",
        r"\midrule",
    ]
    for i, row in enumerate(rows):
        cells = [tex(cell) for cell in row]
        if i in strong:
            cells[texts] = rf"\textbf{{{cells[texts]}}}"
        lines.append(rf"{' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def tex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in text)
