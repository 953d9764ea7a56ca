"""Per-example outcomes -> the numbers of an evaluation (worst case per example, intervals, means over agents) -> its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparring.agents.robustness import wilson
from sparring.cluster.evaluation import named_attacks
from sparring.cluster.evaluation.block import BROKEN
from sparring.cluster.terminal import percent, radius, relative, table, with_interval


@dataclass(frozen=True, slots=True)
class Result:
    """Robustness of one network. Accuracies in [0, 1]."""

    clean_accuracy: float
    clean_ci95: tuple[float, float]
    robust_accuracy: float | None  # right on the clean image and after every attack under every threat
    ci95: tuple[float, float] | None  # of robust_accuracy (Wilson); both None when there was no attack
    n: int
    threats: dict[str, dict[str, Any]]  # "linf:0.15" -> robust_accuracy, ci95, attacks {name: accuracy}
    w_robust: float | None = None  # mean of clean and robust accuracy
    notes: tuple[str, ...] = field(default=())  # what limits the numbers
    flags: tuple[dict[str, Any], ...] = field(default=())  # signs of masked gradients (cluster/evaluation/masking.py)
    per_class: tuple[dict[str, Any], ...] = field(default=())  # class, n, clean, robust; the least robust first

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def summarise(
    columns: Mapping[str, Mapping[str, Tensor]],
    *,
    attacks: Sequence[str],
    with_clean: bool,
    classes: int,
    notes: Sequence[str] = (),
) -> Result:
    """Numbers from the per-example columns of every threat.

    Args:
        columns: threat -> ``label``, ``clean_prediction`` and one ``broken:ATTACK`` per attack.
        notes: what limits all of them.
    """
    first = next(iter(columns.values()))
    clean = first["clean_prediction"] == first["label"]
    if not attacks:
        return Result(share(clean), interval(clean), None, None, len(clean), {}, notes=tuple(notes))
    everything, report = clean, {}
    for threat, column in columns.items():
        each = {"clean": share(clean)} if with_clean else {}
        hits = {name: clean & ~column[f"{BROKEN}{name}"] for name in attacks}
        worst = torch.stack([clean, *hits.values()]).all(0)
        each |= {name: share(h) for name, h in hits.items()}
        report[threat] = {"robust_accuracy": share(worst), "ci95": interval(worst), "attacks": each}
        everything = everything & worst
    fewer = tuple(
        f"{name} with {classes} classes runs with fewer targets or parts than published: not comparable"
        for name in attacks
        if not named_attacks.comparable(name, classes)
    )
    robust = share(everything)
    return Result(
        share(clean),
        interval(clean),
        robust,
        interval(everything),
        len(clean),
        report,
        (share(clean) + robust) / 2,
        (*notes, *fewer),
        per_class=by_class(first["label"], clean, everything),
    )


def by_class(labels: Tensor, clean: Tensor, robust: Tensor) -> tuple[dict[str, Any], ...]:
    """Accuracies of the examples of each class, the least robust first."""
    rows = []
    for k in sorted(set(labels.tolist())):
        own = labels == k
        rows.append({"class": k, "n": int(own.sum()), "clean": share(clean[own]), "robust": share(robust[own])})
    return tuple(sorted(rows, key=lambda r: (r["robust"], r["class"])))


def summary(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One agent's result, or the mean of several; an interval then is that of a proportion of n examples."""
    keys = ("clean_accuracy", "clean_ci95", "robust_accuracy", "ci95", "n", "threats", "w_robust", "flags")
    first = next(iter(results.values()))
    if len(results) == 1:
        return {k: first[k] for k in keys}
    n = first["n"]
    mean = {
        k: _mean([r[k] for r in results.values()]) for k in ("clean_accuracy", "robust_accuracy", "w_robust", "threats")
    }
    for entry in (mean, *mean["threats"].values()):
        entry["ci95"] = None if entry["robust_accuracy"] is None else wilson(entry["robust_accuracy"] * n, n)
    mean["flags"] = [{"agent": a, **f} for a, r in results.items() for f in r["flags"]]
    return {**mean, "clean_ci95": wilson(mean["clean_accuracy"] * n, n), "n": n, "mean_of": list(results)}


