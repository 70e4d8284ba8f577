"""An engine that one evaluation hands to the next one of its job: loading may take longer than generating."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from jobs.generate.protocol import Engine, Request
from jobs.methods.protocol import StageContext
from latentctl.record.plan import Plan
from latentctl.spec.engine import EngineSpec
from latentctl.spec.stage import StageBase

_kept: list[tuple[str, Engine]] = []
"""At most one, with what it was made for."""


@contextmanager
def engine_for(
    ctx: StageContext,
    requests: Sequence[Request],
    on_step: Callable[[int], bool],
    make: Callable[[], Engine],
) -> Iterator[Engine]:
    """The engine that the stage before left, if it is what `make` would make and serves the requests; else
    a new one. It stays for the next stage of the job if that asks for the same."""
    mine = _asked(ctx.stage)
    engine = _taken(mine, requests)
    if engine is None:
        engine = make()
    else:
        engine.tokens, engine.on_step = 0, on_step
    keep = False
    try:
        yield engine
        keep = mine is not None and _asked(_next(ctx)) == mine
    finally:
        if keep and mine is not None:
            engine.on_step = None
            _kept.append((mine, engine))
        else:
            engine.close()


def _taken(mine: str | None, requests: Sequence[Request]) -> Engine | None:
    """The kept engine where it fits; one that does not is closed."""
    if not _kept:
        return None
    asked, engine = _kept.pop()
    if asked == mine and not any(engine.refuses(request) for request in requests):
        return engine
    engine.close()
    return None


def _asked(stage: StageBase | None) -> str | None:
    """What decides of a stage's engine."""
    settings = None if stage is None else stage.settings
    if stage is None or not isinstance(settings, EngineSpec):
        return None
    own = {key: getattr(settings, key) for key in EngineSpec.model_fields}
    tree = getattr(settings, "tree", None)
    parts = (stage.method, stage.from_, stage.model.model_dump_json(), own, tree and tree.divergence)
    return repr(parts)


def _next(ctx: StageContext) -> StageBase | None:
    """The stage that this process does after this one."""
    with suppress(FileNotFoundError):
        names = Plan.load(ctx.run.plan).job_of(ctx.stage.name).stages
        after = names[names.index(ctx.stage.name) + 1 :]
        return ctx.experiment.stage(after[0]) if after else None
    return None
