"""Tables and picture of docs/performance.md, from JSON in benchmarks/results/.

python docs/speed.py            # draw docs/images/speed.svg
python docs/speed.py --check    # fail when it differs from the numbers
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tabular import rows, source

CLONE = Path(__file__).resolve().parent.parent
PICTURE = CLONE / "docs" / "images" / "speed.svg"
COLOURS = {"plain": "#9aa0a6", "exact": "#3b7dd8", "bf16": "#2e8b57"}
LEFT, BAR, GAP, WIDTH = 70, 14, 12, 420


def step_time(result: dict[str, Any]) -> str:
    """One step of every method in the papers' style and here."""
    variants = [
        v for v in ("exact", "tf32", "bf16", "compile", "bf16+compile") if f"{v}_ratio" in result["methods"]["at"]
    ]
    body = []
    for name, m in result["methods"].items():
        cells = [f"`{name}`", f"{m['plain']['ms']:.0f}", f"{100 * m['plain']['share_of_peak']:.0f} %"]
        for v in variants:
            ratios = [s["plain"] / s[v] for s in m["samples"]]
            cells.append(f"{m[v]['ms']:.0f} ({m[f'{v}_ratio']:.2f}x; {min(ratios):.2f} to {max(ratios):.2f})")
            cells.append(f"{100 * m[v]['share_of_peak']:.0f} %" if "share_of_peak" in m[v] else "")
        body.append(cells)
    header = ["method", "papers' style [ms]", "of peak"]
    for v in variants:
        header += [f"{v} [ms]", "of peak"]
    peak = ", ".join(f"{p} {g:.0f} GFLOP/s" for p, g in result["peak_gflops"].items())
    note = (
        f"{result['network']}, 3x32x32, PGD-10, batch {result['batch']}, {result['threads']} threads, all networks in one process. In brackets "
        f"the median ratio of interleaved pairs and its range. Peak measured: {peak}.\n"
    )
    return rows(header, body) + source(result) + note


def autoattack(result: dict[str, Any]) -> str:
    """Ours beside pyautoattack called directly."""
    body = []
    for name, c in result["cases"].items():
        if "ratio" not in c:
            continue
        ratios = [r["ours"] / r["theirs"] for r in c["rounds"]]
        parts = [
            f"{part} {median(r['stages'][part]['seconds'] for r in c['rounds']):.1f}"
            for part in c["rounds"][0]["stages"]
        ]
        spread = f"{c['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        resist = f"{c['resist']} of {c['images']}"
        seconds = [f"{c[k]:.1f}" for k in ("theirs", "ours")]
        body.append([name, c["threat"], resist, *seconds, spread, ", ".join(parts), str(c["differ"])])
    header = [
        "network",
        "threat",
        "resist",
        "pyautoattack [CPU s]",
        "ours",
        "ratio",
        "of which",
        "verdicts that differ",
    ]
    note = "One thread each; medians of interleaved rounds. "
    if "pairs" in result["cases"]:
        pairs = result["cases"]["pairs"]
        note += f"{pairs['pairs']} verdicts on five networks of different methods, one of timm's, under three norms: {len(pairs['differ'])} differ. "
    if "workers" in result["cases"]:
        seconds = result["cases"]["workers"]["seconds"]
        each = ", ".join(f"{n} workers {s:.0f} s" for n, s in seconds.items())
        note += f"`sparring evaluate`, start of Ray included: {each}; the same files."
    return rows(header, body) + _sources(result["cases"]) + note.strip() + "\n"


def _sources(cases: dict[str, Any]) -> str:
    """One line for all cases that were measured together."""
    names: dict[str, list[str]] = {}
    for name, case in cases.items():
        names.setdefault(source(case["source"]).strip(), []).append(name)
    return "".join(f"\n{', '.join(of)}: {line}\n" for line, of in names.items())


