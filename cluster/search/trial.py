"""One trial of a search: an ordinary run that reports every checkpoint to Ray Tune."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.config import run_config
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import Exists, SparringError
from sparring.cluster.runs.folder import STALE, RunFolder
from sparring.cluster.search.objective import reports
from sparring.cluster.search.results import result
from sparring.cluster.search.settings import Plan
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

LATER = (8, 130)  # exit codes after which the same trial can go on
RECORDS = ("metrics.jsonl", "validation.jsonl", "alarms.jsonl")


def run(plan: Plan, index: int, params: Mapping[str, Any]) -> None:
    """Train trial ``index``, in a process of Tune's, from wherever it stands."""
    from ray import tune

    path = Path(plan.folder) / "trials" / f"{index:03d}"

    def tell(report: dict[str, float]) -> None:
        if not plan.pbt:
            tune.report(dict(report))
            return
        with tempfile.TemporaryDirectory() as where:
            (Path(where) / "at.json").write_text(json.dumps({"trial": path.name, "step": report["step"]}))
            tune.report(dict(report), checkpoint=tune.Checkpoint.from_directory(where))

    checkpoint = tune.get_checkpoint() if plan.pbt else None
    _finish_taking_over(path)
    ended = (path / "result.json").exists()
    if (path / "config.yaml").exists() and checkpoint is None:
        for report in result(path)["reports"][-1 if plan.pbt else None :]:
            tell(report)  # a resumed search: what the scheduler knew before; pbt waits until every trial is as far
    if ended:
        return
    if checkpoint is not None:
        with checkpoint.as_directory() as where:
            known = json.loads((Path(where) / "at.json").read_text())
        if known["step"] != RunFolder(path).total_steps:  # at the end nobody takes over
            take_over(path, Path(plan.folder) / "trials" / known["trial"], known["step"], params)
    elif not (path / "config.yaml").exists():
        path.mkdir(parents=True, exist_ok=True)
        write(path / "params.json", to_json(dict(params)))
        write(path / "config.yaml", run_config.dump(plan.config.replace(params)).encode())

    def reported(t: int, seen: dict[str, Any]) -> None:
        if not seen:
            return
        tell(reports(RunFolder(path), plan.objective)[-1])

    import ray

    group = ray.util.get_current_placement_group() if plan.config.team == "ray" else None
    try:
        _as_soon_as_free(path, plan.config, Circumstances(quiet=True, reported=reported, group=group))
        write(path / "result.json", to_json({"status": "finished"}))
    except (Exists, OSError, ray.exceptions.RayError):
        raise  # not the trial's own fault: it can go on
    except Exception as error:
        code = error.code if isinstance(error, SparringError) else 2 if isinstance(error, ValueError) else 1
        if code in LATER:
            raise
        cause = str(error) if code > 1 else f"{type(error).__name__}: {error}"
        write(path / "result.json", to_json({"status": "failed", "cause": cause, "code": code}))


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
    for name in (*RECORDS, "env.json"):
        if (donor / name).exists():
            shutil.copy(donor / name, working / name)
    write(working / "params.json", to_json(dict(params)))
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
