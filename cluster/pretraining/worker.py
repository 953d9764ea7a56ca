"""What a worker of Ray Train does: a lane of the run's only agent, from the newest whole checkpoint to the end.

All lanes compute, exchange gradients inside ``learn`` and write their part of a checkpoint; the first one keeps the records
and commits, while the others wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.agents.lanes import LaneBroken, Lanes
from sparring.agents.spec import AgentSpec
from sparring.agents.state import NotFinite
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import exit_code, of_agent, sentence
from sparring.cluster.runs import images
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.lock import Held
from sparring.cluster.team import failures
from sparring.cluster.team.team import LocalTeam, save_now
from sparring.cluster.training.job import Circumstances, Job
from sparring.cluster.training.monitors import Monitors
from sparring.cluster.training.progress import Progress, facts_table
from sparring.cluster.training.saving import by_network
from sparring.trainers import user
from sparring.trainers.types import HeldOut


@dataclass(frozen=True)
class Task:
    """What a worker of Ray Train needs."""

    run: str
    config: RunConfig
    spec: AgentSpec
    command: list[str]


def stopped(folder: RunFolder) -> Path:
    """Where a worker says what stopped training that no other worker could go on from."""
    return folder.path / "ray_train" / "stopped.json"


def stop(folder: RunFolder, error: Exception) -> None:
    """Say so, as the command will."""
    good = folder.checkpoints.newest_whole()[0]
    told = of_agent(user.placed(error), None if good is None else folder.checkpoints.path(good))
    write(stopped(folder), to_json({"code": exit_code(told), "text": sentence(told)}), writer=f".{os.getpid()}")


def work(options: dict[str, Any]) -> None:
    """The function that TorchTrainer runs in every worker."""
    import ray.train
    import torch

    task: Task = options["task"]
    folder = RunFolder(Path(task.run))
    if stopped(folder).exists():
        return  # another lane has met what would be met again
    context = ray.train.get_context()
    index, count = context.get_world_rank(), context.get_world_size()
    lanes = Lanes(index, count, torch.distributed.group.WORLD if count > 1 else None)
    try:
        with _lane(task, folder, lanes) as lane:
            lane.train()
    except NotFinite as error:  # raised in every lane
        stop(folder, error)
    except Exception as error:
        if failures.infrastructure(error):
            raise
        stop(folder, error)
        if count > 1:
            raise  # the lanes that did not meet it wait for this one: a new group ends them


@contextmanager
def _lane(task: Task, folder: RunFolder, lanes: Lanes) -> Iterator[_Lane]:
    team = LocalTeam([task.spec], lanes)
    try:
        lane = _First(task, folder, team, lanes) if lanes.index == 0 else _Lane(task, folder, team, lanes)
        try:
            yield lane
        finally:
            lane.close()
    finally:
        team.close()


class _Lane:
    """A lane that only computes, and saves its own batch statistics."""

    def __init__(self, task: Task, folder: RunFolder, team: LocalTeam, lanes: Lanes) -> None:
        self.task, self.config, self.folder, self.team, self.lanes = task, task.config, folder, team, lanes
        self.checkpoints = folder.checkpoints
        self.total = next(iter(team.describe().values())).total_steps

    def train(self) -> None:
        """From the newest whole checkpoint to the end."""
        config = self.config
        first, self.wrong = self.checkpoints.newest_whole()
        if first is not None:
            self.team.restore(self.checkpoints.path(first) / "agents", timeout=config.call_timeout)
        self.begin(first, self.gather(os.getpid()))
        if first is None:
            self.save(0)
        for t in range(first or 0, self.total):
            self.after(t, self.team.collect(self.team.submit(config.method, t), timeout=config.call_timeout))
            if (t + 1) % config.checkpoint.every == 0 or t + 1 == self.total:
                self.save(t + 1)

    def save(self, t: int) -> None:
        """All lanes write into one folder, which the first one commits."""
        working = Path(self.agree(str(self.working(t))))
        files: dict[str, dict[str, str]] = {}
        for each in self.gather(self.saved(t, working)):
            if isinstance(each, NotFinite):  # perhaps of one lane only: all must stop
                raise each
            for role, names in each.items():
                files[role] = {**files.get(role, {}), **names}
        self.commit(t, working, files)
        self.gather(None)  # nobody goes on, and may be lost, before it is committed

    def saved(self, t: int, working: Path) -> Any:
        """This lane's files, or what kept it from writing them."""
        try:
            return save_now(self.team, t, working / "agents", timeout=self.config.call_timeout)
        except NotFinite as error:
            return error

    def agree(self, value: str) -> str:
        """What the first lane says."""
        return str(self.gather(value)[0])

    def gather(self, value: Any) -> list[Any]:
        """Every lane's value."""
        from torch import distributed

        everyone: list[Any] = [value]
        if self.lanes.count > 1:
            everyone = [None] * self.lanes.count
            try:
                distributed.all_gather_object(everyone, value)
            except RuntimeError as error:
                raise LaneBroken(f"lane {self.lanes.index} lost the others: {error}") from error
        return everyone

    def working(self, t: int) -> Path:
        """Known to the first lane."""
        return Path()

    def begin(self, first: int | None, pids: list[int]) -> None:
        """The first lane's."""

    def after(self, t: int, metrics: Any) -> None:
        """The first lane's."""

    def commit(self, t: int, working: Path, files: dict[str, dict[str, str]]) -> None:
        """The first lane's."""

    def close(self) -> None:
        """The first lane's."""