def agents(result: dict[str, Any]) -> str:
    """Where a step's time goes over Ray."""
    body = [
        [
            f"`{p}`",
            *(f"{m[k]:.1f}" for k in ("step_ms", "own_ms", "exchange_ms", "idle_ms")),
            f"{m['ratio']:.2f}",
            f"{m['peak_mib']:.0f}",
        ]
        for p, m in result["points"].items()
    ]
    header = [
        "method:peers",
        "step [ms]",
        "slowest agent's verbs [ms]",
        "its exchange [ms]",
        "its waiting [ms]",
        "ratio",
        "peak memory of an agent [MiB]",
    ]
    note = f"{result['network']}, {result['shape']}, PGD-10, batch {result['batch_size']}, one thread per agent; medians over steps.\n"
    return rows(header, body) + source(result) + note


def stand_ins(result: dict[str, Any]) -> str:
    """What a step costs beside agents that wait, by the way of its messages."""
    points = next(iter(result["exchange"].values()))
    body = []
    for point in points:
        for exchange, found in result["exchange"].items():
            m = found[point]
            cells = [f"{m[k]:.1f}" for k in ("step_ms", "exchange_ms", "idle_ms")]
            body.append([f"`{point}`", exchange, *cells, f"{m['ratio']:.2f}", f"{m['driver_cpu_ms']:.1f}"])
    header = [
        "method:peers",
        "exchange",
        "step [ms]",
        "packing and copying [ms]",
        "waiting [ms]",
        "ratio",
        "driver's CPU [ms]",
    ]
    note = (
        f"The slowest agent waits {result['compute_ms']:g} ms a step on the clock, the others in proportion; messages are those of {result['shape']}, "
        f"batch {result['batch_size']}; medians over steps of interleaved rounds.\n"
    )
    return rows(header, body) + source(result) + note


def attack(result: dict[str, Any]) -> str:
    """``sparring.attack`` beside other ways to the same examples."""
    body = []
    for network, m in result["networks"].items():
        each = {way: median(s["seconds"] for s in found) for way, found in m["samples"].items()}
        cells = [f"{each[way]:.2f} ({m['ratios'][way]:.2f})" for way in ("torchattacks", "other") if way in each]
        body.append([network, str(m["images"]), f"{each['ours']:.2f}", *cells])
    header = [
        "network",
        "images",
        "`sparring.attack` [CPU s]",
        "torchattacks 3.5.1 (ours over it)",
        "unfolded, in one piece (ours over it)",
    ]
    note = f"PGD-{result['steps']}, 3x32x32, linf 8/255, one thread; medians of interleaved rounds.\n"
    return rows(header, body) + source(result) + note


def start(result: dict[str, Any]) -> str:
    """The way to the first step, by part, and what each process costs."""
    now, before = result["samples"]["this"], result["samples"]["other"]
    body = [["first step after", *(f"{median(s['first step'] for s in way):.1f} s" for way in (now, before))]]
    for part in now[0]["parts"]:
        body.append([f"of which {part}", *(f"{median(s['parts'][part] for s in way):.1f} s" for way in (now, before))])
    body.append(["whole command", *(f"{median(s['wall'] for s in way):.1f} s" for way in (now, before))])
    for process in now[0]["processes"]:
        cells = []
        for way in (now, before):
            cpu, peak = (median(s["processes"][process][k] for s in way) for k in ("cpu", "peak"))
            cells.append(f"{cpu:.1f} CPU s, {peak:.0f} MiB")
        body.append([process, *cells])
    note = (
        f"A process that imports torch and starts such a Ray, and nothing of ours: {median(result['floor']):.1f} s.\n"
    )
    return rows(["sparring train mat --max-steps 2", "now", "before"], body) + source(result) + note


def memory(result: dict[str, Any]) -> str:
    """Who holds what."""
    columns = ["resident", "own", "images", "share of images"]
    body = [[name, *(f"{held[c]:.0f}" for c in columns)] for name, held in result["processes"].items()]
    header = ["MAT on CIFAR-10, small_cnn [MiB]", "resident", "its own alone", "images resident", "its share of them"]
    return rows(header, body) + source(result)


