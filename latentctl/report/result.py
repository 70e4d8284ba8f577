"""The numbers of result.json files that count: what they mean, and one run's table. `evals` has those over
seeds, sweeps and many runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentctl.record.atomic import try_read_json
from latentctl.record.calibration import parse
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.report.calibration import calibration_text
from latentctl.report.text import Column, duration, number, percent, short, small, table, wrap


@dataclass(frozen=True)
class StageResult:
    """What one stage of one run came to."""

    run: str
    stage: str
    numbers: dict[str, Any]

    @property
    def scores(self) -> bool:
        """An evaluation: it has an accuracy."""
        return "accuracy" in self.numbers


def stage_results(run: RunPaths, plan: Plan | None = None) -> list[StageResult]:
    """The results of the finished stages, in plan order; those of a job that still runs too."""
    plan = plan or Plan.load(run.plan)
    found: list[StageResult] = []
    for job in plan.jobs:
        for stage in job.stages:
            numbers = try_read_json(run.job(job.name).stage(stage).result)
            if numbers is not None:
                found.append(StageResult(run.id, stage, numbers))
    return found


def run_table(results: Sequence[StageResult], *, colour: bool = False) -> str:
    """The result of one run: a table of its evaluations, one of its trainings, those of its calibrations."""
    parts = []
    evaluations = [r for r in results if r.scores]
    if evaluations:
        parts.append(_evaluations(evaluations, colour=colour))
        parts += [line for r in evaluations for line in _details(r)]
    calibrations = [r for r in results if r.numbers.get("calibration")]
    others = [r for r in results if not r.scores and r not in calibrations]
    if others:
        parts.append(("\n" if parts else "") + _trainings(others))
        parts += [wrap(f"  {r.stage}: {text}", "    ") for r in others for text in _judge(r.numbers)]
    for r in calibrations:
        parts.append(("\n" if parts else "") + calibration_text(parse(r.numbers["calibration"]), r.stage))
    return "\n".join(parts)


def _evaluations(results: Sequence[StageResult], *, colour: bool) -> str:
    latent = any(latents(r.numbers) is not None for r in results)
    head = [
        Column("EVAL", elastic=True),
        Column("DATASET", elastic=True, least=6),
        Column("ACCURACY", right=True),
        Column("95 % CI", right=True),
        Column("N", right=True),
        Column("TOKENS", right=True),
        *([Column("LATENT", right=True)] if latent else []),
        Column("S/PROB", right=True),
    ]
    rows = [
        [
            r.stage,
            dataset(n),
            f"{percent(n['accuracy'])} %",
            interval(n.get("accuracy_ci")),
            number(n.get("n")),
            short(tokens(n)),
            *([short(latents(n))] if latent else []),
            small(seconds_per_problem(n)),
        ]
        for r in results
        for n in (r.numbers,)
    ]
    return table(head, rows, colour=colour)


def tokens(n: Mapping[str, Any]) -> float | None:
    """Mean visible tokens of an answer."""
    return n.get("tokens_mean")


def latents(n: Mapping[str, Any]) -> float | None:
    """Mean latent steps of an answer; None for text alone."""
    return n.get("latents_mean")


def steps(n: Mapping[str, Any]) -> float | None:
    """Mean forward positions of an answer: visible tokens and latent steps together."""
    if n.get("positions_mean") is not None:
        return n["positions_mean"]
    text = tokens(n)
    return None if text is None else text + (latents(n) or 0)


def seconds_per_problem(n: Mapping[str, Any]) -> float | None:
    """Of the whole batch's generation, loading aside: the inverse of the rate."""
    rate = n.get("problems_per_s")
    return 1 / rate if rate else None


def stops(n: Mapping[str, Any]) -> str:
    """How answers ended, and how latent spans did: `eos 95 %, length 5 %; latent: fixed 100 %`."""
    parts = [_shares(n.get("stop_causes")), _shares(n.get("latent_causes"))]
    return "; ".join(t for t in (parts[0], f"latent: {parts[1]}" if parts[1] else "") if t)


def _shares(counts: Mapping[str, int] | None) -> str:
    total = sum((counts or {}).values())
    parts = [(name, percent(count / total).removesuffix(".0")) for name, count in _largest(counts or {})]
    return ", ".join(f"{name} {share} %" for name, share in parts)


