"""A frontier's table: what every budget bought with every method, which rows no other beats, what to take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.agents.robustness import wilson
from sparring.cluster.frontier.settings import Point
from sparring.cluster.terminal import percent, relative, with_interval

Row = dict[str, Any]


def row(
    points: Sequence[Point], found: Sequence[Mapping[str, Any] | None], failed: Mapping[str, str], per_step: float
) -> Row:
    """A method at a budget, from its seeds' runs.

    ``clean`` and ``robust`` are means over seeds and products; intervals are 95 % (Wilson) of such a mean over the test images, and
    ``seeds`` are the single seeds' robust accuracies.
    """
    first = points[0]
    made: Row = {"method": first.label, "budget": first.budget, "steps": first.steps, "cost": first.steps * per_step}
    runs = [
        {
            "seed": p.seed,
            "run": f"runs/{p.name}",
            **_of_one(r),
            **({"failed": failed[p.name]} if p.name in failed else {}),
        }
        for p, r in zip(points, found, strict=True)
    ]
    ended = [r for r in runs if "robust" in r]
    made["runs"] = runs
    if len(ended) == len(runs):
        n = ended[0]["n"]
        for key in ("clean", "robust"):
            made[key] = fmean(r[key] for r in ended)
            made[f"{key}_ci95"] = list(wilson(made[key] * n, n))
        made |= {"n": n, "seeds": [r["robust"] for r in ended]}
    return made


def _of_one(result: Mapping[str, Any] | None) -> Row:
    if result is None:
        return {}
    products = result["products"].values()
    means = {key: fmean(p[key] for p in products) for key in ("clean", "robust")}
    return {**means, "n": next(iter(products))["n"], "alarms": result["alarms"]}


def not_beaten(rows: Sequence[Row]) -> list[Row]:
    """Rows than which no other is as robust for less, or more robust for as little; the cheapest first."""
    whole = [r for r in rows if "robust" in r]

    def beaten(r: Row) -> bool:
        return any(
            o["budget"] <= r["budget"]
            and o["robust"] >= r["robust"]
            and (o["budget"], o["robust"]) != (r["budget"], r["robust"])
            for o in whole
        )

    return sorted((r for r in whole if not beaten(r)), key=lambda r: float(r["budget"]))


def advice(rows: Sequence[Row], unit: str) -> list[Row]:
    """Per budget the most robust method, and those whose difference to it lies within the noise of the test images or the seeds."""
    said = []
    for budget in sorted({r["budget"] for r in rows}):
        there = sorted((r for r in rows if r["budget"] == budget and "robust" in r), key=lambda r: -float(r["robust"]))
        if not there:
            continue
        best = there[0]
        close = [
            r["method"]
            for r in there[1:]
            if r["robust"] >= best["robust_ci95"][0] or max(r["seeds"]) >= min(best["seeds"])
        ]
        said.append({"budget": budget, "unit": unit, "take": best["method"], "robust": best["robust"], "close": close})
    return said


def sentence(advised: Row) -> str:
    """As a person hears it."""
    said = f"for {amount(advised['budget'], advised['unit'])}: {advised['take']} ({percent(advised['robust'])})"
    return said + (f"; within the noise: {', '.join(advised['close'])}" if advised["close"] else "")


def amount(value: float, unit: str) -> str:
    """``60`` -> ``60 device-seconds``, or passes."""
    return f"{value:g} {'device-seconds' if unit == 'seconds' else 'passes'}"


def read(folder: Path) -> Row:
    """frontier.json."""
    found: Row = json.loads((folder / "frontier.json").read_text())
    return found


def summary(folder: Path) -> Row:
    """What the command answers."""
    return {**read(folder), "frontier": relative(folder), "report": relative(folder / "frontier.html")}


def show(answer: Row) -> None:
    """The same for a person, in 80 columns."""
    unit = "seconds" if answer["unit"] == "seconds" else "passes"
    width = max([6, *(len(r["method"]) for r in answer["rows"])])
    print(f"{'method':{width}}  {unit:>8}  {'epochs':>6}   clean  robust [95 %]         seeds")
    front = {(r["method"], r["budget"]) for r in answer["not_beaten"]}
    for r in answer["rows"]:
        mark = "*" if (r["method"], r["budget"]) in front else " "
        head = f"{r['method']:{width}}  {r['budget']:>8g}  {r['epochs']:>6.1f} "
        if "robust" not in r:
            why = next((x["failed"] for x in r["runs"] if "failed" in x), "not done yet")
            print(f"{head} {why}")
            continue
        seeds = f"{100 * min(r['seeds']):.1f} to {100 * max(r['seeds']):.1f}"
        print(f"{head} {percent(r['clean']):>7} {with_interval(r['robust'], r['robust_ci95']):22}{mark} {seeds}")
    print("\n* none is as robust for less")
    for teacher in answer["teachers"]:
        print(f"teacher {teacher['run']}: {amount(round(teacher['cost'], 1), answer['unit'])} more, once")
    for advised in answer["advice"]:
        print(sentence(advised))
    print(f"\nreport: {answer['report']}")
