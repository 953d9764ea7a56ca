"""Tables of docs/serving.md."""

from __future__ import annotations

from statistics import median
from typing import Any

from tabular import rows, source

HEADER = ["network", "clients", "server", "requests/s", "of bare", "p50", "p99", "ready after", "memory"]


def load(result: dict[str, Any]) -> str:
    """Requests per second and latencies beside others, and what an attack costs the rest."""
    a = result["attack"]
    each = [", ".join(f"{v:.0f}" for v in a["p99_ms"][k]) for k in ("attacked", "alone")]
    note = (
        f"JSON of one image, slices of {result['seconds']:g} s, medians. bare: FastAPI and uvicorn around the same network. Clients live on the same two "
        f"cores. Beside a client that attacks all the time, the 99th percentile of four clients is {a['ratio']:.1f} times what it is alone "
        f"({each[0]} against {each[1]} ms).\n"
    )
    return rows(HEADER, _points(result)) + source(result) + note


def again(result: dict[str, Any]) -> str:
    """One place of that table, measured again."""
    return rows(HEADER, _points(result)) + source(result)


def _points(result: dict[str, Any]) -> list[list[str]]:
    points = {(p["network"], p["clients"], p["server"]): p for p in result["points"]}
    body = []
    for (network, clients, server), p in sorted(points.items(), key=lambda item: item[0][:2]):
        bare = points[network, clients, "bare"]["requests_s"]
        ratio = "" if server == "bare" else f"{p['requests_s'] / bare:.2f}x"
        latency = [f"{p[key]:.{1 if p[key] < 10 else 0}f} ms" for key in ("p50_ms", "p99_ms")]
        start = [f"{p['ready_s']:.0f} s", f"{p['memory_mib']:.0f} MiB"]
        body.append([network, str(clients), server, f"{p['requests_s']:.0f}", ratio, *latency, *start])
    return body


def autoscale(result: dict[str, Any]) -> str:
    """Replicas under a load curve."""
    body = []
    for p in result["phases"]:
        changes = ", ".join(f"{count} from {at:.0f} s on" if at else str(count) for at, count in p["replicas"])
        longest = "" if p["longest_s"] is None else f"{p['longest_s']:.1f} s"
        half = "" if p["p50_ms"] is None else f"{p['p50_ms']:.0f} ms"
        body.append(
            [f"{p['clients']} for {p['seconds']} s", changes, str(p["requests"]), str(p["not_200"]), half, longest]
        )
    return rows(["clients", "replicas", "requests", "not 200", "p50", "longest"], body) + source(result)


def cascades(result: dict[str, Any]) -> str:
    """What cascades keep and cost, and what a weaker attack would have said."""
    percent = dict.fromkeys(("asked", "decision_alone", "made_for_large"), "")
    body = []
    for row in result["rows"]:
        told = percent | {k: f"{100 * v:.1f}" for k, v in row.items() if isinstance(v, float) and k != "ms"}
        columns = [told[k] for k in ("asked", "clean", "robust", "decision_alone", "made_for_large")]
        body.append([row["network"], *columns, f"{row['ms']:.1f} ms"])
    header = [
        "network",
        "asks the large one",
        "clean",
        "robust",
        "decision alone",
        "made for the large one",
        "64 images",
    ]
    full, (small, large) = result["autoattack"], result["networks"]
    note = (
        f"small: {small}, large: {large}; percent, means of {len(result['seeds'])} seeds, {result['threat']}. AutoAttack, seed {full['seed']}: small "
        f"{100 * full['small']:.1f}, large {100 * full['large']:.1f}, cascade of width {full['width']:g} {100 * full['cascade']:.1f}; through the decision "
        f"alone {100 * full['decision_alone']:.1f}.\n"
    )
    return rows(header, body) + source(result) + note


def disagreement(result: dict[str, Any]) -> str:
    """How well disagreement tells attacks, by what the attacker knows."""
    titles = {"one": "one peer is attacked", "all": "both are attacked", "adaptive": "the attacker lowers it too"}
    body = []
    for key, title in titles.items():
        each = result["auroc"][key]
        succeeded = ", ".join(map(str, result["succeeded"][key]))
        body.append([title, f"{sum(each) / len(each):.2f}", ", ".join(f"{v:.2f}" for v in each), succeeded])
    note = f"On clean images {100 * result['clean_mean']:.1f} % on average, {result['threat']}.\n"
    return rows(["attacker", "AUROC", "by seed", "attacks that succeed"], body) + source(result) + note


def versions(result: dict[str, Any]) -> str:
    """What rollouts cost."""
    c = result["canary"]
    p50, p99 = (median(s[key] for s in result["shadow"]) for key in ("p50", "p99"))
    new, back = ([part[key] for part in result[name]] for name, key in (("new", "longest_ms"), ("back", "seconds")))
    usual = median(part["p50_ms"] for part in result["new"])
    body = [
        ["requests that a canary of 10 % answered", f"{100 * c['share']:.1f} % of {c['requests']}"],
        ["latency beside a shadow, over that without: p50, p99", f"{p50:.2f}, {p99:.2f}"],
        [
            f"longest wait while a new version is loaded (p50 {usual:.1f} ms)",
            ", ".join(f"{v:.0f}" for v in new) + " ms",
        ],
        ["from the way back to the last answer of the version before", ", ".join(f"{v:.1f}" for v in back) + " s"],
        ["requests while versions changed, of which not answered", f"{result['requests']}, {result['failed']}"],
    ]
    return rows(["what", "measured"], body) + source(result)
