"""Every table of numbers in README.md and docs/ comes from JSON in benchmarks/results/.

python docs/tables.py           # write the tables between their markers
python docs/tables.py --check   # fail when a page differs from the numbers
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE / "benchmarks"))

import claimed  # noqa: E402
import robust  # noqa: E402
import scale_model  # noqa: E402
import served  # noqa: E402
import speed  # noqa: E402
from tabular import rows, source  # noqa: E402

RESULTS = CLONE / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def demo(result: dict[str, Any]) -> str:
    """The table that the demo prints."""

    def cell(value: float, interval: Sequence[float]) -> str:
        return f"{100 * value:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"

    body = [
        [n, cell(r["clean"], r["clean_ci95"]), cell(r["robust"], r["robust_ci95"])]
        for n, r in result["networks"].items()
    ]
    took = (
        f"Training took {result['seconds']:.0f} s. Intervals are 95 % (Wilson), n counts test images. "
        f"{result['brought'].replace('docs/results.md', '[docs/results.md](docs/results.md)')}."
    )
    return rows(["network", "clean [95 %]", f"{result['attack']} [95 %]"], body) + source(result) + took + "\n"


def team_vs_local(result: dict[str, Any]) -> str:
    """One step on Ray against one process."""
    body = [["one process", f"{result['local_ms']:.0f} ms"], ["Ray, one actor per peer", f"{result['ray_ms']:.0f} ms"]]
    ratios = ", ".join(f"{r['ratio']:.2f}" for r in result["samples"])
    ratio = f"Ratio {result['ratio']:.2f}, the median of {result['n']} interleaved rounds ({ratios}).\n"
    return rows(["2 peers, a step of MAT", "median"], body) + source(result) + ratio


def methods(result: dict[str, Any]) -> str:
    """Accuracy and forward passes of every method on digits."""
    body = []
    for name, r in sorted(result["methods"].items()):
        passes = "; ".join(f"{agent} {n['eval']} + {n['train']}" for agent, n in r["passes"].items())
        for agent, p in r["products"].items():
            low, high = p["ci95"]
            threats = "union of " + ", ".join(p["threats"]) if len(p["threats"]) > 1 else next(iter(p["threats"]))
            robust = f"{100 * p['robust']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            body.append([f"`{name}`", agent, f"{100 * p['clean']:.1f} %", robust, threats, passes])
    header = ["method", "product", "clean", "PGD-20 [95 %]", "threat", "passes: eval + train mode"]
    note = f"One seed, {result['epochs']} epochs: differences of a few points mean nothing.\n"
    return rows(header, body) + source(result) + note


def methods_on_digits(result: dict[str, Any]) -> str:
    """Three seeds of every method, and what it costs."""
    body = []
    for row, r in result["rows"].items():
        for agent, a in r["agents"].items():
            strong = ["", ""]
            if "autoattack" in a:
                low, high = a["ci95"]["autoattack"]
                each = " ".join(f"{100 * v:.0f}" for v in a["samples"]["autoattack"])
                strong = [f"{100 * a['autoattack']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]", each]
            passes = sum(n["eval"] + n["train"] for n in r["passes"].values())
            name = f"{row} {agent}" if len(r["agents"]) > 1 else row
            shares = [f"{100 * a[k]:.1f} %" for k in ("clean", "pgd20", "scaled-pgd-20")]
            body.append([name, *shares, *strong, f"{100 * a['w_robust']:.1f} %", f"{r['seconds']:.0f}", str(passes)])
    header = [
        "method",
        "clean",
        "PGD-20",
        "scaled-PGD-20",
        "AutoAttack [95 %]",
        "seeds",
        "W-Robust",
        "seconds",
        "passes",
    ]
    note = (
        f"{result['epochs']} epochs each. Means over seeds; intervals (Wilson) are of all {result['test_images']} test images of all "
        f"seeds together, so they do not hold the spread between runs; AutoAttack on {result['autoattack_images']} images. W-Robust: mean of clean "
        "and scaled-PGD-20. Seconds of training in one process while another one ran beside it; passes: forward passes of all networks in a step.\n"
    )
    return rows(header, body) + source(result) + note


def matrix(result: dict[str, Any]) -> str:
    """Accuracy of each agent on the examples crafted on each."""
    body = [
        [f"`{agent}`", f"{100 * clean:.1f} %", *(f"{100 * v:.1f} %" for v in row)]
        for agent, clean, row in zip(result["agents"], result["clean"], result["accuracy"], strict=True)
    ]
    header = ["agent", "clean", *(f"on the {a}'s examples" for a in result["agents"])]
    note = f"After {result['steps']} steps; {result['attack']}.\n"
    return rows(header, body) + source(result) + note


def scaling(result: dict[str, Any]) -> str:
    """AutoAttack on one and on two workers, and in one call."""
    body = [[f"{w} warm worker{'s' * (w != '1')}", f"{s:.1f} s"] for w, s in result["seconds"].items()]
    ratios = ", ".join(f"{r:.2f}" for r in result["samples"])
    note = (
        f"Ratio {result['ratio']:.2f}, the median of {result['n']} interleaved rounds ({ratios}); all files are "
        f"{'identical' if result['identical_files'] else 'NOT identical'}. All {result['test_images']} test images: robust accuracy "
        f"{100 * result['blocks_robust']:.1f} % in blocks, {100 * result['one_call_robust']:.1f} % in one unsharded call.\n"
    )
    return rows([f"AutoAttack on {result['examples']} digits", "median"], body) + source(result) + note


def faults(result: dict[str, Any]) -> str:
    """What was done to runs, and how long they took to recover."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for fault in result["faults"]:
        kinds.setdefault(fault["kind"], []).append(fault)
    body = [
        [
            kind,
            str(len(each)),
            f"{sum(f['identical'] for f in each)} of {len(each)}",
            ", ".join(f"{f['recovery_s']:.1f}" for f in each),
        ]
        for kind, each in kinds.items()
    ]
    note = f"MAT, MTARD and PeerAiD on digits in turn, {result['steps']} steps, a checkpoint every 10; {result['seconds']} s for all.\n"
    return rows(["fault", "n", "identical bytes", "recovery [s]"], body) + source(result) + note


