"""Tables, sentences and the picture on the papers' claims, from JSON in benchmarks/results/claims/.

python docs/claimed.py           # draw docs/images/claims.svg
python docs/claimed.py --check   # fail when it differs from the numbers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.sax.saxutils import escape

from tabular import rows, source

CLONE = Path(__file__).resolve().parent.parent
RESULTS = CLONE / "benchmarks" / "results" / "claims"
PICTURE = CLONE / "docs" / "images" / "claims.svg"
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
    "avg": "AVG",
    "max": "MAX",
    "msd": "MSD",
    "eat": "E-AT",
    "mat_multi": "MAT's generalist",
    "ard": "ARD",
    "rslad": "RSLAD",
    "adaad": "AdaAD",
    "iad": "IAD",
    "peeraid": "PeerAiD's student",
    "peeraid_swa": "PeerAiD's student (SWA)",
    "peeraid_peer": "PeerAiD's peer",
    "mtard_eccv": "MTARD",
    "mtard": "B-MTARD",
    "n_fgsm": "N-FGSM",
    "mixup": "mixup alone",
    "mixacm": "MixACM",
}
TITLES = {
    "mat": "MAT: peers under one threat",
    "multi_norm": "MAT: a generalist against several norms",
    "peeraid": "PeerAiD",
    "mtard": "MTARD and B-MTARD",
    "mixacm": "MixACM",
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 240, 50, 220, 30, 40


def claim(result: dict[str, Any]) -> str:
    """Every network at its checkpoints, then the differences that the paper claims."""
    checkpoints = [c for c in ("best", "last") if any(c in r for r in result["rows"].values())]
    header = ["network", "passes / 1000"]
    for c in checkpoints:
        header += [f"{_robust(result)}, {c} (seeds)", f"clean, {c}", f"PGD-20, {c}"]
        header += [f"{t}, {c}" for t in _each(result)]
        header += [f"weighted, {c}"] if result["measure"] == "weighted" else []
    body = []
    for label, r in result["rows"].items():
        cells = [_name(label), f"{r['passes'] / 1000:.0f}"]
        for c in checkpoints:
            cells += _cells(result, r[c]) if c in r else [""] * ((len(header) - 2) // len(checkpoints))
        body.append(cells)
    pairs = rows(
        [f"difference, {_measure(result)}", "checkpoint", "points", "95 % over examples", "95 % over seeds", ""],
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
    images = f"{100 * s['data.fraction']:g} % of the training images" if "data.fraction" in s else "all training images"
    about = (
        f"{s['data']}, {images}, {s['network']}, {s['epochs']} epochs, {', '.join(result['threats'])}; seeds "
        f"{', '.join(map(str, result['seeds']))}; percent of {result['n']} test images, means over seeds.\n"
    )
    return rows(header, body) + "\n" + pairs + source(result) + about


def sentences(result: dict[str, Any]) -> str:
    """One line a pair, for where a method is described."""
    said = [
        f"- {_name(p['a'])} against {_name(p['b'])}, {p['checkpoint']} checkpoint: {100 * p['mean']:+.1f} points of {_measure(result)} "
        f"({_interval(p['over_examples'])} over examples"
        + (f", {_interval(p['over_seeds'])} over seeds): **{p['verdict']}**.\n" if "over_seeds" in p else ").\n")
        for p in result["pairs"]
    ]
    return "".join(said) + source(result)


KINDS = {  # of benchmarks/few_digits.py
    "mat": "two peers, as the recipe (alpha 0.3, T 1)",
    "mat alpha=1": "two peers, alpha 1",
    "mat alpha=1 T=4": "two peers, alpha 1, T 4",
    "mat alpha=1 own_sample": "two peers, alpha 1, own examples only",
    "mat_hard": "two peers, hard labels",
    "alone": "one network, the peers' epochs",
    "alone, same cost": "one network, the peers' arithmetic",
}
SAME = "alone, same cost"


def few(result: dict[str, Any]) -> str:
    """Peers and one network alone, on shares of the digits."""
    body = []
    for fraction, kinds in result["fractions"].items():
        for kind, name in ((k, n) for k, n in KINDS.items() if k in kinds):
            found = kinds[kind]
            cells = [f"{100 * float(fraction):g} %", name]
            for c in ("best", "last"):
                cells.append(f"{100 * fmean(found[c]):.1f}")
                cells.append(_points(found[f"over {SAME}, {c}"]) if kind != SAME else "")
            body.append([*cells, f"{100 * fmean(found['clean']):.1f}"])
    header = ["digits", "", "best", "over the same arithmetic", "last", "over the same arithmetic", "clean"]
    about = f"{result['epochs']} epochs; percent under {result['attack']}, {result['threat']}, means over seeds {', '.join(map(str, result['seeds']))}; of peers both count "
    return rows(header, body) + source(result) + about + "half. Differences with 95 % over seeds (Student).\n"


def few_said(result: dict[str, Any]) -> str:
    """What mutual training brings where there are few images, in a sentence."""
    parts = []
    for fraction, kinds in result["fractions"].items():
        parts.append(f"{100 * float(fraction):g} %: {_points(kinds['mat alpha=1'][f'over {SAME}, last'])}")
    return (
        "On a share of the training images two peers with alpha 1 differ from one network with the same arithmetic, at the last checkpoint, in points of "
        f"{result['attack']} ({len(result['seeds'])} seeds): {'; '.join(parts)}.\n{source(result)}"
    )


def _points(over: Sequence[float]) -> str:
    mean, low, high = over
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def picture(results: Mapping[str, dict[str, Any]]) -> str:
    """Robust accuracy against passes, a panel a claim, a bar from the lowest to the highest seed: an SVG."""
    height = len(results) * (HEIGHT + TOP + BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    ]
    for i, (name, result) in enumerate(results.items()):
        parts.append(f'<g transform="translate(0,{i * (HEIGHT + TOP + BOTTOM)})">{_panel(name, result)}</g>')
    return "".join(parts) + "</svg>\n"


def _panel(name: str, result: dict[str, Any]) -> str:
    points = []
    for label, r in result["rows"].items():
        values = [100 * v for v in r["best" if "best" in r else "last"]["autoattack"]]
        points.append((r["passes"], fmean(values), min(values), max(values), _name(label)))
    low, high = min(p[2] for p in points), max(p[3] for p in points)
    first, last = log10(min(p[0] for p in points)), log10(max(p[0] for p in points))
    wide, tall = max(last - first, 0.1), max(high - low, 0.1)

    def x(passes: float) -> float:
        return LEFT + 20 + (WIDTH - LEFT - RIGHT - 40) * (log10(passes) - first) / wide

    def y(value: float) -> float:
        return TOP + 8 + (HEIGHT - 16) * (high - value) / tall

    made = [f'<text x="{LEFT}" y="18" font-weight="bold">{escape(TITLES[name])}: {escape(_robust(result))}</text>']
    made.append(
        f'<path d="M{LEFT} {TOP}V{TOP + HEIGHT}H{WIDTH - RIGHT}" fill="none" stroke="#888"/>'
        f'<text x="{LEFT}" y="{TOP + HEIGHT + 30}">forward passes, thousands (logarithmic)</text>'
    )
    for value in (low, high):
        made.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0f} %</text>')
    for passes in sorted({p[0] for p in points}):
        made.append(
            f'<text x="{x(passes):.1f}" y="{TOP + HEIGHT + 14}" text-anchor="middle">{passes / 1000:.0f}</text>'
        )
    below = 0.0
    for passes, mean, least, most, text in sorted(points, key=lambda p: -p[1]):
        below = max(below + 13, y(mean))  # names in the order of the points, none on another
        right = WIDTH - RIGHT
        made.append(
            f'<path d="M{x(passes):.1f} {y(least):.1f}V{y(most):.1f}" stroke="#3b7dd8"/>'
            f'<circle cx="{x(passes):.1f}" cy="{y(mean):.1f}" r="4" fill="#3b7dd8"/>'
            f'<path d="M{x(passes) + 5:.1f} {y(mean):.1f}L{right} {below:.1f}" stroke="#ccc"/>'
            f'<text x="{right + 4}" y="{below + 4:.1f}">{mean:.1f}  {escape(text)}</text>'
        )
    return "".join(made)


def _cells(result: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    each = " ".join(f"{100 * v:.0f}" for v in made["autoattack"])
    cells = [f"{100 * fmean(made['autoattack']):.1f} ({each})"]
    cells += [f"{100 * fmean(made[k]):.1f}" for k in ("clean", "pgd-20")]
    if _each(result):
        cells += [f"{100 * fmean(under):.1f}" for under in zip(*(t.values() for t in made["threats"]), strict=True)]
    if result["measure"] == "weighted":
        cells.append(f"{50 * (fmean(made['clean']) + fmean(made['autoattack'])):.1f}")
    return cells


def _each(result: Mapping[str, Any]) -> list[str]:
    """The threats of a union."""
    return list(result["threats"]) if len(result["threats"]) > 1 else []


def _robust(result: Mapping[str, Any]) -> str:
    return "AutoAttack, union" if _each(result) else "AutoAttack"


def _measure(result: Mapping[str, Any]) -> str:
    return "mean of clean and AutoAttack" if result["measure"] == "weighted" else _robust(result)


def _name(label: str) -> str:
    return NAMES.get(label, label)


def _interval(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}"


def known() -> dict[str, dict[str, Any]]:
    """The claims that were measured."""
    return {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in TITLES
        if (RESULTS / f"{name}.json").exists()
    }


def main() -> int:
    """Draw, or check; 1 when the picture differs."""
    results = known()
    if not results:
        return 0
    made = picture(results)
    if PICTURE.exists() and PICTURE.read_text() == made:
        return 0
    if "--check" not in sys.argv:
        PICTURE.write_text(made)
        return 0
    print(f"{PICTURE.relative_to(CLONE)} differs from benchmarks/results/claims")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
