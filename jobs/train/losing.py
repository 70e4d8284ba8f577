"""Whether a training is a losing point of its sweep: the points tell one another through a file, by Optuna.

A point that is stopped keeps its weights, and the stages after it run; only the rest of its training is
saved.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from jobs.runtime.errors import JobUserError
from latentctl.record.paths import RunPaths
from latentctl.record.sweeps import SWEEPS, membership
from latentctl.spec.train import StopLosingSpec

_RUN = "run"


class Losing:
    """Of one training stage; in the process that writes what all share. Raises JobUserError where Optuna is
    not installed."""

    def __init__(self, spec: StopLosingSpec, run: RunPaths, stage: str) -> None:
        try:
            import optuna
        except ImportError as error:
            raise JobUserError(
                f"train.stop_losing needs optuna, which cannot be loaded: {error}",
                hint="pip install 'latentctl[sweep]' into the interpreter that trains",
                where=f"{stage}.train.stop_losing",
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna: Any = optuna
        self.spec, self.run, self.stage = spec, run, stage
        self.factor = spec.factor or 3
        self._trial: Any = None

    def stops(self, step: int, value: float) -> str | None:
        """Tell the others this point's value after a validation. Why it should stop; None: it goes on."""
        trial = self._mine()
        if trial is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # after a resume: it was reported already
            trial.report(value, step)
        if not trial.should_prune():
            return None
        others = [t for t in trial.study.get_trials(deepcopy=False) if t.user_attrs.get(_RUN) != self.run.id]
        how = {"halving": f"not in the best 1/{self.factor}", "median": "worse than the median"}
        return (
            f"a losing point: {self.spec.metric} {value:.4g} at step {step} is {how[self.spec.pruner]} "
            f"of what {len(others)} other points had"
        )

    def ended(self, value: float | None, *, stopped: bool) -> None:
        """This point trains no more. Told once; again after a resume nothing happens."""
        trial = self._mine()
        if trial is None:
            return
        states = self.optuna.trial.TrialState
        state = states.PRUNED if stopped or value is None else states.COMPLETE
        values = value if state == states.COMPLETE else None
        trial.study.tell(trial.number, values, state=state, skip_if_finished=True)

    def _mine(self) -> Any:
        """This point's trial; None while it is no point of a sweep, or done."""
        if self._trial is None and (place := self._place()) is not None:
            study = self._study(place)
            held = next((t for t in study.get_trials() if t.user_attrs.get(_RUN) == self.run.id), None)
            if held is not None and held.state.is_finished():
                return None
            if held is None:
                self._trial = study.ask()
                self._trial.set_user_attr(_RUN, self.run.id)
            else:  # of an attempt before
                self._trial = self.optuna.trial.Trial(study, held._trial_id)
        return self._trial

    def _place(self) -> Path | None:
        """Where the points of the sweep meet."""
        found = membership(self.run.root.parent).get(self.run.id)
        return (
            None
            if found is None
            else self.run.root.parent / SWEEPS / found["sweep"] / f"{self.stage}.journal"
        )

    def _study(self, place: Path) -> Any:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        backend = JournalFileBackend(str(place), lock_obj=JournalFileOpenLock(str(place)))
        return self.optuna.create_study(
            storage=JournalStorage(backend),
            study_name=self.stage,
            direction="minimize" if self.spec.metric == "loss" else "maximize",
            pruner=self._pruner(),
            load_if_exists=True,
        )

    def _pruner(self) -> Any:
        spec, pruners = self.spec, self.optuna.pruners
        if spec.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=spec.points or 4, n_warmup_steps=spec.after)
        return pruners.SuccessiveHalvingPruner(
            min_resource=max(1, spec.after), reduction_factor=self.factor, bootstrap_count=0
        )