def scale(result: dict[str, Any]) -> str:
    """Measured steps, and the model's prediction of those that it has not seen."""
    unseen = {(h["agents"], h["lanes"]): h for h in scale_model.check(result)}
    body = []
    for s in result["samples"]:
        held = unseen.get((s["agents"], s["lanes"]))
        body.append(
            [
                str(s["agents"]),
                str(s["lanes"]),
                f"{s['step_ms']:.0f}",
                f"{s['driver_ms']:.1f}",
                f"{s['exchange_bytes'] / 1e3:.0f}",
                f"{held['predicted_ms']:.0f} ({100 * held['error']:+.0f} %)" if held else "",
            ]
        )
    a, b, k, d = scale_model.fit(result)
    note = f"Fitted to the points without a prediction, but the first: a = {a:.1f}, b = {b:.1f}, k = {k:.1f}, d = {d:.1f} ms.\n"
    header = ["agents", "lanes", "step [ms]", "of the driver's CPU [ms]", "exchanged [kB]", "predicted unseen [ms]"]
    return rows(header, body) + source(result) + note


def walls(result: dict[str, Any]) -> str:
    """A step on GPUs by the model, through the object store and directly."""
    args = argparse.Namespace(gpu_step_ms=150.0, nic_gbps=100.0, gpus_per_host=8, payload_mb=1.58, parameters_mb=44.7)
    driver, exchange = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("driver", "exchange"))
    known = scale_model.constants(result, driver, exchange, args)
    body = []
    for agents, lanes in ((8, 1), (2, 4), (8, 8), (2, 32), (8, 64), (2, 256)):
        store = scale_model.predict(known, agents, lanes)
        ms = scale_model.predict(known, agents, lanes, direct=True)
        first = max((p for p in ms if p != "step"), key=lambda p: ms[p])
        parts = [f"{ms[p]:.1f}" for p in ("gpu", "exchange", "averaging", "step")]
        share = f"{100 * ms['driver'] / (ms['step'] if ms['driver'] < ms['step'] else 1):.0f} %"
        body.append(
            [
                str(agents * lanes),
                f"{agents} x {lanes}",
                f"{store['driver']:.1f}",
                f"{store['step']:.1f}",
                *parts,
                share,
                first,
            ]
        )
    header = [
        "GPUs",
        "agents x lanes",
        "store: driver",
        "store: step [ms]",
        "direct: gpu",
        "exchange",
        "averaging",
        "direct: step [ms]",
    ]
    header += ["driver, of a core", "first wall, direct"]
    origins = "".join(f"- `{name}` = {c.value:.3g}: {c.origin}\n" for name, c in known.items())
    return rows(header, body) + source(result) + "Constants:\n\n" + origins


