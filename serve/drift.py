"""What a service does now, by model and version: its part, what it was seen to answer, and whether members disagree more than they should.

An ensemble's evaluation measures how often its members disagree on clean test images, and how well disagreement tells attacked images from
clean ones (AUROC): where one member is attacked, where all are, and where the attacker knows of it. An alarm comes with all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

ENOUGH = 50  # images below which a mean says nothing, of those that were served and of those that it was measured on
SIGMAS = 4.0  # standard errors of the difference from which on there is an alarm
ATTACKERS = ("one", "all", "adaptive")


def composed(models: Mapping[str, Mapping[str, Any]], told: Mapping[str, Any]) -> dict[str, Any]:
    """``Ledger.status`` with every served version in place of what was seen.

    Args:
        models: see ``Backend.models``.
    """
    seen = {(s["model"], s["version"]): s for s in told["seen"]}
    shadows: dict[tuple[str, int], dict[str, int]] = {}
    for s in told["shadows"]:
        shadows.setdefault((s["model"], s["version"]), {})[s["came"]] = s["images"]
    rows = []
    for name, model in sorted(models.items()):
        for version, card in sorted(model["versions"].items()):
            own = seen.get((name, version), {"images": 0})
            row = {"model": name, "version": version, "part": _part(model, version), "networks": card["networks"]}
            row |= {key: own.get(key) for key in ("images", "confidence", "disagreement", "large", "classes")}
            row["class_names"] = card["classes"]
            row["shadow"] = shadows.get((name, version))
            rows.append(row | {"alarm": alarm(card, own)})
    now = {k: v for k, v in told.items() if k not in ("seen", "shadows")}
    return {**now, "open": max(0, told["open"] - 1), "versions": rows}  # without the request that asks


def _part(model: Mapping[str, Any], version: int) -> str:
    now = model.get("rollout") or {}
    if version == model["default"]:
        return "answers"
    if version == now.get("canary"):
        return f"canary, {now['share']:.0%}"
    return "shadow" if version == now.get("shadow") else "by number"


def alarm(card: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether members disagreed more than on clean test images, and how well that tells attacks; None where it was never measured."""
    measured = [e["detector"] for e in card["evaluations"] if _is_measured(e.get("detector"))]
    if not measured or seen.get("disagreement") is None:
        return None
    known = max(measured, key=lambda d: d["n"])
    error = sqrt(max(known["clean_variance"], 1e-9) * (1 / max(1, seen["images"]) + 1 / known["n"]))
    above = (seen["disagreement"] - known["clean_mean"]) / error
    raised = seen["images"] >= ENOUGH and above > SIGMAS
    auroc = {name: known["auroc"][name] for name in ATTACKERS}
    return {"raised": raised, "clean_mean": known["clean_mean"], "auroc": auroc, "n": known["n"]}


def _is_measured(detector: Any) -> bool:
    """Whether a card holds the figures, on images enough: anybody may have written it."""
    if not isinstance(detector, dict) or not isinstance(detector.get("auroc"), dict):
        return False
    figures = [detector["auroc"].get(name) for name in ATTACKERS]
    numbers = [detector.get(key) for key in ("n", "clean_mean", "clean_variance")]
    whole = all(_is_number(v) for v in numbers) and all(v is None or _is_number(v) for v in figures)
    return whole and detector["n"] >= ENOUGH and any(v is not None for v in figures)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0
