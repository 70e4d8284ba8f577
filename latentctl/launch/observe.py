"""Runs as they stand, the scheduler asked once for all of them. Light: imports no spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from latentctl.errors import UserError
from latentctl.launch import executor_for
from latentctl.launch.protocol import Executor, Fact, Handle
from latentctl.record import ledger
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.record.states import TERMINAL
from latentctl.runs import view
from latentctl.runs.view import RunView


@dataclass
class Observed:
    """What can be told of some runs."""

    views: list[RunView] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    """Run id -> why its files cannot be read."""
    unanswered: list[str] = field(default_factory=list)
    """Schedulers that did not answer, in words."""


def executor_of(plan: Plan) -> Executor:
    """The executor of a planned run, from the profile in its plan.json: looks only, validates nothing."""
    nested = {k: SimpleNamespace(**(plan.cluster.get(k) or {})) for k in ("interpreter",)}
    profile = SimpleNamespace(**{**plan.cluster, **nested})
    return executor_for(cast(Any, profile))


def handle_of(job: view.JobView) -> Handle | None:
    """The scheduler's handle of a job's newest submission."""
    event = job.handle
    return None if event is None else Handle(event["executor"], str(event["id"]), job.name, event.get("name"))


def observe(runs: Sequence[RunPaths]) -> Observed:
    """Every run's state, with one call of each scheduler for all jobs that it has a say in.

    The scheduler is asked before the files are read for the last time, so that a job that ends in between
    is seen as ended. Runs removed meanwhile are left out.
    """
    result = Observed()
    first = _recovered(_load_all(runs, result), result)
    facts, silent = _ask(first, result)
    for before in first:
        asked = any(True for _ in view.asked_of_scheduler(before))
        again = _load(before.run, result, facts, silent.get(_key(before.plan))) if asked else before
        if again is not None:
            result.views.append(again)
    return result


def observe_one(run: RunPaths) -> RunView:
    """One run. Raises UserError where its files are damaged or gone."""
    seen = observe([run])
    if not seen.views:
        raise UserError(
            f"the run cannot be read: {seen.damaged.get(run.id, 'it is gone')}", where=str(run.root)
        )
    return seen.views[0]


def _load_all(runs: Sequence[RunPaths], result: Observed) -> list[RunView]:
    return [v for v in (_load(run, result) for run in runs) if v is not None]


def _recovered(views: Sequence[RunView], result: Observed) -> list[RunView]:
    """The views, once it is known what became of submissions whose command was killed too early to tell: one
    look at each scheduler."""
    lost: dict[str, list[tuple[RunView, dict[str, Any]]]] = {}
    for one in views:
        live = (job for job in one.jobs if job.state not in TERMINAL)
        intents = (event for job in live if (event := ledger.unanswered(job.events, job.name)) is not None)
        for event in intents:
            lost.setdefault(_key(one.plan), []).append((one, event))
    again: set[str] = set()
    for pairs in lost.values():
        plan = pairs[0][0].plan
        recover = getattr(executor_of(plan), "recover", None)
        if recover is None:
            continue
        try:
            recover([(one.run, event) for one, event in pairs])
        except UserError as error:
            result.unanswered.append(f"{plan.cluster.get('name')}: {error.problems[0].message}")
        else:
            again |= {one.run.id for one, _ in pairs}
    return [(_load(one.run, result) or one) if one.run.id in again else one for one in views]


def _load(
    run: RunPaths, result: Observed, facts: view.Facts | None = None, unanswered: str | None = None
) -> RunView | None:
    try:
        return view.load(run, facts, unanswered)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        result.damaged[run.id] = f"{type(error).__name__}: {error}"
        return None


def _key(plan: Plan) -> str:
    """Runs with equal profiles share a scheduler."""
    return json.dumps(plan.cluster, sort_keys=True)


def _ask(views: Sequence[RunView], result: Observed) -> tuple[view.Facts, dict[str, str]]:
    """What the schedulers say, and which of them did not answer."""
    groups: dict[str, list[tuple[RunView, Handle]]] = {}
    for one in views:
        for job in view.asked_of_scheduler(one):
            handle = handle_of(job)
            if handle is not None:
                groups.setdefault(_key(one.plan), []).append((one, handle))
    facts: dict[tuple[str, str, str], Fact] = {}
    silent: dict[str, str] = {}
    for key, pairs in groups.items():
        try:
            answers = executor_of(pairs[0][0].plan).query([h for _, h in pairs])
        except UserError as error:
            silent[key] = error.problems[0].message
            result.unanswered.append(f"{pairs[0][0].plan.cluster.get('name')}: {silent[key]}")
            continue
        for (one, handle), fact in zip(pairs, answers, strict=True):
            facts[one.run.id, handle.job, handle.id] = fact
    return facts, silent