def _details(result: StageResult) -> list[str]:
    """What does not fit the table: k > 1, how answers ended, ungraded ones, leakage, warnings."""
    n = result.numbers
    found: list[str] = []
    k = n.get("k") or 1
    if k > 1:
        passes = n.get("pass_at_k") or {}
        parts = [f"avg@{k} {percent(n.get('avg_at_k'))} %"]
        parts += [f"pass@{i} {percent(v)} %" for i, v in sorted(passes.items(), key=lambda kv: int(kv[0]))]
        parts += [f"maj@{k} {percent(n['maj_at_k'])} %"] if n.get("maj_at_k") is not None else []
        found.append("; ".join(parts))
    rate = n.get("tokens_per_s")
    parts = [f"stopped by: {stops(n)}"] if stops(n) else []
    engine = f" by {n['engine']}" if n.get("engine") else ""
    parts += [f"{number(round(float(rate)))} tokens/s{engine}"] if rate else []
    found += ["; ".join(parts)] if parts else []
    if n.get("graded_errors"):
        found.append(f"{n['graded_errors']} answers could not be graded")
    found += _searched(n)
    found += _leakage(n.get("leakage"))
    found += [f"warning: {words}" for words in n.get("warnings") or []]
    return [wrap(f"  {result.stage}: {text}", "    ") for text in found]


def _searched(n: Mapping[str, Any]) -> list[str]:
    """What a tree search found, how different its answers are, and what became of them."""
    found = []
    if tree := n.get("tree"):
        words = f"searched: {number(tree['rows'])} rows a problem, {number(tree['doubles'])} doubles"
        found.append(f"{words}, {number(tree['depth'])} deep")
    if (spread := n.get("diversity")) and spread["bleu"] is not None:
        words = f"{number(spread['answers'])} answers in {number(spread['sequences'])} texts a problem"
        found.append(f"{words}; BLEU {spread['bleu']:.2f}, ROUGE-L {spread['rouge_l']:.2f} of each other")
    if pairs := n.get("pairs"):
        kept = ", ".join(f"{pairs['kept'].get(name, 0)} {name}" for name in ("same", "equal", "other"))
        words = f"{pairs['answered']} of {pairs['branches']} branches have both answers"
        found.append(f"{words}; {pairs['rows']} rows ({kept}) of {pairs['problems']} problems")
    return found


def _judge(n: Mapping[str, Any]) -> list[str]:
    """How good a divergence model is."""
    told = n.get("held_out") or n
    if "auroc" not in told:
        return []
    values = []
    for key, name in (("auroc", "AUROC"), ("average_precision", "average precision")):
        value, ci = told[key], told.get(f"{key}_ci")
        words = "unknown" if value is None else f"{value:.3f}"
        values.append(f"{name} {words}" + (f" (95 % {ci[0]:.3f}-{ci[1]:.3f})" if ci else ""))
    values.append(f"calibration error {told['ece']:.3f}")
    return ["; ".join(values) + f"; {told['rows']} rows of {told['problems']} problems"]


def _leakage(report: Any) -> list[str]:
    """Questions that stand in the training data of an earlier stage, and sets that could not be checked."""
    found = []
    for part in (report or {}).get("sets", []):
        exact, near = part.get("exact") or 0, part.get("near") or 0
        if exact or near:
            found.append(
                f"leakage: {exact} questions also stand in the data of {part['stage']}, {near} nearly"
            )
        elif part.get("checked") is False:
            found.append(f"leakage: not checked against the data of {part['stage']}")
    return found


def _trainings(results: Sequence[StageResult]) -> str:
    head = [
        Column("STAGE", elastic=True),
        Column("METHOD"),
        Column("STEPS", right=True),
        Column("LOSS", right=True),
        Column("BEST", elastic=True, least=6),
        Column("TOKENS", right=True),
        Column("TIME", right=True),
    ]
    rows = [
        [
            r.stage,
            str(n.get("method", "")),
            number(n.get("steps")),
            number(_float(n.get("loss"))),
            _best(n.get("best")),
            number(n.get("tokens")),
            duration(n.get("train_seconds", n.get("seconds"))),
        ]
        for r in results
        for n in (r.numbers,)
    ]
    return table(head, rows)


def interval(bounds: Any) -> str:
    """`70.0-91.0`, in percent."""
    return f"{percent(bounds[0])}-{percent(bounds[1])}" if bounds else "-"


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) else value


def _best(best: Any) -> str:
    """`loss 0.21 @ 400`."""
    if not isinstance(best, Mapping):
        return "-" if best is None else number(_float(best))
    metric = best.get("metric")
    value = best.get("value", best.get(metric) if metric else None)
    step = best.get("step")
    return f"{metric or ''} {number(_float(value))}{f' @ {step}' if step is not None else ''}".strip()


def dataset(n: Mapping[str, Any]) -> str:
    """The name of the dataset, or its path; `n`: a result, or a stage of spec.json."""
    said = n.get("dataset")
    if isinstance(said, Mapping):
        return str(said.get("name") or said.get("path") or "-")
    return str(said) if said else "-"


def _largest(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(((k, v) for k, v in counts.items() if v), key=lambda kv: -kv[1])
