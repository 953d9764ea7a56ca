"""Who of a search's trials goes on, is stopped, or takes over from another: Tune's schedulers, and what they lack for runs on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.search import samplers
from sparring.cluster.search.results import results_of
from sparring.cluster.search.settings import Search
from sparring.trainers.search import Uniform

STEP, GOAL = "step", "objective"
REDUCTION = 3  # of trials that meet at a rung, the best third goes on
RUNGS = 2  # at a ninth of the run or its first checkpoint, and at three times that: a slow start before stops nobody


def of(searched: Search, folder: Path, length: int) -> TrialScheduler:
    """The scheduler of a search whose trials have so many steps."""
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
    going_on = [r for r in results_of(folder) if r["status"] == "open" and r["reports"]]
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
        path = self._folder / "trials" / f"{index_of(one):03d}" / "result.json"
        if decision == TrialScheduler.STOP and not path.exists():
            write(path, to_json({"status": "stopped", STEP: result[STEP]}))
        return decision


def index_of(one: Any) -> int:
    """Which trial it is: Tune numbers those that it draws itself; pbt copies configurations, so theirs does not tell."""
    _, numbered, last = str(one.trial_id).rpartition("_")
    return int(last) if numbered else int(one.config["index"])
