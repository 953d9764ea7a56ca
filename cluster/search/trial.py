"""One trial of a search: an ordinary run that reports every checkpoint to Ray Tune."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.config import run_config
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import Exists, exit_code
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.lock import STALE
from sparring.cluster.search.objective import reports
from sparring.cluster.search.results import result
from sparring.cluster.search.settings import Plan
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.types import HeldOut

LATER = (8, 130)  # exit codes after which the same trial can go on
RECORDS = ("metrics.jsonl", "validation.jsonl", "alarms.jsonl")


@dataclass(frozen=True, slots=True)
class _Trial:
    """The trial in folder ``path``, as the process of Tune's that carries it out sees it."""

    plan: Plan
    path: Path

    @property
    def begun(self) -> bool:
        return (self.path / "config.yaml").exists()

    @property
    def ended(self) -> bool:
        return (self.path / "result.json").exists()

    def tell(self, report: Mapping[str, float]) -> None:
        """Report to Tune; in a population with where it stands, so that others can take over from it."""
        if not self.plan.pbt:
            tune.report(dict(report))
            return
        with tempfile.TemporaryDirectory() as where:
            at = {"trial": self.path.name, "step": report["step"]}
            (Path(where) / "at.json").write_text(json.dumps(at))
            tune.report(dict(report), checkpoint=tune.Checkpoint.from_directory(where))

    def tell_again(self) -> None:
        """What the scheduler of an earlier part of the search knew; a population waits until every trial is as far."""
        made = result(self.path)["reports"]
        for report in made[-1:] if self.plan.pbt else made:
            self.tell(report)

    def begin(self, params: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write(self.path / "params.json", to_json(dict(params)))
        RunFolder(self.path).keep(self.plan.config.codes)
        write(self.path / "config.yaml", run_config.dump(self.plan.config.replace(params)).encode())

    def train(self) -> None:
        """To the end, or until Tune stops it; an error of the trial's own is its result."""
        group = ray.util.get_current_placement_group() if self.plan.config.team == "ray" else None
        how = Circumstances(quiet=True, reported=self._reported, group=group, parent=Path(self.plan.folder))
        try:
            _as_soon_as_free(self.path, self.plan.config, how)
        except (Exists, OSError, RayError):
            raise  # not the trial's own fault: it can go on
        except Exception as error:
            code = exit_code(error)
            if code in LATER:
                raise
            cause = str(error) if code > 1 else f"{type(error).__name__}: {error}"
            write(self.path / "result.json", to_json({"status": "failed", "cause": cause, "code": code}))
            return
        write(self.path / "result.json", to_json({"status": "finished"}))

    def _reported(self, t: int, seen: Mapping[str, HeldOut]) -> None:
        if seen:  # a checkpoint that was compared
            self.tell(reports(RunFolder(self.path), self.plan.objective)[-1])


def run(plan: Plan, index: int, params: Mapping[str, Any]) -> None:
    """Train trial ``index``, in a process of Tune's, from wherever it stands."""
    one = _Trial(plan, Path(plan.folder) / "trials" / f"{index:03d}")
    donor = _donor() if plan.pbt else None
    _finish_taking_over(one.path)
    if one.begun and donor is None:
        one.tell_again()
    if one.ended:
        return
    if donor is not None:
        trial, step = donor
        if step != RunFolder(one.path).total_steps:  # at the end nobody takes over
            take_over(one.path, one.path.with_name(trial), step, params)
    elif not one.begun:
        one.begin(params)
    one.train()


def _donor() -> tuple[str, int] | None:
    """The trial from which Tune says that this one takes over, and at which step."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as where:
        at = json.loads((Path(where) / "at.json").read_text())
    return str(at["trial"]), int(at["step"])


def _as_soon_as_free(path: Path, asked: RunConfig, how: Circumstances) -> None:
    """Go on with a run, placed as ``asked``. A process that died on another host seems to hold its folder for some time."""
    deadline = time.monotonic() + 2 * STALE
    while True:
        try:
            folder = RunFolder.open(path)
            launch.go_on(folder, folder.config.carried_out_as(asked), how)
            return
        except Exists:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def take_over(path: Path, donor: Path, t: int, params: Mapping[str, float]) -> None:
    """Make the run in ``path`` that of ``donor`` until step ``t``, and from there on one with other values.

    Weights, optimiser and method state are the donor's; its history of changes becomes this run's.
    """
    config = RunFolder(donor).config
    before = {step: values for step, values in config.changes.items() if step < t}
    now = replace(config, changes=before).at(t)
    new = {k: v for k, v in params.items() if now.replace({k: v}) != now}
    changes = {**before, t: new} if new else before
    changed = replace(config, changes=changes)
    if donor == path and changed == config:
        return
    working, whole = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.new")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    for step in RunFolder(donor).checkpoints.committed():
        if step <= t:
            there = RunFolder(donor).checkpoints.path(step)
            shutil.copytree(there, working / "checkpoints" / there.name)
    if (path / "trackers").is_dir():  # which runs of trackers' this trial is
        shutil.copytree(path / "trackers", working / "trackers")
    for name in (*RECORDS, "env.json", "metrics.csv"):
        if (donor / name).exists():
            shutil.copy(donor / name, working / name)
    write(working / "params.json", to_json(dict(params)))
    RunFolder(working).keep(changed.codes)
    write(working / "config.yaml", run_config.dump(changed).encode())
    RunFolder(working).rewind_metrics(t)
    working.rename(whole)
    _finish_taking_over(path)


def _finish_taking_over(path: Path) -> None:
    """Put a whole copy in the trial's place; whoever was killed in between left it there."""
    whole = path.with_name(f"{path.name}.new")
    if whole.exists():
        shutil.rmtree(path, ignore_errors=True)
        whole.rename(path)