def _mean(values: Sequence[Any]) -> Any:
    """Mean of numbers, key by key in mappings; what is neither is left out."""
    if isinstance(values[0], Mapping):
        return {k: _mean([v[k] for v in values]) for k in values[0] if not isinstance(values[0][k], tuple | list)}
    return None if values[0] is None else sum(values) / len(values)


def share(hits: Tensor) -> float:
    """Share of examples, in [0, 1]."""
    return hits.double().mean().item()


def interval(hits: Tensor) -> tuple[float, float]:
    """Its 95 % interval."""
    return wilson(int(hits.sum()), len(hits))


def show(report: Mapping[str, Any]) -> None:
    """One row per agent and threat of an evaluation's report, what limits the numbers, and what was asked for besides."""
    agents, first = report["agents"], next(iter(report["agents"].values()))
    if first["threats"]:
        _show_threats(agents, first)
    else:
        rows = [[a, with_interval(r["clean_accuracy"], r["clean_ci95"])] for a, r in agents.items()]
        table(["agent", "clean [95 %]"], rows)
    for agent, result in agents.items():
        worst = [f"{r['class']} ({percent(r['robust'])} of {r['n']})" for r in result["per_class"][:3]]
        if len(result["per_class"]) > 3:
            print(f"least robust classes, {agent}: {', '.join(worst)}")
        if "cascade" in result:
            print(
                f"{agent}: the large network is asked about {percent(result['cascade']['asked'])} of the clean images"
            )
        if "detector" in result:
            _show_detector(agent, result["detector"])
        for note in result["notes"]:
            print(f"note, {agent}: {note}")
        for f in result["flags"]:
            print(
                f"MASKING? {agent}: {f['name']} ({f['test']}: {f['value']:.3g}, allowed {f['threshold']:.3g}); {f['meaning']}"
            )
    if "corruptions" in first:
        _show_corruptions(agents, first)
    if "cross" in report:
        cross = report["cross"]
        print(
            f"\naccuracy of the row's agent on {cross['attack']} examples ({cross['threat']}) crafted on the column's agent"
        )
        matrix = zip(cross["agents"], cross["accuracy"], strict=True)
        table(["agent", *(f"on {a}" for a in cross["agents"])], [[a, *map(percent, row)] for a, row in matrix])
    meaning = "; robust = right on the clean image and after every attack of the row" if first["threats"] else ""
    by = f", named by a list (sha256 {report['examples']['sha256'][:12]})" if "examples" in report else ""
    print(f"\n{first['n']} test images of {report['data']}{by}{meaning}")
    print(f"results: {relative(report['report'])}")


def _show_detector(agent: str, found: Mapping[str, Any]) -> None:
    """All three attackers, or none: the first alone would promise what the last undoes."""
    each = [
        "too few succeed" if (v := found["auroc"][name]) is None else f"{v:.2f}" for name in ("one", "all", "adaptive")
    ]
    print(
        f"{agent}: disagreement of its members {percent(found['clean_mean'])} on clean images; as a sign of attacks AUROC {each[0]} (one "
        f"member attacked), {each[1]} (all), {each[2]} (the attacker knows of it); n = {found['n']}"
    )


def _show_threats(agents: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    attacks = [a for a in next(iter(first["threats"].values()))["attacks"] if a != "clean"]
    rows = []
    for agent, result in agents.items():
        clean = percent(result["clean_accuracy"])
        for threat, entry in result["threats"].items():
            values = [percent(entry["attacks"][a]) for a in attacks]
            rows.append(
                [
                    agent,
                    radius(threat),
                    clean,
                    *values,
                    with_interval(entry["robust_accuracy"], entry["ci95"]),
                ]
            )
        if len(result["threats"]) > 1:
            union = with_interval(result["robust_accuracy"], result["ci95"])
            rows.append([agent, "union", clean, *[""] * len(attacks), union])
    table(["agent", "threat", "clean", *attacks, "robust [95 %]"], rows)


def _show_corruptions(agents: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    entries = first["corruptions"]
    counts = sorted({len(entry["by_severity"]) for entry in entries.values()})
    severities = ", ".join(map(str, counts))
    print(f"\naccuracy under corruptions, mean of {severities} severities, each on the same n images [95 %]")
    rows = []
    for name in entries:
        values = [result["corruptions"][name] for result in agents.values()]
        rows.append([name, str(entries[name]["n"]), *(with_interval(v["accuracy"], v["ci95"]) for v in values)])
    table(["corruption", "n", *agents], rows)
