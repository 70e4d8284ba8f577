"""The stage graph becomes jobs: what runs together, what waits for what, and what each asks for."""

from __future__ import annotations

from itertools import pairwise

from latentctl.errors import UserError
from latentctl.plan.resources import Needs, needs, refusals, role
from latentctl.record.plan import JobPlan, Plan
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.experiment import Experiment
from latentctl.spec.reads import said
from latentctl.spec.source import parse_source
from latentctl.spec.stage import StageBase

_NAME_LENGTH = 24


def dependencies(experiment: Experiment) -> dict[str, list[str]]:
    """Stage -> the stages whose output it reads, in recipe order."""
    names = [s.name for s in experiment.stages]
    found: dict[str, list[str]] = {}
    for stage in experiment.stages:
        reads = set()
        if stage.from_ is not None:
            source = parse_source(stage.from_, names)
            if source.kind == "stage" and source.stage is not None:
                reads.add(source.stage)
        further = [parse_source(text, names) for _, text in said(stage.settings)]
        reads |= {source.stage for source in further if source.kind == "stage"}
        found[stage.name] = [n for n in names if n in reads]
    return found


def _groups(experiment: Experiment, asked: dict[str, Needs]) -> list[list[StageBase]]:
    """Consecutive stages that run in one process. A stage that reads nothing of the group so far still
    joins it: the recipe's order is kept."""
    groups: list[list[StageBase]] = [[experiment.stages[0]]]
    for before, stage in pairwise(experiment.stages):
        if experiment.jobs == "auto" and asked[before.name] == asked[stage.name]:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


def _job_name(stages: list[StageBase]) -> str:
    """`sft`, `sft+eval`, or `sft+6` where that would be long. Stage names hold no plus: names stay unique."""
    whole = "+".join(s.name for s in stages)
    return whole if len(stages) == 1 or len(whole) <= _NAME_LENGTH else f"{stages[0].name}+{len(stages) - 1}"


def build_plan(
    experiment: Experiment,
    profile: ClusterProfile,
    run_id: str,
    content_hash: str,
    *,
    debug: bool = False,
) -> Plan:
    """The jobs of one run on one cluster, in an order that respects their dependencies.

    Raises UserError with every reason why the profile refuses the recipe.
    """
    problems = [] if debug else [p for s in experiment.stages for p in refusals(s, profile)]
    if problems:
        raise UserError(problems=problems)
    asked = {s.name: needs(s, profile, debug=debug) for s in experiment.stages}
    reads = dependencies(experiment)
    job_of: dict[str, str] = {}
    jobs: list[JobPlan] = []
    for stages in _groups(experiment, asked):
        name = _job_name(stages)
        need = asked[stages[0].name]
        parents = [job_of[r] for s in stages for r in reads[s.name] if r in job_of]
        jobs.append(
            JobPlan(
                name=name,
                stages=[s.name for s in stages],
                after=list(dict.fromkeys(parents)),
                role="train" if any(role(s) == "train" for s in stages) else "eval",
                nodes=need.nodes,
                tasks_per_node=need.tasks_per_node,
                gpus_per_node=need.gpus_per_node,
                cpus_per_task=need.cpus_per_task,
                mem_mb=need.mem_mb,
                time_s=need.time_s,
                interpreter=need.interpreter,
                generators=need.generators,
            )
        )
        job_of.update({s.name: name for s in stages})
    return Plan(run_id, content_hash, profile.model_dump(mode="json"), jobs, debug=debug)


def gpu_hours(plan: Plan) -> float:
    """Asked for in the worst case: every job for its whole time limit."""
    return sum(j.gpu_hours for j in plan.jobs)
