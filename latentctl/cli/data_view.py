"""How `latentctl data` looks on a terminal."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.console import Console
from rich.markup import escape

from latentctl.cli import output

WIDTH = 80
BAR = 40


def show(found: dict[str, Any], *, check: bool, stages: bool) -> None:
    """Every dataset of a recipe by stage (or the one asked for), then leakage and the verdict."""
    console = output.console()
    for item in found["sets"]:
        stage = f"{item['name']}: " if stages else ""
        console.print(f"[bold]{escape(stage + str(item['dataset']))}[/]", soft_wrap=True)
        _set(console, item, check=check)
    if found["leakage"]:
        _leakage(console, found["leakage"])
    if check:
        console.print("[green]ok[/]" if found["ok"] else "[red]not ok[/]")


def _set(console: Console, item: dict[str, Any], *, check: bool) -> None:
    if item["error"]:
        problem = item["error"]
        where = f"{problem['where']}: " if problem["where"] else ""
        console.print(f"  [red]{escape(where + problem['message'])}[/]", soft_wrap=True)
        if problem["hint"]:
            console.print(f"  hint: {escape(problem['hint'])}", soft_wrap=True)
        return
    _counts(console, item)
    _bad_rows(console, item)
    if check:
        return
    _lengths(console, item["lengths"])
    for sample in item["samples"]:
        _sample(console, sample, item["lengths"]["unit"])
    console.print()


def _counts(console: Console, item: dict[str, Any]) -> None:
    of = f" of {item['total']:,}" if item["total"] not in (None, item["rows"]) else ""
    console.print(f"  source   {escape(item['source'])}", soft_wrap=True)
    console.print(f"  rows     {item['rows']:,}{of} ({item['split']}), {item['bad']:,} bad")
    if item["without_answer"]:
        console.print(f"  no gold  {item['without_answer']:,} rows have no answer to train on")
    console.print(f"  form     {item['form']}, {item['template']} template; grader {item['grader']}")
    if item["note"]:
        console.print(f"  note     {escape(item['note'])}", soft_wrap=True)


def _bad_rows(console: Console, item: dict[str, Any]) -> None:
    for bad in item["bad_rows"]:
        where = bad["file"] if bad["line"] is None else f"{bad['file']}:{bad['line']}"
        console.print(f"  [red]bad row[/]  {escape(where)}: {escape(bad['reason'])}", soft_wrap=True)
    if item["bad"] > len(item["bad_rows"]):
        console.print(f"  ... and {item['bad'] - len(item['bad_rows']):,} more bad rows")
    if item["bad"] and item["on_bad_row"] == "error":
        console.print("  hint: `on_bad_row: skip` leaves bad rows out and counts them")


def _lengths(console: Console, lengths: dict[str, Any]) -> None:
    unit = lengths["unit"]
    console.print(f"  length   in {unit}, of {lengths['measured']:,} rows")
    console.print(f"           {'':8}{'min':>8}{'median':>8}{'mean':>9}{'p95':>8}{'max':>8}")
    for part in ("prompt", "target", "total"):
        stats = lengths[part]
        if stats:
            cells = (
                f"{stats['min']:>8}{stats['median']:>8}{stats['mean']:>9}{stats['p95']:>8}{stats['max']:>8}"
            )
            console.print(f"           {part:8}{cells}")
    most = max(count for _, _, count in lengths["histogram"])
    for low, high, count in lengths["histogram"]:
        bar = "█" * max(round(BAR * count / most), 1 if count else 0)
        console.print(f"           {f'{low}-{high}':>13} {count:>7,} {bar}")
    over = lengths["over"]
    if over and over["rows"]:
        done = "left out" if over["overlong"] == "drop" else "cut"
        console.print(
            f"  [yellow]over[/]     {over['rows']:,} rows are longer than max_len {over['max_len']}: {done}"
        )


def _sample(console: Console, sample: dict[str, Any], unit: str) -> None:
    """The prompt plain, the target in colour (in ⟦brackets⟧ without colours): there the loss falls."""
    console.print(f"\n  [dim]── {escape(sample['id'])} {'─' * max(0, WIDTH - len(sample['id']) - 8)}[/]")
    colour = console.color_system is not None and console.is_terminal and not console.no_color
    if unit == "tokens":
        prompt, target = "|".join(sample["prompt_tokens"]), "|".join(sample.get("target_tokens") or [])
    else:
        prompt, target = sample["prompt"], sample["target"] or ""
    if not target:
        target_shown = "[dim](no answer to train on)[/]"
    elif colour:
        target_shown = f"[black on green]{escape(target)}[/]"
    else:
        target_shown = f"⟦{escape(target)}⟧"
    console.print(textwrap.indent(escape(prompt), "  ") + target_shown.replace("\n", "\n  "), soft_wrap=True)


def _leakage(console: Console, found: dict[str, Any]) -> None:
    console.print("[bold]leakage[/] (training questions that an evaluation asks)")
    for pair in found["pairs"]:
        count = pair["exact"] + pair["near"]
        text = f"  {pair['train']} -> {pair['eval']}: {count:,} of {pair['eval_rows']:,} questions"
        detail = f" ({pair['exact']:,} exact, {pair['near']:,} near)" if count else ""
        console.print(f"[red]{escape(text + detail)}[/]" if count else escape(text), soft_wrap=True)
        for leak in pair["examples"][:3]:
            question = " ".join(leak["question"].split())
            short = textwrap.shorten(question, WIDTH - 12, placeholder="...")
            console.print(
                f"    {leak['kind']:5} {escape(leak['eval_id'])} = {escape(leak['train_id'])}", soft_wrap=True
            )
            console.print(f"          {escape(short)}", soft_wrap=True)
    console.print(f"  [dim]rule: {escape(found['rule'])}[/]", soft_wrap=True)


def show_list(datasets: list[dict[str, Any]]) -> None:
    """Names, what they are, graders, splits, forms and options."""
    console = output.console()
    titles = {"dataset": "Datasets", "generator": "Generators", "own": "Own datasets"}
    for kind, title in titles.items():
        chosen = [d for d in datasets if d["kind"] == kind]
        if not chosen:
            continue
        console.print(f"[bold]{title}[/]")
        for item in chosen:
            console.print(f"  [cyan]{escape(item['name'])}[/]  {escape(item['about'])}", soft_wrap=True)
            console.print(f"    splits {', '.join(item['splits']) or 'its own'}; grader {item['grader']}")
            for form in item["forms"]:
                console.print(f"    form   {escape(form)}", soft_wrap=True)
            for option in item["options"]:
                line = f"{option['name']} = {option['default']}: {option['about']}"
                wrapped = textwrap.wrap(line, WIDTH - 12, subsequent_indent=" " * 13)
                console.print("    option " + escape("\n".join(wrapped)), soft_wrap=True)
        console.print()
    console.print("Any other file or Hub id: dataset: {path: FILE, fields: {question: ..., answer: ...}}")