def driver(result: dict[str, Any]) -> str:
    """What the driver itself costs a step, by actors and by hosts."""

    def cells(found: dict[str, float]) -> list[str]:
        return [
            f"{found['driver_cpu_ms']:.2f}",
            f"{found['step_ms']:.0f}",
            f"{100 * found['driver_cpu_ms'] / found['step_ms']:.1f} %",
        ]

    body = [
        ["1", n, exchange, *cells(found)] for exchange, each in result["actors"].items() for n, found in each.items()
    ]
    body += [[f"{n} of 8", str(8 * int(n)), "direct", *cells(found)] for n, found in result["hosts"].items()]
    header = ["hosts", "actors", "exchange", "driver's CPU a step [ms]", "step [ms]", "of a core"]
    note = (
        f"Stand-ins that wait {result['compute_ms']} ms a step, lanes of two peers of MAT; medians over steps. The last rows: as many network "
        "namespaces of this machine, whose two cores all processes share, so that steps get longer.\n"
    )
    return rows(header, body) + source(result) + note


def exchange(result: dict[str, Any]) -> str:
    """What handing each other a message costs, by way."""
    names = {"store": "Ray's object store, as training uses it", "direct": "`--exchange direct`, as training uses it"}
    names |= {
        "ray gloo": f"Ray {result['versions']['ray']}'s own transport, gloo",
        "torchmonarch": f"torchmonarch {result['versions'].get('torchmonarch', '')}, ports",
    }
    body = [[names[way], f"{ms:.1f}", f"{result['ratio'][way]:.1f}"] for way, ms in result["ms"].items()]
    note = f"Two agents of one host, {result['bytes'] / 2**20:g} MiB each way a step, nothing computed; medians of {result['n']} interleaved rounds of {result['steps']} steps.\n"
    return rows(["way", "a step [ms]", "over direct"], body) + source(result) + note


def union(result: dict[str, Any]) -> str:
    """Accuracy under each norm and under all."""
    first = next(iter(result["networks"].values()))
    body = []
    for name, r in result["networks"].items():
        low, high = r["ci95"]
        each = [f"{100 * v:.1f} %" for v in r["threats"].values()]
        body.append(
            [name, f"{100 * r['clean']:.1f} %", *each, f"{100 * r['union']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"]
        )
    note = f"Attacks: {', '.join(result['attacks'][1:])}; {result['epochs']} epochs; intervals are 95 % (Wilson).\n"
    return rows(["network", "clean", *first["threats"], "union [95 %]"], body) + source(result) + note


def searches(result: dict[str, Any]) -> str:
    """The three searches of trials on digits."""
    body = []
    for part, what in (("asha", "MTARD, random draws, ASHA"), ("tpe", "MTARD, TPE, ASHA"), ("pbt", "MAT, PBT")):
        r = result[part]
        values = ", ".join(f"{k.removeprefix('method.')} {v:.3g}" for k, v in sorted(r["best"]["params"].items()))
        repeated = "yes" if r["repeated"] else "NO"
        best = f"{100 * r['best']['objective']:.1f} %"
        body.append([what, f"{r['seconds']:.0f} s", f"{sum(r['steps'])}", best, values, repeated])
    header = ["search", "time", "steps", "best w-robust", "with", "repeated to the last digit"]
    return rows(header, body) + source(result)


