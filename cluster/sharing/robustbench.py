"""An entry for RobustBench's model zoo: every field that it asks for, and the code that loads the network."""

from __future__ import annotations

import json
from typing import Any

from sparring.cluster.errors import UsageError
from sparring.cluster.models.target import Target
from sparring.cluster.terminal import relative
from sparring.trainers.config import Threat

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def entry(target: Target, agent: str, network: str, evaluation: str | None) -> dict[str, Any]:
    """Every field that the zoo asks for, from what was trained and its evaluation.

    Args:
        agent, network: which network, and its architecture.
        evaluation: with AutoAttack; the newest that has it when None.

    Raises:
        UsageError: there is none.
    """
    data, (name, report) = target.data, _with_autoattack(target, agent, evaluation)
    result = report["agents"][agent]
    threat = next(t for t, e in result["threats"].items() if "autoattack" in e["attacks"])
    found = result["threats"][threat]
    others = {k: v for k, v in found["attacks"].items() if k not in ("clean", "autoattack")}
    reported = min(others.values(), default=found["attacks"]["autoattack"])
    notes = "; ".join([*result["notes"], *(f["name"] for f in result["flags"])])
    return {
        "link": "https://",
        "name": (f"{target.path.name}_{agent}" if target.run else agent).replace("-", "_"),
        "authors": "",
        "additional_data": data.extra is not None,
        "number_forward_passes": 1,
        "dataset": data.name,
        "venue": "Unpublished",
        "architecture": network,
        "eps": f"{Threat.parse(threat).eps:g}",
        "norm": NAMES[Threat.parse(threat).norm],
        "clean_acc": f"{100 * result['clean_accuracy']:.2f}",
        "reported": f"{100 * reported:.2f}",
        "autoattack_acc": f"{100 * found['attacks']['autoattack']:.2f}",
        "n": result["n"],
        "unreliable": bool(result["flags"]),
        "footnote": f"evaluation {name}, seed {report['seed']}" + (f"; {notes}" if notes else ""),
    }


def _with_autoattack(target: Target, agent: str, evaluation: str | None) -> tuple[str, dict[str, Any]]:
    base, shown = target.path / "evaluation", relative(target.path)
    paths = (
        [base / evaluation / "report.json"]
        if evaluation
        else sorted(base.glob("*/report.json"), key=lambda p: p.stat().st_mtime)[::-1]
    )
    for path in paths:
        report = json.loads(path.read_bytes()) if path.is_file() else {"agents": {}}
        threats = report["agents"].get(agent, {}).get("threats", {})
        if any("autoattack" in e["attacks"] for e in threats.values()):
            return path.parent.name, report
    raise UsageError(
        f"{shown} has no evaluation of {agent} with AutoAttack, which RobustBench asks for; run: "
        f"sparring evaluate {f'{shown}@{agent}' if target.run else 'NET'} --attacks clean,pgd-20,autoattack"
    )


def snippet(entry: dict[str, Any], network: str) -> str:
    """Code for its model zoo."""
    return f'''"""For robustbench/model_zoo: the network and its entry. Images in [0, 1]; normalisation is inside."""

from pathlib import Path

from sparring.agents.checkpoint import load_model


def load(folder=Path(__file__).parent):
    """{network} with the published weights, in eval mode."""
    return load_model(folder)


{entry["dataset"]} = {{"{entry["name"]}": {{"model": load, "threat_model": "{entry["norm"]}", "eps": {entry["eps"]}}}}}
'''
