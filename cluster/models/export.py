"""A trained network for elsewhere: plain safetensors, or an entry for RobustBench's model zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import network_config, sha256, to_json, write
from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.models.trained import agent_folder, chosen_agents, weights_file
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers.config import Threat

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def export(
    folder: RunFolder, *, to: str, agent: str | None = None, evaluation: str | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Write a new folder with the weights and what belongs to them.

    Args:
        to: ``safetensors``: weights and how to build the network; ``robustbench``: these and the zoo's JSON and code.
        evaluation: for robustbench, the evaluation with AutoAttack; the newest that has it when None.
        out: the folder; default ``export/RUN-AGENT``.

    Raises:
        UsageError: no such agent, or no evaluation with AutoAttack.
        Exists: the folder is there.
    """
    path, step = agent_folder(folder, agent)
    name = agent or chosen_agents(folder)[0]
    target = out or Path("export") / f"{folder.path.name}-{name}"
    network = network_config(path)
    entry = _entry(folder, name, network.spec, evaluation) if to == "robustbench" else None
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise Exists(f"{target} exists and is never overwritten; choose another --out") from None
    content = weights_file(path).read_bytes()
    files = {"model.safetensors": content, "network.json": to_json(network.to_json())}
    if entry is not None:
        files |= {f"{entry['name']}.json": to_json(entry), "zoo.py": _snippet(entry, network.spec).encode()}
    for file, value in files.items():
        write(target / file, value)
    return {
        "folder": str(target),
        "agent": name,
        "step": step,
        "sha256": sha256(target / "model.safetensors"),
        "files": sorted(files),
    }


def _entry(folder: RunFolder, agent: str, network: str, evaluation: str | None) -> dict[str, Any]:
    """Every field that the zoo asks for, from the run and its evaluation."""
    config, (name, report) = folder.config, _with_autoattack(folder, agent, evaluation)
    result = report["agents"][agent]
    threat = next(t for t, e in result["threats"].items() if "autoattack" in e["attacks"])
    entry = result["threats"][threat]
    others = {k: v for k, v in entry["attacks"].items() if k not in ("clean", "autoattack")}
    reported = min(others.values(), default=entry["attacks"]["autoattack"])
    notes = "; ".join([*result["notes"], *(f["name"] for f in result["flags"])])
    return {
        "link": "https://",
        "name": f"{folder.path.name}_{agent}".replace("-", "_"),
        "authors": "",
        "additional_data": config.data.extra is not None,
        "number_forward_passes": 1,
        "dataset": config.data.name,
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


def _with_autoattack(folder: RunFolder, agent: str, evaluation: str | None) -> tuple[str, dict[str, Any]]:
    base = folder.path / "evaluation"
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
        f"{folder} has no evaluation of {agent} with AutoAttack, which RobustBench asks for; run: "
        f"sparring evaluate {folder} --agent {agent} --attacks clean,pgd-20,autoattack"
    )


def _snippet(entry: dict[str, Any], network: str) -> str:
    return f'''"""For robustbench/model_zoo: the network and its entry. Images in [0, 1]; normalisation is inside."""

from pathlib import Path

from safetensors.torch import load_file

from sparring.agents.networks import NetworkConfig, build


def load(folder=Path(__file__).parent):
    """{network} with the published weights, in eval mode."""
    import json

    config = NetworkConfig.from_json(json.loads((folder / "network.json").read_text()))
    model = build(config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


{entry["dataset"]} = {{"{entry["name"]}": {{"model": load, "threat_model": "{entry["norm"]}", "eps": {entry["eps"]}}}}}
'''


def show(result: dict[str, Any]) -> None:
    """Where it is."""
    print(f"{result['folder']}: {', '.join(result['files'])} ({result['agent']}, step {result['step']})")
