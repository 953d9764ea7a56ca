"""What a repository of the Hub says of a published model: README.md, its page, and config.json, from the card alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparring.agents import model_folder, networks
from sparring.agents.checkpoint import network_config, to_json
from sparring.agents.networks import NetworkConfig
from sparring.trainers import keeping, user
from sparring.trainers.trusting import HUB

TIMM = "timm.safetensors"  # the weights under timm's own names: ours stand behind the normalisation
LIMITS = """\
- Accuracies are those of the test images named above, under these attacks; another attack can only find them lower.
- Robustness to other perturbations than the threats named here was not measured, and none of it is proven.
- Images go in as pixels in [0, 1]: normalisation is part of the network."""


def config(version: Path) -> tuple[bytes, dict[str, bytes]]:
    """config.json, and further files: of a network of timm's, its weights under timm's own names."""
    card, members = model_folder.card(version), model_folder.manifest(version)["members"]
    config = network_config(version if members == 1 else version / "members" / "0")
    names = [str(name) for name in card["classes"]]
    told: dict[str, Any] = {
        "architecture": card["networks"][0] if members == 1 else card["networks"],
        "library_name": "sparring",
        "num_classes": len(names),
        "label_names": names,
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "input": card["input"],
        "mean": list(config.mean),
        "std": list(config.std),
    }
    known = networks.timm_arguments(config) if members == 1 else None
    if known is None:
        return to_json(told), {}
    architecture, arguments = known
    told |= {
        "architecture": architecture,
        "num_features": None,
        "model_args": {**arguments, "in_chans": config.channels},
    }
    told["pretrained_cfg"] = _timms(config, names)
    return to_json(told), {TIMM: _inner(version)}


def _timms(config: NetworkConfig, names: Sequence[str]) -> dict[str, Any]:
    """How timm finds the weights, and what its own transforms do: no cropping, the network's statistics."""
    return {
        "hf_hub_filename": TIMM,
        "input_size": [config.channels, config.height, config.width],
        "mean": list(config.mean),
        "std": list(config.std),
        "crop_pct": 1.0,
        "num_classes": len(names),
        "label_names": list(names),
    }


