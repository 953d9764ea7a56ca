"""Runs and measurements in processes of their own, placed over the cluster by what they need, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import Infrastructure, NoResources, SparringError, exit_code
from sparring.cluster.frontier import work
from sparring.cluster.machines import placement
from sparring.cluster.machines.whole_runs import HEAD, bundles_of
from sparring.trainers.code import Code

SOON = 1.0  # seconds for which room is waited while others still run
EVERYBODYS = (4, 8, 130)  # exit codes that say nothing about the run's own settings


@dataclass(frozen=True, slots=True)
class Task:
    """What one process does: ``do(folder, config, group)`` of ``work``, by name."""

    do: str
    folder: Path
    config: RunConfig
    asked: dict[str, Any]
    codes: tuple[Code, ...]  # users' files, looked at by the frontier: its process knows them once they have arrived


def carry_out(
    tasks: Sequence[Task], runtime_env: dict[str, Any], *, alone: bool, ended: Callable[[Task, str | None], None]
) -> None:
    """Each task once; those that find room run at the same time, and a later one never overtakes an earlier one that waits for room.

    Args:
        alone: one at a time, for what is being timed.
        ended: told of every task that has, and why it failed, if its own settings are the reason.

    Raises:
        NoResources: not one of them would ever fit.
        Infrastructure: processes were lost more often than ``max_failures`` allows.
    """
    waiting, failures = list(tasks), dict.fromkeys(range(len(tasks)), 0)
    numbers = {id(task): i for i, task in enumerate(tasks)}
    running: dict[Any, tuple[Task, Any, Any]] = {}
    with _ended(running):
        while waiting or running:
            while waiting and not (alone and running):
                group = _room(waiting[0].config, wait=not running)
                if group is None:
                    break
                task = waiting.pop(0)
                process = _process(task, group, runtime_env)
                running[process.done.remote(task)] = task, process, group
            done, _ = ray.wait(list(running), timeout=SOON)
            for ref in done:
                task, process, group = running.pop(ref)
                ray.kill(process)
                placement.release(group)
                try:
                    ended(task, ray.get(ref))
                except RayError as error:
                    cause = getattr(error, "cause", None)
                    if isinstance(cause, SparringError) and not isinstance(cause, Infrastructure):
                        raise cause from None
                    number = numbers[id(task)]
                    failures[number] += 1
                    if failures[number] > task.config.max_failures:
                        first = str(error).strip().splitlines()[-1]
                        raise Infrastructure(f"{task.folder.name} could not be carried out: {first}") from error
                    waiting.insert(0, task)


def _room(config: RunConfig, *, wait: bool) -> Any:
    """A placement group for one run; None where others hold what it needs."""
    bundles = bundles_of(config, placement.nodes_alive())
    try:
        return placement.reserve(bundles, config.placement, timeout=placement.WAIT if wait else SOON)
    except NoResources:
        if wait:
            raise
        return None


def _process(task: Task, group: Any, runtime_env: dict[str, Any]) -> Any:
    cpus = HEAD if task.config.team == "ray" else task.config.placement.cpus_per_agent
    gpus = 0.0 if task.config.team == "ray" else (task.config.placement.gpus_per_agent or 0.0)
    where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": where, "runtime_env": runtime_env}
    return ray.remote(_Process).options(**options).remote()


class _Process:
    """An actor, whose end is nobody's failure: of a task's process Ray tells the user that it died."""

    def done(self, task: Task) -> str | None:
        """Why it failed, if its own settings are the reason."""
        return _done(task)


def _done(task: Task) -> str | None:
    group = ray.util.get_current_placement_group() if task.config.team == "ray" else None
    try:
        getattr(work, task.do)(task.folder, task.config, group=group, **task.asked)
    except Exception as error:
        if exit_code(error) in EVERYBODYS or isinstance(error, OSError):
            raise
        return str(error) if exit_code(error) > 1 else f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _ended(running: dict[Any, tuple[Task, Any, Any]]) -> Iterator[None]:
    """Nothing goes on, or stays reserved, after the block."""
    try:
        yield
    finally:
        for _, process, group in running.values():
            ray.kill(process)
            placement.release(group)
