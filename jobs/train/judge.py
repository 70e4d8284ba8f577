"""What a validation means: a new best, or time to stop."""

from __future__ import annotations

import math

from jobs.train.state import Best, TrainState
from latentctl.spec.train import TrainSpec


def better(metric: str, new: float, old: float | None, *, by: float = 0.0) -> bool:
    """Whether `new` improves on `old` by more than `by`: a loss falls, everything else rises. NaN never
    does."""
    if math.isnan(new):
        return False
    if old is None:
        return True
    return new < old - by if metric == "loss" else new > old + by


def judge(train: TrainSpec, state: TrainState, measured: dict[str, float]) -> bool:
    """Enter a validation into `state`. True where it is the best so far by `keep.best`."""
    state.validation = {**measured, "step": state.step}
    if stop := train.early_stop:
        value = measured[stop.metric]
        if better(stop.metric, value, state.record, by=stop.min_delta):
            state.record, state.stale = value, 0
        else:
            state.stale += 1
            if state.stale >= stop.patience:
                state.stopped = f"{stop.metric} has not improved in {state.stale} validations"
    if (metric := train.keep.best) is None:
        return False
    if not better(metric, measured[metric], state.best.value if state.best else None):
        return False
    state.best = Best(metric, measured[metric], state.step)
    return True
