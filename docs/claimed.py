"""Tables and sentences on the papers' claims, from JSON in benchmarks/results/claims/."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tabular import rows, source

NAMES = {
    "at": "AT",
    "at_2x": "AT, twice the epochs",
    "at_3x": "AT, three times the epochs",
    "at_ema": "AT, averaged weights (EMA 0.995)",
    "at_swa": "AT, averaged weights (SWA)",
    "at_awp": "AT with weight perturbation (AWP 0.005)",
    "at_smoothed": "AT on smoothed labels (0.1)",
    "two_ats_averaged": "two AT networks, averaged",
    "mat_2": "MAT, 2 peers: the first",
    "mat_2_ensemble": "MAT, 2 peers: averaged",
    "mat_3": "MAT, 3 peers: the first",
    "mat_3_ensemble": "MAT, 3 peers: averaged",
}


def claim(result: dict[str, Any]) -> str:
    """Every network at its best and its last checkpoint, then the differences that the paper claims."""
    body = []
    for label, r in result["rows"].items():
        gap = _mean(r, "best") - _mean(r, "last")
        each = " ".join(f"{100 * v:.0f}" for v in r["best"]["autoattack"])
        figures = [f"{100 * fmean(r[c][k]):.1f}" for c in ("best", "last") for k in ("clean", "pgd-20", "autoattack")]
        cells = [
            f"{figures[2]} ({each})",
            figures[5],
            f"{100 * gap:+.1f}",
            figures[0],
            figures[1],
            figures[3],
            figures[4],
        ]
        body.append([_name(label), f"{r['passes'] / 1000:.0f}", *cells])
    header = [
        "network",
        "passes / 1000",
        "AutoAttack, best (seeds)",
        "last",
        "best - last",
        "clean, best",
        "PGD-20, best",
    ]
    table = rows([*header, "clean, last", "PGD-20, last"], body)
    pairs = rows(
        ["AutoAttack, difference", "checkpoint", "points", "95 % over examples", "95 % over seeds", ""],
        [
            [
                f"{_name(p['a'])} against {_name(p['b'])}",
                p["checkpoint"],
                f"{100 * p['mean']:+.1f}",
                _interval(p["over_examples"]),
                _interval(p["over_seeds"]) if "over_seeds" in p else "",
                p.get("verdict", ""),
            ]
            for p in result["pairs"]
        ],
    )
    s = result["setting"]
    about = (
        f"{s['data']}, {100 * s['data.fraction']:g} % of the training images, {s['network']}, {s['epochs']} epochs, {result['threat']}; seeds "
        f"{', '.join(map(str, result['seeds']))}; percent of {result['n']} test images, means over seeds.\n"
    )
    return table + "\n" + pairs + source(result) + about


def sentences(result: dict[str, Any]) -> str:
    """One line a pair, for where a method is described."""
    said = [
        f"- {_name(p['a'])} against {_name(p['b'])}, {p['checkpoint']} checkpoint: {100 * p['mean']:+.1f} points "
        f"({_interval(p['over_examples'])} over examples"
        + (f", {_interval(p['over_seeds'])} over seeds): **{p['verdict']}**.\n" if "over_seeds" in p else ").\n")
        for p in result["pairs"]
    ]
    return "".join(said) + source(result)


def _mean(row: dict[str, Any], checkpoint: str) -> float:
    return fmean(row[checkpoint]["autoattack"])


def _name(label: str) -> str:
    return NAMES.get(label, label)


def _interval(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"