class _First(_Lane):
    """The lane that also keeps the run's records."""

    def begin(self, first: int | None, pids: list[int]) -> None:
        facts = self.team.describe()
        self.checkpoints.folder.mkdir(exist_ok=True)
        self.checkpoints.drop_after(first)
        self.folder.rewind_metrics(first or 0)
        one = next(iter(facts.values()))
        hashes = images.hashes(self.task.spec.images, self.config.data, seed=self.config.seed)
        job = Job(
            self.folder,
            self.config,
            Circumstances(quiet=True),
            first,
            tuple(self.wrong),
            {},
            hashes,
            held=Held.of(self.folder.path),
        )
        self.job = job
        self.progress = Progress(job, total=self.total, steps_per_epoch=one.steps_per_epoch)
        self.monitors = Monitors(classes=one.classes, total=self.total)
        for line in self.wrong:
            self.progress.event(f"damaged, going back: {line}")
        for line in facts_table(facts):
            self.progress.event(f"{line}, lane 0 of {self.lanes.count}")
        if first is not None:
            self.progress.event(f"continues at step {first} of {self.total}")
        self.folder.write_env(job.environment(facts) | {"command": self.task.command, "workers": pids})

    def working(self, t: int) -> Path:
        self.job.check()
        return self.checkpoints.working(t)

    def after(self, t: int, metrics: Any) -> None:
        self.progress.step(t, metrics)
        for alarm in self.monitors.step(t, metrics):
            self.progress.alarm(alarm)

    def commit(self, t: int, working: Path, files: dict[str, dict[str, str]]) -> None:
        seen: dict[str, HeldOut] = {}
        if t > 0:
            asked = self.team.evaluate(t, self.config.measure)
            seen = by_network(self.team.collect(asked, timeout=0))
        self.job.check()
        data = next(iter(self.team.describe().values())).data_sha256
        origin = {"configuration": self.config.sha256, "data": data}
        self.checkpoints.commit(t, working, files, seen, origin, metric=self.config.method.METRIC)
        self.checkpoints.prune(self.config.checkpoint.keep)
        self.progress.checkpoint(t, seen)
        for alarm in self.monitors.checkpoint(t, seen) if seen else []:
            self.progress.alarm(alarm)

    def close(self) -> None:
        if hasattr(self, "progress"):
            self.progress.close()