def overheads(result: dict[str, Any]) -> str:
    """The cost of saving."""
    saving = result["saving"]
    stretches = [f"{median(saving['samples'][way]):.2f} s" for way in ("with", "without")]
    header = [f"saving {saving['megabytes']:.0f} MB once in {result['every']} steps", "without", "more"]
    return rows(header, [[*stretches, f"{100 * saving['share']:+.1f} %"]]) + source(result)


def encoded(result: dict[str, Any]) -> str:
    """Images that stay as they are stored, by layout."""
    body = [
        [
            name,
            f"{r['index_s']:,.3g} s",
            f"{r['start_s']:,.3g} s",
            f"{r['random_ms']:,.3g} ms",
            f"{r['order_ms']:,.3g} ms",
        ]
        for name, r in result["layouts"].items()
    ]
    said = f"Medians; files of {result['file_bytes'] / 1e3:.0f} kB. One process checks {result['check_per_s']:.0f} of them a second.\n"
    return rows(["", "index, once", "every start", "an image at random", "in order"], body) + source(result) + said


def loader(result: dict[str, Any]) -> str:
    """A node's loader beside torchvision's."""
    names = {"1": "one agent", "2": "two agents, the same batches"}
    body = [
        [
            name,
            *(f"{result['rates'][f'{kind}, {n}']:.0f}" for kind in ("torchvision", "sparring")),
            f"{result['ratios'][n]:.2f}",
        ]
        for n, name in names.items()
    ]
    (few, one), (many, other) = ((int(n), m) for n, m in result["memory"].items())
    first, last = list(other)
    each = (other[first] - one[first]) * 2**20 / (many - few)
    said = (
        f"{result['workers']} processes a loader, medians. A run over {many:,} generated images holds {other[first]:.0f} MiB after {first} steps and {other[last]:.0f} MiB "
        f"after {int(last):,}, agent, loader and its processes together; one over {few:,} {one[first]:.0f} MiB: {each:.0f} bytes an image, for its label and the order of an epoch.\n"
    )
    return rows(["images/s", "torchvision", "this loader", "ratio"], body) + source(result) + said


def precision(result: dict[str, Any]) -> str:
    """What bfloat16 changes in the result."""
    body = []
    for name, m in result["methods"].items():
        each = {p: " ".join(f"{100 * v:.1f}" for v in m["robust"][p]) for p in m["robust"]}
        change = f"{100 * m['difference']:+.1f} ± {100 * m['half_width']:.1f} points"
        body.append([f"`{name}`", each["fp32"], each["bf16"], change])
    header = ["method", "PGD-20 per seed, fp32 [%]", "bf16 [%]", "change [95 %]"]
    note = f"{next(iter(result['methods'].values()))['images']} test images per seed.\n"
    return rows(header, body) + source(result) + note


def picture(result: dict[str, Any]) -> str:
    """Images per second of every method as bars, an SVG."""
    methods = result["methods"]
    most = max(m[v]["images_per_s"] for m in methods.values() for v in COLOURS)
    height = len(methods) * (3 * BAR + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" height="{height}" font-family="sans-serif" font-size="11">'
    ]
    for i, (v, colour) in enumerate(COLOURS.items()):
        parts.append(f'<rect x="{LEFT + 100 * i}" y="6" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 100 * i + 15}" y="15">{"the papers&apos; style" if v == "plain" else v}</text>')
    y = 28
    for name, m in methods.items():
        parts.append(f'<text x="{LEFT - 8}" y="{y + 1.5 * BAR + 4:.0f}" text-anchor="end">{name}</text>')
        for v, colour in COLOURS.items():
            width = WIDTH * m[v]["images_per_s"] / most
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + width + 4:.1f}" y="{y + BAR - 4}">{m[v]["images_per_s"]:.1f}</text>')
            y += BAR
        y += GAP
    parts.append(f'<text x="{LEFT}" y="{height - 4}">images per second</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> int:
    """Draw or check."""
    drawn = picture(json.loads((CLONE / "benchmarks" / "results" / "step_time.json").read_text()))
    if "--check" in sys.argv:
        return int(PICTURE.read_text() != drawn)
    PICTURE.write_text(drawn)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
