"""A model's card: what a published network is, what it learnt from, and how robust it was found to be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparring.agents import model_folder
from sparring.agents.checkpoint import to_json, write
from sparring.cluster.errors import UsageError
from sparring.cluster.models.trained import ENSEMBLE, chosen_agents, subject
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.terminal import relative
from sparring.trainers import datasets, decoder, keeping

FORMAT = 1


def publish(run: Path, *, agent: str | None, name: str, models_dir: Path, checkpoint: str = "best") -> Path:
    """Copy a run's network into a new version of ``models_dir/NAME`` with its card; the version's folder.

    Args:
        agent: the role; needed where the method has several products. ``ensemble``: all products as one network.

    Raises:
        UsageError: a bad name, no such agent, several products and none named.
        BrokenCheckpoint: the checkpoint is damaged.
    """
    try:
        model_folder.check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    folder = RunFolder.open(run)
    chosen = chosen_agents(folder, [agent] if agent else [])
    if len(chosen) > 1:
        raise UsageError(
            f"run {folder.path.name} has {len(chosen)} products; name one with --agent: {', '.join(chosen)}, or {ENSEMBLE}"
        )
    found = subject(folder, chosen[0], checkpoint=checkpoint)
    model, facts = found.model, found.record
    members: list[Any] = list(model.members) if chosen[0] == ENSEMBLE else [model]  # type: ignore[arg-type]
    return model_folder.create(models_dir / name, members, _card(folder, chosen[0], name, members, facts))


def _card(folder: RunFolder, agent: str, name: str, members: list[Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    config, environment = folder.config, folder.environment
    dataset, started = datasets.load(config.data), folder.images or {}
    first = members[0].config
    manifest = folder.checkpoints.manifest(facts["step"])
    return {
        "format": FORMAT,
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "networks": [m.config.spec for m in members],
        "parameters": sum(p.numel() for m in members for p in m.parameters()),
        "input": {"channels": first.channels, "height": first.height, "width": first.width, "range": [0, 1]},
        "preparation": {"decoder": decoder.VERSION, "size": config.data.size, "background": decoder.BACKGROUND},
        "classes": list(dataset.classes),
        "data": {
            "name": config.data.name,
            "root": config.data.root,
            "size": config.data.size,
            "sha256": started.get("test", dataset.test.sha256),
            "cache": started.get("cache", ""),
        },
        "threats": [str(t) for t in config.threats],
        "training": {
            "run": folder.path.name,
            "recipe": config.recipe,
            "method": config.to_dict()["method"],
            "configuration": config.sha256,
            "agent": agent,
            "step": facts["step"],
            "seed": config.seed,
            "commit": environment["commit"],
            "versions": environment["versions"],
        },
        "weights": facts.get("weights"),
        "held_out": {a: v for a, v in manifest["validation"].items() if agent in (a, ENSEMBLE)},
        "teachers": environment.get("teachers", {}),
        "evaluations": [
            {**e, "from_run": True} for e in evaluations(folder.path, facts.get("weights"), facts.get("members"))
        ],
    }


def evaluations(
    owner: Path, weights: str | None, members: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Every finished evaluation in ``owner/evaluation`` of weights with this sha256, or of an ensemble of these members."""
    found = []
    for path in sorted(owner.glob("evaluation/*/report.json")):
        report, settings = json.loads(path.read_text()), json.loads((path.parent / "settings.json").read_text())
        for agent, facts in settings["agents"].items():
            if facts.get("weights") != weights or facts.get("members") != (dict(members) if members else None):
                continue
            result = report["agents"][agent]
            kept = ("n", "clean_accuracy", "clean_ci95", "robust_accuracy", "ci95", "w_robust", "threats", "notes")
            found.append(
                {
                    "evaluation": str(path.parent.relative_to(owner)),
                    "attacks": settings["attacks"],
                    **{k: result[k] for k in kept},
                    "flags": [f["name"] for f in result["flags"]],
                }
            )
    return found


def update(version: Path) -> None:
    """Write a model's card anew with the evaluations in its folder, and those that it brought from its run."""
    card = model_folder.card(version)
    brought = [e for e in card["evaluations"] if e.get("from_run")]
    card["evaluations"] = brought + evaluations(version, model_folder.weights_sha256(version))
    write(version / "card.json", to_json(card))


def changed_code(named: Iterable[str], models_dir: str | None) -> list[str]:
    """One sentence per file of a user's that has changed since a published model keeps it.

    Args:
        named: folders of versions.
        models_dir: a folder of models, all of whose versions are looked at too.

    Raises:
        UsageError: a kept copy is altered.
    """
    versions = [Path(path) for path in named]
    if models_dir is not None:
        versions += sorted(manifest.parent for manifest in Path(models_dir).glob("*/*/MANIFEST.json"))
    try:
        return keeping.changed(code for version in versions for code in keeping.know_all(version))
    except ValueError as error:
        raise UsageError(str(error)) from error


def show(result: dict[str, Any]) -> None:
    """Where the model is, what its card says, what to do with it."""
    card = result["card"]
    print(
        f"{relative(Path(result['model']))}: {', '.join(card['networks'])}, {card['parameters']:,} parameters, sha256"
    )
    for name, sha in card["sha256"].items():
        print(f"  {sha}  {name}")
    best = max(card["evaluations"], key=lambda e: e["n"], default=None)
    if best is None or best["robust_accuracy"] is None:
        print(
            f"robustness not measured; next: sparring evaluate {relative(Path(result['model']))} --attacks clean,autoattack"
        )
    else:
        print(
            f"clean {100 * best['clean_accuracy']:.1f} %, robust {100 * best['robust_accuracy']:.1f} % "
            f"({', '.join(best['threats'])}; {', '.join(best['attacks'])}; n = {best['n']})"
        )
