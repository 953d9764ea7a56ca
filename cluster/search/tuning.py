"""A search's trials under Ray Tune: who starts when, who is stopped, who takes over from whom."""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import Searcher

from sparring.cluster.machines import stop
from sparring.cluster.machines.fitting import Bundle
from sparring.cluster.search import samplers, schedulers, trial
from sparring.cluster.search.samplers import Params
from sparring.cluster.search.schedulers import GOAL, STEP
from sparring.cluster.search.settings import Search, plan_of
from sparring.cluster.search.silent import Silent

ROOM = 2**20  # bytes; a disk with less is full


def fit(
    searched: Search,
    folder: Path,
    drawn: Sequence[Params] | None,
    wanted: Sequence[Bundle],
    *,
    length: int,
    time_budget: float | None,
    say: Callable[[str], None],
) -> tuple[bool, str | None]:
    """Run every trial that has not ended; whether all have now, and why Tune gave one up.

    Args:
        drawn: settings per trial; None asks Optuna.
        wanted: bundles of one trial.
        length: steps of a whole trial.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial may fail before its first report
    plan, count = plan_of(searched, folder), searched.trials if drawn is None else len(drawn)
    pbt = searched.scheduler == "pbt"

    def one(config: dict[str, Any]) -> None:
        if pbt:  # taking over from another trial copies its configuration, so only Tune knows which one this is
            index = int(str(tune.get_context().get_trial_id()).rpartition("_")[2])
            params = {k: config[k] for k in searched.spaces}
        else:
            index = config["index"]
            params = config["params"] if drawn is None else drawn[index]
        trial.run(plan, index, params)

    space: dict[str, Any] = {} if drawn is None else {"index": tune.grid_search(list(range(count)))}
    if pbt and drawn is not None:
        first = [samplers.known(folder, i) or drawn[i] for i in range(count)]
        space |= {k: tune.sample_from(lambda spec, k=k: first[spec.config.index][k]) for k in searched.spaces}
    tuner = tune.Tuner(
        tune.with_resources(one, _group(wanted, searched.config.placement.strategy)),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=GOAL,
            mode="max",
            scheduler=schedulers.of(searched, folder, length),
            search_alg=Asked(searched, folder) if drawn is None else None,
            num_samples=count if drawn is None else 1,
            max_concurrent_trials=searched.concurrent,
            time_budget_s=time_budget,
            reuse_actors=True,
        ),
        run_config=_quietly(folder / ".tune", searched.config.max_failures, say),
    )
    # SIGINT is what Tune ends in good order for; stdout is the answer's
    with _seeded(searched.config.seed), stop.terminate_as(signal.SIGINT), redirect_stdout(sys.stderr), _silenced():
        try:
            errors = tuner.fit().errors
        except EOFError as error:  # Tune's own record of a trial's error is cut off
            if shutil.disk_usage(folder).free > ROOM:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / ".tune")) from error
    finished = all((folder / "trials" / f"{i:03d}" / "result.json").exists() for i in range(count))
    return finished, str(errors[0]).strip().splitlines()[-1] if errors else None


def _group(wanted: Sequence[Bundle], strategy: str) -> Any:
    """What Tune reserves for every trial."""
    selectors = [b.selector for b in wanted]
    labels = {"bundle_label_selector": selectors} if any(selectors) else {}
    return tune.PlacementGroupFactory([b.resources for b in wanted], strategy=strategy, **labels)


def _quietly(storage: Path, max_failures: int, say: Callable[[str], None]) -> tune.RunConfig:
    """Tune's own records and words; a trial is begun again after failures that are not its own."""
    failures = tune.FailureConfig(max_failures=max_failures)
    callbacks = [Lines(say), Looks(storage.parent)]
    return tune.RunConfig(
        name="tune", storage_path=str(storage), failure_config=failures, callbacks=callbacks, verbose=0
    )


class Asked(Searcher):  # type: ignore[misc]
    """Optuna's TPE; trials that an earlier part of the search has made keep their settings, and Optuna hears of them too."""

    def __init__(self, searched: Search, folder: Path) -> None:
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(metric=GOAL, mode="max")
        self._count, self._folder, self._next = searched.trials, folder, 0
        drawn = sum(samplers.known(folder, i) is not None for i in range(searched.trials))
        seed = searched.config.seed + drawn  # Optuna's first draws depend on the seed alone: not the same ones again
        self._optuna = OptunaSearch(samplers.domains(searched.spaces), metric=GOAL, mode="max", seed=seed)
        self._made: dict[str, Params] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._next >= self._count:
            return Searcher.FINISHED  # type: ignore[no-any-return]
        index, self._next = self._next, self._next + 1
        params = samplers.known(self._folder, index)
        if params is None:
            params = self._optuna.suggest(trial_id)
        else:
            self._made[trial_id] = params
        return {"index": index, "params": params}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        params, goal = self._made.pop(trial_id, None), (result or {}).get(GOAL)
        if goal is not None and math.isnan(goal):  # Optuna refuses it, and would take the trial for one that still runs
            result, error = None, True
        if params is None:
            self._optuna.on_trial_complete(trial_id, result, error)
        elif goal is not None:
            self._optuna.add_evaluated_point(params, goal, error=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what was asked and answered is in the trials' folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing either."""


class Lines(tune.Callback):  # type: ignore[misc]
    """One line per report; a trial that failed without one has none."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if GOAL not in result:
            return
        running = sum(t.status == "RUNNING" for t in trials)
        self._say(
            f"trial {schedulers.index_of(trial):03d}  step {result[STEP]}  objective {result[GOAL]:.4f}  ({running} of {len(trials)} running)"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(f"trial {schedulers.index_of(trial):03d} lost its processes too often and was given up")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(f"trial {schedulers.index_of(trial):03d} lost a process, and is begun again from its last checkpoint")


class Looks(tune.Callback):  # type: ignore[misc]
    """Sees that trials are alive."""

    def __init__(self, folder: Path) -> None:
        self._silent = Silent(folder)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._silent.look({schedulers.index_of(t) for t in trials if t.status == "RUNNING"})


@contextmanager
def _silenced() -> Iterator[None]:
    """Tune logs a traceback for every process that it loses; one line says as much."""
    logger = logging.getLogger("ray.tune")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Tune's schedulers draw from Python's and numpy's global generators; the caller's states return."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
