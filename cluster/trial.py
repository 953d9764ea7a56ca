"""One trial of a search: an ordinary run that reports every checkpoint to Ray Tune."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.checkpoint import to_json, write
from cluster import launch, run_config
from cluster.errors import Exists, SparringError, UsageError
from cluster.run_config import RunConfig
from cluster.run_folder import STALE, RunFolder
from trainers.methods.base import Method

LATER = (8, 130)  # exit codes after which the same trial can go on
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
        agent, slash, value = part.removeprefix("-").rpartition("/")
        if value in ("robust", "clean") and not slash:
            continue
        if slash and agent in config.method.roles() and value:
            continue
        if not slash and _robust_share(value) is not None:
            continue
        raise UsageError(
            f"objective {part!r} is never reported; there are robust, clean, w-robust, w-robust:0.7 (the products' mean on held-out "
            "images; the share is that of robust) and AGENT/robust, AGENT/clean or AGENT/TERM of any loss term, with "
            f"{', '.join(config.method.roles())}; a minus before one makes it small: -{next(iter(config.method.roles()))}/total"
        )


def _robust_share(part: str) -> float | None:
    """Of ``w-robust:SHARE``; None for anything else."""
    name, colon, share = part.partition(":")
    try:
        value = float(share) if colon else 0.5
    except ValueError:
        return None
    return value if name == "w-robust" and 0 <= value <= 1 else None


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
        agent, _, name = part.removeprefix("-").rpartition("/")
        share, sign = _robust_share(name), -1 if part.startswith("-") else 1
        if agent and name in accuracies.get(agent, {}):
            found[part] = sign * accuracies[agent][name]
        elif agent and name in terms.get(agent, {}):
            found[part] = sign * terms[agent][name]
        elif share is not None and not agent:
            found[part] = sign * fmean((1 - share) * p["clean"] + share * p["robust"] for p in products)
        elif not agent:
            found[part] = sign * fmean(p[name] for p in products)
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
        _as_soon_as_free(path, launch.Inside(reported, group, plan.config))
        write(path / "result.json", to_json({"status": "finished"}))
    except (Exists, OSError, ray.exceptions.RayError):
        raise  # not the trial's own fault: it can go on
    except Exception as error:
        code = error.code if isinstance(error, SparringError) else 2 if isinstance(error, ValueError) else 1
        if code in LATER:
            raise
        cause = str(error) if code > 1 else f"{type(error).__name__}: {error}"
        write(path / "result.json", to_json({"status": "failed", "cause": cause, "code": code}))


def _as_soon_as_free(path: Path, inside: launch.Inside) -> None:
    """Go on with a run. A process that died on another host seems to hold its folder for some time."""
    deadline = time.monotonic() + 2 * STALE
    while True:
        try:
            launch.resume(path, quiet=True, inside=inside)
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
