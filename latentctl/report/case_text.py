"""A case on a terminal: the question, each latent step in a line, the text, the verdict. 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from latentctl.report.case import Case, Changed, Step, endings, steps_apart
from latentctl.report.case_signs import readable, visible
from latentctl.report.case_tree import Limb, guide

WIDTH = 80
HEAD, TAIL = 16, 8
"""A longer chain shows so many steps of its beginning and its end."""
_BAR = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"
_HEAT = ("cyan", "green", "yellow", "dark_orange", "red")
_LISTED = 12
_RARE = 0.005
"""A less likely token would read 0.00."""
_LIMBS = 24
"""So many answers of a tree are shown."""
_VERDICTS = {"correct": ("✓ correct", "bold green"), "wrong": ("✗ wrong", "bold red")}
_SIGNS = {"correct": ("✓", "green"), "wrong": ("✗", "red"), "error": ("!", "yellow")}


def print_case(console: Console, cases: Sequence[Case], words: str, *, whole: bool = False) -> None:
    """One case, or the same problem in two runs one after the other. `whole`: fold nothing."""
    out = _Lines(console)
    front = cases[0]
    if len(cases) == 1:
        out.line(front.evaluation.name, "dim")
    out.line(f"problem {front.number:,} of {front.problems:,}: {visible_id(front)}", "bold")
    out.line(f"chosen: {words}", "dim")
    out.title("question")
    out.body(str(front.row.get("question") or "-"))
    out.title("gold")
    out.body(str(front.row.get("gold") or "-"))
    top = scale(cases)
    for case in cases:
        _chain(out, case, top, whole=whole, named=len(cases) > 1)


def print_changed(console: Console, found: Sequence[Changed], judged: int, names: tuple[str, str]) -> None:
    """Which samples changed their verdict from one run to the other."""
    out = _Lines(console)
    out.line(f"{len(found):,} of {judged:,} verdicts differ", "bold")
    out.line(f"  from {names[0]}", "dim")
    out.line(f"  to   {names[1]}", "dim")
    for item in found[:_LISTED]:
        line = Text(f"  {_clip(visible(f'{item.key[0]}#{item.key[1]}'), 34)}  ")
        line.append_text(_verdict(item.before.get("verdict"))).append(" → ")
        line.append_text(_verdict(item.after.get("verdict")))
        read = " → ".join(visible(str(r.get("extracted"))) for r in (item.before, item.after))
        out.text(line.append(f"  {_clip(read, 16)}", "dim"))
    if len(found) > _LISTED:
        out.line(f"  ... and {len(found) - _LISTED:,} more; --json lists all", "dim")
    console.print()


def visible_id(case: Case) -> str:
    """The id, with the sample's index where the problem has several."""
    several = f", sample {case.row['index']} ({case.samples:,} of them)" if case.samples > 1 else ""
    return visible(case.row["id"]) + several


def scale(cases: Sequence[Case]) -> float:
    """The entropy that the longest bar stands for, in nats: the largest shown, at least 1."""
    return max([1.0, *(s.entropy for case in cases for s in case.steps or ())])


def run_length(steps: int, entropies: tuple[float, float, float] | None) -> str:
    """`[5,980 latent steps, entropy 0.02-1.3]`."""
    plural = "step" if steps == 1 else "steps"
    within = f", entropy {_between(entropies)}" if entropies else ""
    return f"[{steps:,} latent {plural}{within}]"


def summary(case: Case) -> str:
    """The chain in one line."""
    parts = []
    if case.latents:
        parts.append(f"{case.latents:,} latent {'step' if case.latents == 1 else 'steps'}")
        parts[-1] += f" (input {case.input})" if case.input else ""
    if isinstance(case.row.get("tokens"), int):
        parts.append(f"{case.row['tokens']:,} tokens of text")
    if (spread := steps_apart(case.steps or ())) is not None:
        mean = f", mean {spread[1]:.2g}" if len(case.steps or ()) > 1 else ""
        parts.append(f"entropy {_between(spread)}{mean} nats")
    if case.logp_per_token is not None:
        parts.append(f"log-prob {case.logp_per_token:.3g} a token")
    return "; ".join(parts) or "nothing was generated"