def planted(result: dict[str, Any]) -> str:
    """Known optimum, and shared teachers."""
    p, s = result["planted"], result["shared"]
    share = sum(p["steps"]["asha"]) / sum(p["steps"]["fifo"])
    seeds = len(p["samples"]["tpe"])
    ratios = ", ".join(f"{a / b:.2f}" for a, b in zip(s["seconds"]["shared"], s["seconds"]["unshared"], strict=True))
    return rows(
        ["question", "answer"],
        [
            [
                f"TPE against random draws, 24 trials each, {seeds} seeds: share of the optimum reached",
                f"{p['means']['tpe']:.3f} against {p['means']['random']:.3f} (Wilcoxon, paired, one-sided: p = {p['p']:.3f})",
            ],
            [
                f"ASHA against whole runs, 12 trials, {seeds} seeds: steps, and what is reached",
                f"{100 * share:.0f} % of the steps; {p['means']['asha']:.3f} against {p['means']['fifo']:.3f}",
            ],
            [
                f"shared teachers ({s['clean_teacher']} beside {s['student']}): time against unshared, {result['n']} trials",
                f"{s['ratio']:.2f} (pairs: {ratios}); {'every byte the same' if s['identical'] else 'BYTES DIFFER'}",
            ],
        ],
    ) + source(result)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo": demo,
    "evaluate_scaling": scaling,
    "faults": faults,
    "faults_direct": faults,
    "scaling": scale,
    "walls": walls,
    "masking": robust.masking,
    **{f"claims_{name}": claimed.claim for name in claimed.TITLES},
    **{f"claims_{name}_said": claimed.sentences for name in claimed.TITLES},
    "few_digits": claimed.few,
    "few_digits_again": claimed.few,
    "few_digits_again_said": claimed.few_said,
    "heldout_attack": robust.heldout_attack,
    "measures": robust.measures,
    "methods": methods,
    "methods_on_digits": methods_on_digits,
    "union": union,
    "search": searches,
    "serve_load": served.load,
    "serve_load_one": served.again,
    "serve_autoscale": served.autoscale,
    "cascade": served.cascades,
    "disagreement": served.disagreement,
    "serve_versions": served.versions,
    "planted": planted,
    "peeraid_matrix": matrix,
    "autoattack": speed.autoattack,
    "step_time": speed.step_time,
    "agents": speed.agents,
    "stand_ins": speed.stand_ins,
    "driver": driver,
    "encoded": speed.encoded,
    "loader": speed.loader,
    "exchange": exchange,
    "overheads": speed.overheads,
    "attack": speed.attack,
    "start": speed.start,
    "memory": speed.memory,
    "precision": speed.precision,
    "team_vs_local": team_vs_local,
    "team_vs_local_resnet18": team_vs_local,
}


SHARED = {
    "walls": "scaling",
    "planted": "search",
    "few_digits_again_said": "few_digits_again",
    **{f"claims_{name}{said}": f"claims/{name}" for name in claimed.TITLES for said in ("", "_said")},
}  # tables from another one's file


def render(page: str) -> str:
    """The page with every marked table made anew."""

    def table(match: re.Match[str]) -> str:
        name = match[2]
        file = RESULTS / f"{SHARED.get(name, name)}.json"
        return match[1] + TABLES[name](json.loads(file.read_text())) + match[3]

    return MARKED.sub(table, page)


def recipe_table() -> str:
    """What ``sparring recipes`` lists, as it stands beside the recipes: a line each."""
    from sparring.cluster.runs import listing

    lines = ",\n".join(f"  {json.dumps(recipe)}" for recipe in listing.listed())
    return f'{{\n "methods": {json.dumps(list(listing.methods()))},\n "recipes": [\n{lines}\n ]\n}}\n'


def main() -> int:
    """Write or check all pages, and the table of recipes; the number of files that differ."""
    wrong = 0
    table = CLONE / "cluster" / "config" / "recipes.json"
    if table.read_text() != recipe_table():
        wrong += 1
        print(f"{table.relative_to(CLONE)} is not the recipes'")
        if "--check" not in sys.argv:
            table.write_text(recipe_table())
    for path in [CLONE / "README.md", *sorted((CLONE / "docs").glob("*.md"))]:
        text = path.read_text()
        if render(text) != text:
            wrong += 1
            print(
                f"{path.relative_to(CLONE)} {'differs from' if '--check' in sys.argv else 'updated from'} benchmarks/results"
            )
            if "--check" not in sys.argv:
                path.write_text(render(text))
    return wrong if "--check" in sys.argv else 0


if __name__ == "__main__":
    raise SystemExit(main())
