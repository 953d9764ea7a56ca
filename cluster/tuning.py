"""A search's trials under Ray Tune: who starts when, who is stopped, who takes over from whom."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from agents.checkpoint import to_json, write
from cluster import samplers, search, stop, trial
from cluster.fitting import Bundle
from cluster.samplers import Params
from cluster.search import Search
from trainers.search import Uniform

STEP, GOAL = "step", "objective"
REDUCTION = 3  # of trials that meet at a rung, the best third goes on
RUNGS = 2  # at a ninth of the run or its first checkpoint, and at three times that: a slow start before stops nobody


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
    plan, count = search.plan_of(searched, folder), searched.trials if drawn is None else len(drawn)
    pbt = searched.scheduler == "pbt"

    def one(config: dict[str, Any]) -> None:
        if pbt:  # taking over from another trial copies its configuration, so only Tune knows which one this is
            index, params = (
                int(str(tune.get_context().get_trial_id()).rpartition("_")[2]),
                {k: config[k] for k in searched.spaces},
            )
        else:
            index, params = config["index"], config["params"] if drawn is None else drawn[config["index"]]
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
            scheduler=_scheduler(searched, folder, length),
            search_alg=Asked(searched, folder) if drawn is None else None,
            num_samples=count if drawn is None else 1,
            max_concurrent_trials=searched.concurrent,
            time_budget_s=time_budget,
            reuse_actors=True,
        ),
        run_config=_quietly(folder / ".tune", searched.config.max_failures, say),
    )
    # SIGINT is what Tune ends in good order for; stdout is the answer's
    with _seeded(searched.config.seed), stop.terminate_as(signal.SIGINT), redirect_stdout(sys.stderr):
        errors = tuner.fit().errors
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
    return tune.RunConfig(
        name="tune", storage_path=str(storage), failure_config=failures, callbacks=[Lines(say)], verbose=0
    )


def _scheduler(searched: Search, folder: Path, length: int) -> TrialScheduler:
    every = searched.config.checkpoint.every
    if searched.scheduler == "asha":
        return Halving(folder, grace_period=max(every, length // REDUCTION**RUNGS))
    if searched.scheduler == "pbt":
        spaces = {k: s for k, s in searched.spaces.items() if isinstance(s, Uniform)}

        def inside(config: dict[str, Any]) -> dict[str, Any]:
            return {**config, **{k: min(max(config[k], s.low), s.high) for k, s in spaces.items()}}

        return Population(
            time_attr=STEP,
            perturbation_interval=every,
            burn_in_period=_furthest(
                folder
            ),  # of a resumed search: Tune would wait for ever if all were past its next turn
            hyperparam_mutations=samplers.domains(spaces),
            custom_explore_fn=inside,
            require_attrs=False,
            synch=True,
            log_config=False,
        )
    return FIFOScheduler()


def _furthest(folder: Path) -> int:
    """The newest report of all trials that have not ended."""
    going_on = [r for r in search.results_of(folder) if r["status"] == "open" and r["reports"]]
    return max((r["reports"][-1][STEP] for r in going_on), default=0)


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Trials that wait for each other at every checkpoint; for one that failed on the way there they do not.

    Tune asks who goes on and starts a process for that one, and for no other until it runs; a process that becomes free takes
    over the one named, and what was being started for it is thrown away. So that all places are taken, Tune hears of every
    trial for which nothing is being started, then of the one whose process is farthest from ready.
    """

    def choose_trial_to_run(self, controller: Any) -> Any:
        live = controller.get_live_trials()
        paused = [t for t in controller.get_trials() if t.status == Trial.PAUSED]
        if live and len(paused) == len(live) and not any(self._goes_on(t) for t in paused):
            here = min(self._trial_state[t].last_train_time for t in live)
            self._next_perturbation_sync = here + self._perturbation_interval
        pending = [
            t for t in controller.get_trials() if t.status == Trial.PENDING and self._trial_state[t].last_train_time
        ]
        named = [*filter(self._goes_on, paused), *reversed(pending)]
        return named[0] if named else super().choose_trial_to_run(controller)

    def _goes_on(self, one: Any) -> bool:
        return bool(self._trial_state[one].last_train_time < self._next_perturbation_sync)


class Halving(ASHAScheduler):  # type: ignore[misc]
    """Asynchronous successive halving that leaves a record in the folder of a trial that it stops."""

    def __init__(self, folder: Path, *, grace_period: int) -> None:
        self._folder = folder
        # a trial's last report must not stop it: it has to end by itself
        super().__init__(
            time_attr=STEP,
            grace_period=grace_period,
            max_t=int(1.5 * grace_period * REDUCTION ** (RUNGS - 1)),  # beyond the last rung and before one more
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )

    def on_trial_result(self, controller: Any, one: Any, result: dict[str, Any]) -> str:
        decision = str(super().on_trial_result(controller, one, result))
        path = self._folder / "trials" / f"{_index(one):03d}" / "result.json"
        if decision == TrialScheduler.STOP and not path.exists():
            write(path, to_json({"status": "stopped", STEP: result[STEP]}))
        return decision


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
        params = self._made.pop(trial_id, None)
        if params is None:
            self._optuna.on_trial_complete(trial_id, result, error)
        elif result is not None and GOAL in result:
            self._optuna.add_evaluated_point(params, result[GOAL])

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
            f"trial {_index(trial):03d}  step {result[STEP]}  objective {result[GOAL]:.4f}  ({running} of {len(trials)} running)"
        )


def _index(one: Any) -> int:
    """Which trial it is: Tune numbers those that it draws itself; pbt copies configurations, so theirs does not tell."""
    _, numbered, last = str(one.trial_id).rpartition("_")
    return int(last) if numbered else int(one.config["index"])


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
