"""What a process of a frontier does: measure what a step costs, or train a run and attack what it made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.frontier import cost
from sparring.cluster.models.examples import Examples
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

EVALUATION, RESULT = "frontier", "result.json"


def measure(folder: Path, config: RunConfig, *, group: Any) -> None:
    """What a step costs, kept in ``folder``."""
    cost.known(config, folder, group=group)


def train(folder: Path, config: RunConfig, *, group: Any, attacks: list[str], examples: str | None) -> None:
    """A run in ``folder``, its products attacked at their best checkpoints; both go on where they were interrupted."""
    if (folder / RESULT).exists():
        return
    how = Circumstances(quiet=True, group=group)
    run = launch.train(config, runs_dir=folder.parent, name=folder.name, resume_if_exists=True, how=how)
    chosen = None if examples is None else Examples.parse(examples)
    report = evaluate_run(RunFolder(run.path), attacks=attacks, examples=chosen, name=EVALUATION, masking=0)
    products = {
        name: {"clean": r["clean_accuracy"], "robust": r["robust_accuracy"], "n": r["n"], "step": r["checkpoint"]}
        for name, r in report["agents"].items()
    }
    alarms = [f"{a['name']} of {a['agent']} at step {a['t']}" for a in RunFolder(run.path).lines("alarms.jsonl")]
    write(folder / RESULT, to_json({"products": products, "alarms": alarms}))


def result(folder: Path) -> dict[str, Any] | None:
    """What :func:`train` has left, once it has ended."""
    file = folder / RESULT
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return found
