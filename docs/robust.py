"""Tables of docs/evaluation.md and docs/search.md on what attacks say, from JSON in benchmarks/results/."""

from __future__ import annotations

from typing import Any

from tabular import rows, source


def masking(result: dict[str, Any]) -> str:
    """Of every flag: false alarms of honest networks and detections of masked ones."""
    body = []
    for name, flag in result["flags"].items():
        found = ", ".join(f"{kind} {n} of {len(flag['masked'][kind])}" for kind, n in flag["detected"].items())
        seen = sorted(flag["honest"])
        limits = " or ".join(f"{t:.3g}" for t in flag.get("thresholds", [flag["threshold"]]))
        body.append([name, limits, f"{flag['alarms']} of {flag['n']}", f"{seen[-1]:.3g}", found])
    note = (
        f"{result['n']} honest networks: {', '.join(result['methods'])}, seeds 0 to {result['seeds'] - 1}, "
        f"{' and '.join(map(str, result['epochs']))} epochs, but for the short ones of trades and mart, which training itself has softened. "
        f"{result['images']} test images, linf:0.15 (Lucky: twice that) unless a norm is named: l2:0.6, l1:2.\n"
    )
    header = ["flag", "threshold", "false alarms", "largest honest value", "detected, by kind of masking"]
    return rows(header, body) + source(result) + note


def heldout_attack(result: dict[str, Any]) -> str:
    """How far every cheap choice is from AutoAttack, the nearest first."""
    body = [
        [
            name,
            *(f"{100 * c[k]:+.1f}" for k in ("mean_gap", "largest_gap", "group_largest_gap")),
            f"{c['kendall_tau']:.3f}",
            f"{c['kendall_tau_networks']:.3f}",
        ]
        for name, c in sorted(result["choices"].items(), key=lambda item: item[1]["mean_gap"])
    ]
    header = [
        "what PGD raises",
        "above AutoAttack, mean",
        "at most",
        "at most, mean of seeds",
        "Kendall's tau of methods",
        "of networks",
    ]
    note = (
        f"Points of accuracy, {result['n']} networks, {result['images']} test images; {result['passes']} steps in all, shared by the starts "
        "where there are two.\n"
    )
    return rows(header, body) + source(result) + note


def measures(result: dict[str, Any]) -> str:
    """What each measure chooses of a search for a temperature, and what AutoAttack says of it."""
    body = []
    for seed in result["seeds"]:
        for name, winner in seed["winners"].items():
            trial = seed["trials"][winner["trial"]]
            body.append(
                [
                    str(seed["seed"]),
                    f"`{name}`",
                    f"{trial['temperature']:g}",
                    f"{100 * trial[name]['w_robust']:.1f} %",
                    f"{100 * trial[name]['robust']:.1f} %",
                    f"{100 * winner['autoattack']:.1f} %",
                    f"{50 * (winner['autoattack'] + winner['clean']):.1f} %",
                ]
            )
    header = [
        "seed",
        "measure",
        "temperature chosen",
        "held-out W-Robust",
        "held-out robust",
        "AutoAttack",
        "W-Robust by it",
    ]
    note = f"Temperatures {', '.join(map(str, result['temperatures']))}; {result['epochs']} epochs each; AutoAttack on {result['images']} test images.\n"
    return rows(header, body) + source(result) + note
