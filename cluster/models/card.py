"""A model's card: what a published network is, what it learnt from, and how robust it was found to be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from sparring.agents import model_folder
from sparring.agents.checkpoint import to_json, write
from sparring.agents.ensemble import members_of
from sparring.cluster.errors import DataError, UsageError
from sparring.cluster.models import cascades
from sparring.cluster.models.target import Target
from sparring.cluster.models.trained import ENSEMBLE, Subject
from sparring.cluster.runs import places
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.terminal import relative
from sparring.trainers import datasets, decoder, keeping
from sparring.trainers.code import Code

FORMAT = 1
WIDTH = 0.5  # of the margin from which on the small network of a cascade answers


Named: TypeAlias = tuple[str, Subject, Target]  # what a NET means (``resolve.single``)


def publish(
    agent: str,
    subject: Subject,
    target: Target,
    *,
    name: str,
    models_dir: Path,
    large: Named | None = None,
    width: float | None = None,
    license: str | None = None,
) -> Path:
    """Copy a network into a new version of ``models_dir/NAME`` with its card; the version's folder.

    Args:
        agent, subject, target: what a NET means.
        large: a second network, which answers where the margin of the first is below ``width`` (default ``WIDTH``): a cascade.
        license: of the weights, for the card; None: not stated.

    Raises:
        UsageError: a bad name, a folder that is a URI, a width outside [0, 1], a second network for other images or classes.
        DataError: the data set that a network from elsewhere is for cannot be read.
    """
    try:
        model_folder.check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    uri = places.uri_of(models_dir)
    if uri is not None:
        raise UsageError(
            f"--models-dir {uri}: a model is published on a local disk; publish it with --models-dir models, and copy the new version "
            f"to {places.child(uri, name)}/VERSION (docs/operations.md, Remote storage)"
        )
    members, card = _described(agent, subject, target, name)
    if large is None:
        card["license"] = license or card.get("license")
        if width is not None:
            raise UsageError(f"--width {width:g} is of a cascade, and needs --large NET")
        return model_folder.create(models_dir / name, members, card)
    seconds, second = _described(*large, name)
    width = WIDTH if width is None else width
    if not model_folder.is_width(width):
        raise UsageError(
            f"--width {width}: expected a number from 0 to 1, the margin from which on the first network answers"
        )
    cascades.check_pair((members, card), (seconds, second))
    both = cascades.card(card, second, width)
    both["license"] = license or both["license"]
    return model_folder.create(models_dir / name, [*members, *seconds], both, width=width)


def _described(agent: str, subject: Subject, target: Target, name: str) -> tuple[list[Any], dict[str, Any]]:
    """The networks that a NET is made of, and the card."""
    members, width = members_of(subject.model)
    if width is not None:
        raise UsageError(f"{target.path} is a cascade already; publish it again from its two networks")
    return members, _card(target, agent, name, members, subject.record)


def _card(target: Target, agent: str, name: str, members: list[Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    first = members[0].config
    known = {
        "format": FORMAT,
        "name": name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "networks": [m.config.spec for m in members],
        "decision": model_folder.decision(len(members), None),
        "parameters": sum(p.numel() for m in members for p in m.parameters()),
        "input": {"channels": first.channels, "height": first.height, "width": first.width, "range": [0, 1]},
        "weights": facts.get("weights"),
        "evaluations": [
            {**e, "from_run": True} for e in evaluations(target.path, facts.get("weights"), facts.get("members"))
        ],
    }
    if (target.path / "card.json").is_file():  # of a published model, under another name
        return {**model_folder.card(target.path), **known}
    data, started = target.data, target.images or {}
    try:
        dataset = datasets.load(data)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    return known | {
        "preparation": {
            "decoder": decoder.VERSION,
            "size": data.size,
            "background": decoder.BACKGROUND,
            **({} if data.middle == 1 else {"middle": data.middle}),
        },
        "classes": list(dataset.classes),
        "data": {
            "name": data.name,
            "root": data.root,
            "size": data.size,
            **({"encoded": True} if data.encoded else {}),
            "sha256": started.get("test", dataset.test.sha256),
            "cache": started.get("cache", ""),
            "license": datasets.LICENSES.get(data.name),
        },
        "threats": [str(t) for t in target.threats],
        **(_trained(target.run, agent, facts) if target.run else _brought(target, agent)),
    }


def _trained(folder: RunFolder, agent: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the run says of its network."""
    config, environment = folder.config, folder.environment
    manifest = folder.checkpoints.manifest(facts["step"])
    return {
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
        "held_out": {a: v for a, v in manifest["validation"].items() if agent in (a, ENSEMBLE)},
        "teachers": environment.get("teachers", {}),
    }


def _brought(target: Target, agent: str) -> dict[str, Any]:
    """Of a network from elsewhere nothing is known but what it was made of."""
    facts = dict(target.facts or {})
    made_of = {k: facts.get(k) for k in ("spec", "network", "mapping")}
    return {
        "training": {"run": None, "agent": agent, "step": 0, "seed": target.seed, "elsewhere": made_of},
        "held_out": {},
        "teachers": {},
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
                    **{k: result[k] for k in ("cascade", "detector") if k in result},
                }
            )
    return found


def update(version: Path) -> None:
    """Write a model's card anew with the evaluations in its folder, and those that it brought from its run."""
    card = model_folder.card(version)
    brought = [e for e in card["evaluations"] if e.get("from_run")]
    card["evaluations"] = brought + evaluations(version, model_folder.weights_sha256(version))
    write(version / "card.json", to_json(card))


def kept_code(named: Iterable[str], models_dir: str | None) -> list[Code]:
    """Files of users' that published models bring.

    Args:
        named: folders of models, or of versions.
        models_dir: a folder of models, all of whose versions are looked at too.

    Raises:
        UsageError: a kept copy is altered.
    """
    manifests = [m for path in named for m in (*Path(path).glob("MANIFEST.json"), *Path(path).glob("*/MANIFEST.json"))]
    manifests += Path(models_dir).glob("*/*/MANIFEST.json") if models_dir is not None else []
    try:
        return [code for manifest in sorted(set(manifests)) for code in keeping.know_all(manifest.parent)]
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