def caption(case: Case) -> str:
    """What the tokens of a latent step are."""
    if case.input == "soft":
        return "tokens that were mixed, and their weights"
    return "most likely next tokens, and their probability"


def _chain(out: _Lines, case: Case, top: float, *, whole: bool, named: bool) -> None:
    if named:
        rule = f"── {case.evaluation.name} "
        out.text(Text(f"\n{_clip(rule, out.width)}{'─' * max(0, out.width - cell_len(rule))}", "bold"))
    latent_end, text_end = endings(case)
    out.title("chain", summary(case))
    if not case.latents:
        out.line("  no latent steps: an explicit chain", "dim")
    elif case.steps is not None:
        out.line(f"  {'step':>6}  {'entropy':<{_BAR + 5}}  {caption(case)}", "dim")
    items = list(_items(case))
    if items and isinstance(items[-1], str):
        items.pop()
    _print_items(out, case, items, top, whole=whole)
    if latent_end:
        out.line(f"  latent span ended by {latent_end}", "dim")
    out.title("text", text_end or "")
    out.body(_text(case) or "(none)")
    reason = case.row.get("reason")
    extracted = case.row.get("extracted")
    line = Text("\nverdict  ", "bold").append_text(_verdict(case.verdict))
    out.text(line)
    if case.verdict is not None:
        out.body(
            f"read {'nothing' if extracted is None else extracted!s}" + (f": {reason}" if reason else "")
        )
    if case.tree:
        _tree(out, case, whole=whole)
    for note in case.notes:
        out.line(f"note: {note}", "yellow")


def _tree(out: _Lines, case: Case, *, whole: bool) -> None:
    """Each answer of the search in a line: which branch it is, the token at which it left and that token's
    probability, its verdict, its own text."""
    limbs = case.tree
    depth = max(len(limb.guides) for limb in limbs)
    doubles = sum(limb.doubles for limb in limbs)
    rest = f"; {doubles:,} more would only repeat the first" if doubles else ""
    out.title("tree", f"{len(limbs):,} answer{'s' * (len(limbs) != 1)} found, {depth} deep{rest}")
    out.line("  > this sample; ✓ ✗ verdict; the token where it branched, and its probability", "dim")
    shown = limbs if whole or len(limbs) <= _LIMBS + 2 else limbs[:_LIMBS]
    for limb in shown:
        out.text(_limb(limb, limb.row["index"] == case.row["index"], out.width))
    if len(shown) < len(limbs):
        out.line(f"  [{len(limbs) - len(shown):,} more]  --all shows them", "bold")


def _limb(limb: Limb, this: bool, width: int) -> Text:
    """` >├─ 3 ✓ 12  'so' 0.21  so the sum is ...`"""
    sign, style = _SIGNS.get(str(limb.row.get("verdict")), ("?", "yellow"))
    above = guide(limb.guides)
    above = above if len(above) <= width // 3 else "…" + above[-(width // 3) :]
    line = Text(f" {'>' if this else ' '}{above}", "bold" if this else "")
    line.append(f"{limb.row['index']:,} ").append(sign, style).append(" ")
    if not limb.root:
        line.append(_clip(visible(limb.token), 16), "bold").append(f" {limb.prob:.2f}", "dim").append("  ")
    room = width - cell_len(line.plain)
    line.append(_clip(" ".join(readable(limb.own).split()), max(0, room)), "dim")
    return line


def _between(entropies: tuple[float, float, float]) -> str:
    low, high = f"{entropies[0]:.2g}", f"{entropies[2]:.2g}"
    return low if low == high else f"{low}-{high}"


def _text(case: Case) -> str:
    """The text, with each latent span in its place; a single one at the front goes without saying."""
    parts = list(case.chain())
    if parts and not isinstance(parts[0], str) and all(isinstance(p, str) for p in parts[1:]):
        parts = parts[1:]
    return "".join(p if isinstance(p, str) else f"{run_length(len(p), None)} " for p in parts)


