"""What a search makes large: parsed, checked, and computed from a run's records."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import UsageError
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers.methods.base import Method


def check(objective: str, config: RunConfig) -> None:
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
