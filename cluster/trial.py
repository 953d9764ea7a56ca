"""One trial of a search: an ordinary run that reports every checkpoint to Ray Tune."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.checkpoint import to_json, write
from cluster import launch, run_config
from cluster.errors import SparringError, UsageError
from cluster.run_config import RunConfig
from cluster.run_folder import RunFolder
from trainers.methods.base import Method

RECORDS = ("metrics.jsonl", "validation.jsonl", "alarms.jsonl")


@dataclass(frozen=True)
class Plan:
    """What every trial is told."""

    folder: str  # of the search
    config: RunConfig
    objective: str
    command: list[str]
    pbt: bool = False


def check_objective(objective: str, config: RunConfig) -> None:
    """Refuse an objective that no run of this kind can report.

    Raises:
        UsageError: with what is reported.
    """
    for part in objective.split(","):
        agent, slash, value = part.rpartition("/")
        if part in ("robust", "clean", "w-robust") or (slash and agent in config.method.roles() and value):
            continue
        raise UsageError(
            f"objective {part!r} is never reported; there are robust, clean, w-robust (the products' mean on held-out images) and "
            f"AGENT/robust, AGENT/clean or AGENT/TERM of any loss term, with {', '.join(config.method.roles())}"
        )


def measure(
    objective: str,
    method: Method,
    accuracies: Mapping[str, Mapping[str, float]],
    terms: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    """Every part of an objective, and their mean as ``objective``.

    Args:
        accuracies: per agent, clean and robust on the held-out images, in [0, 1].
        terms: per agent, the values of its last step.

    Raises:
        UsageError: a loss term that the run does not have.
    """
    products = [accuracies[role] for role in method.deploy()]
    found: dict[str, float] = {}
    for part in objective.split(","):
        agent, _, name = part.rpartition("/")
        if part == "w-robust":
            found[part] = fmean((p["clean"] + p["robust"]) / 2 for p in products)
        elif not agent:
            found[part] = fmean(p[part] for p in products)
        elif name in accuracies.get(agent, {}):
            found[part] = accuracies[agent][name]
        elif name in terms.get(agent, {}):
            found[part] = terms[agent][name]
        else:
            raise UsageError(
                f"objective {part!r} is never reported; {agent} reports {', '.join({**accuracies.get(agent, {}), **terms.get(agent, {})})}"
            )
    return {**found, "objective": fmean(found.values())}


def reports(folder: RunFolder, objective: str) -> list[dict[str, float]]:
    """What the run reported at every checkpoint so far, in order; computed from its records."""
    by_step: dict[int, dict[str, Any]] = {}
    for line in folder.lines("validation.jsonl"):
        by_step.setdefault(line["t"], {})[line["agent"]] = {k: line[k] for k in ("clean", "robust")}
    needed = {t - 1 for t in by_step}
    terms: dict[int, dict[str, Any]] = {}
    for line in folder.metrics():
        if line["t"] in needed:
            terms.setdefault(line["t"], {})[line["agent"]] = line["values"]
    config = folder.config
    return [
        {"step": t, **measure(objective, config.at(t).method, seen, terms.get(t - 1, {}))}
        for t, seen in sorted(by_step.items())
        if t
    ]


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
    ended = (path / "result.json").exists()
    if (path / "config.yaml").exists() and checkpoint is None and (ended or plan.pbt):
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
        launch.resume(path, overrides={"memo": plan.config.memo}, quiet=True, inside=launch.Inside(reported, group))
        write(path / "result.json", to_json({"status": "finished"}))
    except (SparringError, ValueError) as error:
        code = error.code if isinstance(error, SparringError) else 2
        if code in (8, 130):
            raise
        write(path / "result.json", to_json({"status": "failed", "cause": str(error), "code": code}))


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
    working = path.with_name(f"{path.name}.tmp")
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
    shutil.rmtree(path, ignore_errors=True)
    working.rename(path)


def result(path: Path) -> dict[str, Any]:
    """How a trial stands: status (open, finished, stopped, failed), its values, every report.

    A stopped trial's reports end where it was stopped.
    """
    plan = json.loads((path.parent.parent / "search.json").read_text())
    known = json.loads((path / "result.json").read_text()) if (path / "result.json").exists() else {"status": "open"}
    made: list[dict[str, float]] = []
    if (path / "config.yaml").exists():
        with suppress(UsageError):  # an objective that the run never reports: nothing was
            made = reports(RunFolder(path), plan["objective"])
    if "step" in known:
        made = [r for r in made if r["step"] <= int(known["step"])]
    params = json.loads((path / "params.json").read_text())
    return {"trial": path.name, "params": params, "reports": made, **known}