def _items(case: Case) -> Iterator[str | int]:
    """Pieces of text and numbers of latent steps (from 0), in order."""
    for part in case.chain():
        if isinstance(part, str):
            yield part
        elif case.steps is None:
            yield run_length(len(part), None)
        else:
            yield from part


def _print_items(out: _Lines, case: Case, items: list[str | int], top: float, *, whole: bool) -> None:
    """Every item in a line; of many the head and the tail, and in one line what lies between."""
    folded = not whole and len(items) > HEAD + TAIL + 2
    for i, item in enumerate(items):
        if folded and HEAD <= i < len(items) - TAIL:
            if i == HEAD:
                _print_fold(out, case, items[HEAD : len(items) - TAIL])
        elif isinstance(item, str):
            out.line(_clip(f"{'':8}{' '.join(readable(item).split())}", out.width), "dim")
        elif case.steps is not None:
            out.text(_step(item, case.steps[item], top, out.width))


def _print_fold(out: _Lines, case: Case, items: list[str | int]) -> None:
    kinds = {k: list(g) for k, g in groupby(sorted(items, key=lambda i: isinstance(i, str)), key=type)}
    numbers = [i for i in kinds.get(int, []) if isinstance(i, int)]
    spread = steps_apart(case.steps[i] for i in numbers) if case.steps is not None else None
    texts = len(items) - len(numbers)
    between = f" and {texts:,} piece{'s' * (texts > 1)} of text" if texts else ""
    out.line(f"  {run_length(len(numbers), spread)}{between}  --all shows them", "bold")


def _step(number: int, step: Step, top: float, width: int) -> Text:
    """`     3  ███▍     0.51  ·cup 0.53  ·ball 0.20`: as many tokens as fit."""
    share = min(1.0, max(0.0, step.entropy / top))
    full, part = divmod(round(share * _BAR * 8), 8)
    bar = "█" * full + (_EIGHTHS[part] if part else "")
    line = Text(f"  {number + 1:>6,}  ")
    line.append(f"{bar:<{_BAR}}", _HEAT[min(len(_HEAT) - 1, int(share * len(_HEAT)))])
    line.append(f"{step.entropy:5.2f}  " if step.entropy < 100 else f"{step.entropy:5.3g}  ")
    for i, (token, p) in enumerate(step.tokens):
        shown = visible(token)
        room = width - cell_len(line.plain) - 6 - (2 if i else 0)
        if i and (cell_len(shown) > room or p < _RARE):
            break
        shown = _clip(shown, room)
        line.append("  " if i else "").append(shown, "bold" if i == 0 else "").append(f" {p:.2f}", "dim")
    extras = (f"  mass {step.mass:.2f}" if step.mass < 0.995 else "") + ("  noised" if step.noised else "")
    if extras and cell_len(line.plain) + cell_len(extras) <= width:
        line.append(extras, "dim")
    return line


def _verdict(verdict: str | None) -> Text:
    if verdict is None:
        return Text("not judged", "yellow")
    words, style = _VERDICTS.get(verdict, ("! the grader failed", "bold yellow"))
    return Text(words, style)


def _clip(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


class _Lines:
    """Prints within the width, by the cells that signs take; nothing is read as markup."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = min(WIDTH, console.width)

    def text(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)

    def line(self, words: str, style: str = "") -> None:
        indent = len(words) - len(words.lstrip(" "))
        for part in Text(words[indent:], style).wrap(self.console, self.width - indent, overflow="fold"):
            part.rstrip()
            self.text(Text(" " * indent).append_text(part))

    def title(self, name: str, rest: str = "") -> None:
        self.text(Text(f"\n{name}", "bold"))
        if rest:
            self.line(f"  {rest}", "dim")

    def body(self, words: str) -> None:
        """Text of a model: as it is, two columns in."""
        text = Text(readable(words).expandtabs(4))
        for part in text.wrap(self.console, self.width - 2, overflow="fold"):
            part.rstrip()
            self.text(Text("  ").append_text(part) if part.plain else part)