def _inner(version: Path) -> bytes:
    from safetensors.torch import load, save

    tensors = load((version / "model.safetensors").read_bytes())
    inner: bytes = save({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    return inner


def readme(version: Path, repository: str, license: str | None, *, timm: bool) -> bytes:
    """README.md: the Hub's metadata, then the page.

    Args:
        license: of the weights; None: not stated.
        timm: whether timm can load it.
    """
    card = model_folder.card(version)
    license = license or card.get("license")
    metadata = yaml.safe_dump(_metadata(card, repository, license), sort_keys=False, allow_unicode=True)
    lines = [*_about(card, repository, license), "", "## Robustness", "", *_measured(card)]
    lines += ["", "## Use", "", *_use(version, card, repository, timm=timm), "", "## Limits", "", LIMITS, ""]
    return f"---\n{metadata}---\n\n{chr(10).join(lines)}".encode()


def _metadata(card: Mapping[str, Any], repository: str, license: str | None) -> dict[str, Any]:
    method = _method(card)
    threats = [re.sub("[^a-z0-9.]+", "-", str(threat)) for threat in card["threats"]]
    data = str(card["data"]["name"])
    plain = [data] if re.fullmatch(r"[\w.-]+", data) and data != "folder" else []
    results = [
        {
            "task": {"type": "image-classification", "name": "Image Classification"},
            "dataset": {"type": _shown(data), "name": _shown(data), "split": "test"},
            "metrics": list(_metrics(evaluation)),
        }
        for evaluation in card["evaluations"]
    ]
    return {
        "license": license or "other",
        "library_name": "sparring",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "sparring", *([_shown(method)] if method else []), *threats],
        **({"datasets": plain} if plain else {}),
        "metrics": ["accuracy"],
        **({"model-index": [{"name": repository.partition("/")[2], "results": results}]} if results else {}),
    }


def _metrics(evaluation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "accuracy", "name": f"clean accuracy, n = {evaluation['n']}", "value": evaluation["clean_accuracy"]}
    for threat, found in evaluation["threats"].items():
        attacks = ", ".join(name for name in found["attacks"] if name != "clean")
        name = f"robust accuracy under {threat}, worst of {attacks}, n = {evaluation['n']}"
        yield {"type": "accuracy", "name": name, "value": found["robust_accuracy"]}


def _about(card: Mapping[str, Any], repository: str, license: str | None) -> Iterator[str]:
    size, method, training = card["input"], _method(card), card["training"]
    shape = f"{size['channels']}x{size['height']}x{size['width']}"
    yield f"# {repository.partition('/')[2]}"
    yield ""
    yield (
        f"A classifier of images ({shape}, {len(card['classes'])} classes, data set {_shown(card['data']['name'])}): "
        f"{', '.join(map(_shown, card['networks']))}, {card['parameters']:,} parameters"
        + (f", trained by `{_shown(method)}` against {', '.join(card['threats'])}" if method else "")
        + ". Published with Sparring."
    )
    yield ""
    if license is None:
        yield "The license of the weights was not stated; ask who published them before you use them."
    else:
        yield f"License of the weights, as their publisher states it: {license}."
    yield f"License of the images: {card['data'].get('license') or 'not known here'}."
    if training.get("run"):
        commit, seed = str(training.get("commit", ""))[:12], training["seed"]
        yield ""
        yield f"Step {training['step']} of a run with seed {seed}, configuration {training['configuration'][:12]}, code {commit}."
    if HUB in card:
        yield ""
        yield f"Brought from hf:{card[HUB]['repository']}@{card[HUB]['commit']}."
    if card.get("teachers"):
        yield from ("", "| teacher | network | sha256 of its weights | right on held-out images |", "|---|---|---|---|")
    for role, teacher in card.get("teachers", {}).items():
        right = f"{_percent(teacher['held_out_accuracy'])} of {teacher['n']}"
        yield f"| {role} | {_shown(teacher['network'])} | `{teacher['sha256']}` | {right} |"


def _measured(card: Mapping[str, Any]) -> Iterator[str]:
    """A table of every evaluation, how it was made, and what limits it."""
    if not card["evaluations"]:
        yield "Not measured."
        return
    yield "| threat | attack | accuracy | 95 % interval | n |"
    yield "|---|---|---|---|---|"
    for evaluation in card["evaluations"]:
        n = evaluation["n"]
        clean = _percent(evaluation["clean_accuracy"]), _interval(evaluation["clean_ci95"])
        yield f"| none | clean | {clean[0]} | {clean[1]} | {n} |"
        for threat, found in evaluation["threats"].items():
            for attack in (name for name in found["attacks"] if name != "clean"):
                yield f"| {threat} | {attack} | {_percent(found['attacks'][attack])} | | {n} |"
            yield f"| {threat} | **worst of these** | **{_percent(found['robust_accuracy'])}** | {_interval(found['ci95'])} | {n} |"
    yield ""
    data = card["data"]
    yield (
        f"Test images of {_shown(data['name'])} (sha256 `{data['sha256']}`). An image counts as right under a threat if the network "
        "is right on it and after every attack; intervals are Wilson's."
    )
    for evaluation in card["evaluations"]:
        for flag in evaluation["flags"]:
            yield f"\nSign of masked gradients: {flag}. The numbers may be too high."
        for note in evaluation["notes"]:
            yield f"\nNote: {note}"


def _use(version: Path, card: Mapping[str, Any], repository: str, *, timm: bool) -> Iterator[str]:
    codes = keeping.know_all(version)
    yield "```python"
    yield "import sparring"
    yield ""
    for code in codes:
        yield f'sparring.trust_code("{code.sha256}")  # {code.main}'
    yield f'model = sparring.load("hf:{repository}")  # images [B, C, H, W] in [0, 1] -> logits [B, {len(card["classes"])}]'
    yield "```"
    yield ""
    yield f"`hf:{repository}@COMMIT` is the same bytes for ever. Every file is checked against the sha256 in MANIFEST.json."
    if codes:
        yield ""
        yield "It brings Python code of its own, in `code/`, which runs only where it is trusted by its sha256. Read it first."
    if timm:
        yield ""
        yield f'With timm, on normalised images: `timm.create_model("hf-hub:{repository}", pretrained=True)`.'


def _method(card: Mapping[str, Any]) -> str:
    return str((card["training"].get("method") or {}).get("name", ""))


def _shown(spec: str) -> str:
    return user.shown(spec)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f} %"
