"""A case as one self-contained page: no network, no second file. The page's own script draws it from data
that stand in it as JSON, and puts every text in as text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentctl import __version__
from latentctl.report.case import Case, Changed, endings
from latentctl.report.case_signs import readable, visible
from latentctl.report.case_tree import Limb, guide

_TEMPLATE = Path(__file__).with_name("case_template")


def page(cases: Sequence[Case], words: str, found: Sequence[Changed], notes: Sequence[str]) -> bytes:
    """The page of one case, or of the same problem in two runs side by side.

    `words`: why this problem; `found`: the samples whose verdict differs, where that was asked. Nothing but
    this page's own style and script may run in it: the policy in its head names both by their hash.
    """
    style = (_TEMPLATE / "page.css").read_text(encoding="utf-8")
    script = (_TEMPLATE / "page.js").read_text(encoding="utf-8")
    data = json.dumps(_data(cases, words, found, notes), ensure_ascii=False, separators=(",", ":"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    front = cases[0]
    parts = {
        "policy": policy,
        "title": html.escape(visible(f"{front.row['id']}: {' and '.join(c.evaluation.name for c in cases)}")),
        "version": html.escape(__version__),
        "style": style,
        "script": script,
        "data": data.replace("<", "\\u003c"),
    }
    template = (_TEMPLATE / "page.html").read_text(encoding="utf-8")
    filled = re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)
    return filled.encode("utf-8", "backslashreplace")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(
    cases: Sequence[Case], words: str, found: Sequence[Changed], notes: Sequence[str]
) -> dict[str, Any]:
    front = cases[0]
    return {
        "id": visible(front.row["id"]),
        "place": f"problem {front.number:,} of {front.problems:,}",
        "words": readable(words),
        "question": readable(str(front.row.get("question") or "")),
        "gold": readable(str(front.row.get("gold") or "")),
        "cases": [_case(c) for c in cases],
        "changed": [
            [visible(f"{c.key[0]}#{c.key[1]}"), c.before.get("verdict"), c.after.get("verdict")]
            for c in found
        ],
        "notes": [readable(n) for n in notes],
    }


def _case(case: Case) -> dict[str, Any]:
    row, result = case.row, case.evaluation.result()
    latent_end, text_end = endings(case)
    facts = {
        "dataset": " ".join(str(result[k]) for k in ("dataset", "split") if result.get(k)),
        "grader": result.get("grader"),
        "model": result.get("source"),
        "latent input": case.input,
        "prompt tokens": row.get("prompt_tokens"),
    }
    return {
        "run": case.evaluation.run.id,
        "stage": case.evaluation.stage,
        "sample": f"sample {row['index']} ({case.samples} of them)" if case.samples > 1 else "",
        "verdict": row.get("verdict"),
        "extracted": None if row.get("extracted") is None else visible(str(row["extracted"])),
        "reason": readable(str(row.get("reason") or "")),
        "latents": case.latents,
        "tokens": row.get("tokens"),
        "logp": case.logp_per_token,
        "input": case.input,
        "latentEnd": latent_end,
        "textEnd": text_end,
        "steps": None if case.steps is None else [_step(s) for s in case.steps],
        "chain": [readable(p) if isinstance(p, str) else [p.start, p.stop] for p in case.chain()],
        "prompt": readable(str(row.get("prompt") or "")),
        "tree": [_limb(limb, limb.row["index"] == row["index"]) for limb in case.tree],
        "facts": {k: str(v) for k, v in facts.items() if v},
        "notes": [readable(n) for n in case.notes],
    }


def _limb(limb: Limb, this: bool) -> dict[str, Any]:
    return {
        "this": this,
        "guide": guide(limb.guides),
        "index": limb.row["index"],
        "verdict": limb.row.get("verdict"),
        "extracted": visible(str(limb.row.get("extracted") or "")),
        "token": None if limb.root else visible(limb.token),
        "prob": round(limb.prob, 4),
        "text": readable(limb.own),
        "doubles": limb.doubles,
    }


def _step(step: Any) -> list[Any]:
    """[entropy, mass, noised, [[token, probability], ...]]."""
    tokens = [[visible(t), round(p, 4)] for t, p in step.tokens]
    return [round(step.entropy, 4), round(step.mass, 4), int(step.noised), tokens]
