"""Results as a person reads them: tables on stdout."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.run_folder import relative


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        shown.add_row(*row)
    shown.columns[0].overflow = "fold"  # a name is never shortened
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000
    with console.capture() as printed:
        console.print(shown)
    print("\n".join(line.rstrip() for line in printed.get().rstrip("\n").splitlines()))


def command() -> str:
    """How this user can call the command from here: by name, as the script beside the interpreter, or from the clone."""
    if shutil.which("sparring"):
        return "sparring"
    script = Path(sys.executable).parent / "sparring"
    if script.is_file():
        return os.path.relpath(script)
    return f"{sys.executable} {Path(__file__).resolve().parent.parent / 'sparring.py'}"


def is_terminal() -> bool:
    """Whether stderr is a terminal in which things may be redrawn and coloured."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def percent(value: float) -> str:
    """0.987 -> 98.7 %."""
    return f"{100 * value:.1f} %"


def with_interval(value: float, ci95: Sequence[float]) -> str:
    """0.71 and its interval -> 71.0 % [66.1, 75.4]."""
    return f"{percent(value)} [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"


def evaluation(report: Mapping[str, Any]) -> None:
    """One row per agent and threat of an evaluation's report."""
    first = next(iter(report["agents"].values()))
    if not first["threats"]:
        rows = [[a, with_interval(r["clean_accuracy"], r["clean_ci95"])] for a, r in report["agents"].items()]
        table(["agent", "clean [95 %]"], rows)
        print(f"\n{first['n']} test images of {report['data']}\nresults: {relative(report['report'])}")
        return
    attacks = [a for a in next(iter(first["threats"].values()))["attacks"] if a != "clean"]
    rows = []
    for agent, result in report["agents"].items():
        for threat, entry in result["threats"].items():
            values = [percent(entry["attacks"][a]) for a in attacks]
            rows.append(
                [
                    agent,
                    threat,
                    percent(result["clean_accuracy"]),
                    *values,
                    with_interval(entry["robust_accuracy"], entry["ci95"]),
                ]
            )
        if len(result["threats"]) > 1:
            union = with_interval(result["robust_accuracy"], result["ci95"])
            rows.append([agent, "union", percent(result["clean_accuracy"]), *[""] * len(attacks), union])
    table(["agent", "threat", "clean", *attacks, "robust [95 %]"], rows)
    for agent, result in report["agents"].items():
        worst = [f"{r['class']} ({percent(r['robust'])} of {r['n']})" for r in result["per_class"][:3]]
        if len(result["per_class"]) > 3:
            print(f"least robust classes, {agent}: {', '.join(worst)}")
        for note in result["notes"]:
            print(f"note, {agent}: {note}")
        for f in result["flags"]:
            print(
                f"MASKING? {agent}: {f['name']} ({f['test']}: {f['value']:.3g}, allowed {f['threshold']:.3g}); {f['meaning']}"
            )
    if "corruptions" in first:
        print("\naccuracy under corruptions")
        agents = report["agents"]
        table(
            ["corruption", *agents],
            [[c, *(percent(r["corruptions"][c]) for r in agents.values())] for c in first["corruptions"]],
        )
    if "cross" in report:
        cross = report["cross"]
        print(
            f"\naccuracy of the row's agent on {cross['attack']} examples ({cross['threat']}) crafted on the column's agent"
        )
        matrix = zip(cross["agents"], cross["accuracy"], strict=True)
        table(["agent", *(f"on {a}" for a in cross["agents"])], [[a, *map(percent, row)] for a, row in matrix])
    print(
        f"\n{first['n']} test images of {report['data']}; robust = right on the clean image and after every attack of the row"
    )
    print(f"results: {relative(report['report'])}")
