"""A trained network for elsewhere: plain safetensors, or an entry for RobustBench's model zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import save_model, sha256, to_json, write
from sparring.agents.networks import Network
from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.models.target import Target
from sparring.cluster.models.trained import weights_file
from sparring.cluster.terminal import relative
from sparring.trainers.config import Threat

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def export(
    target: Target, name: str, *, to: str, evaluation: str | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Write a new folder with the weights and what belongs to them.

    Args:
        target, name: what a NET means, and which of its networks.
        to: ``safetensors``: weights and how to build the network; ``robustbench``: these and the zoo's JSON and code.
        evaluation: for robustbench, the evaluation with AutoAttack; the newest that has it when None.
        out: the folder; default ``export/RUN-AGENT``, or ``export/NAME`` of a network that is no run's.

    Raises:
        UsageError: an ensemble, or no evaluation with AutoAttack.
        Exists: the folder is there.
    """
    subject = target.subjects[name]
    model = subject.model
    if not isinstance(model, Network):
        raise UsageError(f"{name} of {target.path} is several networks as one; export them one by one")
    owner = target.path.name if target.run else name
    place = out or Path("export") / (f"{owner}-{name}" if target.run else name)
    entry = _entry(target, name, model.config.spec, evaluation) if to == "robustbench" else None
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        raise Exists(f"{place} exists and is never overwritten; choose another --out") from None
    saved = save_model(model, place)
    if subject.folder is not None and subject.folder.suffix != ".safetensors":  # the very file, as it was evaluated
        write(place / "model.safetensors", weights_file(subject.folder).read_bytes())
    files = {"network.json": to_json(model.config.to_json())}
    if entry is not None:
        files |= {f"{entry['name']}.json": to_json(entry), "zoo.py": _snippet(entry, model.config.spec).encode()}
    for file, value in files.items():
        write(place / file, value)
    return {
        "folder": str(place),
        "agent": name,
        "step": subject.record["step"],
        "sha256": sha256(place / "model.safetensors"),
        "files": sorted({*files, *saved}),
    }


def _entry(target: Target, agent: str, network: str, evaluation: str | None) -> dict[str, Any]:
    """Every field that the zoo asks for, from what was trained and its evaluation."""
    data, (name, report) = target.data, _with_autoattack(target, agent, evaluation)
    result = report["agents"][agent]
    threat = next(t for t, e in result["threats"].items() if "autoattack" in e["attacks"])
    entry = result["threats"][threat]
    others = {k: v for k, v in entry["attacks"].items() if k not in ("clean", "autoattack")}
    reported = min(others.values(), default=entry["attacks"]["autoattack"])
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
        "autoattack_acc": f"{100 * entry['attacks']['autoattack']:.2f}",
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


def _snippet(entry: dict[str, Any], network: str) -> str:
    return f'''"""For robustbench/model_zoo: the network and its entry. Images in [0, 1]; normalisation is inside."""

from pathlib import Path

from sparring.agents.checkpoint import load_model


def load(folder=Path(__file__).parent):
    """{network} with the published weights, in eval mode."""
    return load_model(folder)


{entry["dataset"]} = {{"{entry["name"]}": {{"model": load, "threat_model": "{entry["norm"]}", "eps": {entry["eps"]}}}}}
'''


def show(result: dict[str, Any]) -> None:
    """Where it is."""
    print(f"{result['folder']}: {', '.join(result['files'])} ({result['agent']}, step {result['step']})")
