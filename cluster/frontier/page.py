"""frontier.html: robust accuracy against cost, the table, what to take; every point leads to its run."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from sparring.cluster.frontier.results import amount, sentence
from sparring.cluster.reports import charts, html
from sparring.cluster.terminal import percent, radius, with_interval


def page(name: str, found: Mapping[str, Any]) -> str:
    """The page of a frontier.json."""
    rows = [r for r in found["rows"] if "robust" in r]
    methods = list(dict.fromkeys(r["method"] for r in found["rows"]))
    label = "device-seconds of training" if found["unit"] == "seconds" else "forward passes of training"
    threats = ("union of " if len(found["threats"]) > 1 else "") + ", ".join(map(radius, found["threats"]))
    drawn = ""
    for key, title in (("robust", f"Robust accuracy, {threats}"), ("clean", "Clean accuracy")):
        each = {m: sorted((r for r in rows if r["method"] == m), key=lambda r: float(r["budget"])) for m in methods}
        lines = [(m, [(r["budget"], r[key]) for r in own]) for m, own in each.items() if own]
        links = [[f"{r['runs'][0]['run']}/" for r in own] for own in each.values() if own]
        drawn += charts.line_chart(title, lines, x_label=label, percent=True, near=True, log=True, links=links)
    parts = [
        f"<p>{escape(_about(found))}</p>",
        f'<div class="charts">{drawn}</div>',
        "<h3>What to take</h3><ul>" + "".join(f"<li>{escape(sentence(a))}</li>" for a in found["advice"]) + "</ul>",
        _table(found),
        _teachers(found),
    ]
    return html.document(f"Sparring frontier: {name}", f'<section class="run">{"".join(parts)}</section>')


def _about(found: Mapping[str, Any]) -> str:
    unit = (
        "A device-second is a second in which a run holds one GPU, or where it has none one CPU core"
        if found["unit"] == "seconds"
        else "A pass is as much arithmetic as one forward pass of the product's network over a batch: plain training takes 3 a step"
    )
    return (
        f"Each method was trained for each budget with {found['seeds']} seed{'s' if found['seeds'] > 1 else ''}, its schedule stretched to what "
        f"fits, as measured beforehand; its best checkpoint on held-out images was attacked by {', '.join(a for a in found['attacks'] if a != 'clean')} on "
        f"{found['n']} test images of {found['data']}. {unit}. Means over seeds and products; brackets are 95 % intervals over test images."
    )


def _table(found: Mapping[str, Any]) -> str:
    front = {(r["method"], r["budget"]) for r in found["not_beaten"]}
    unit = "device-seconds" if found["unit"] == "seconds" else "passes"
    body = []
    for r in found["rows"]:
        runs = " ".join(_link(run) for run in r["runs"])
        head = [escape(r["method"]), f"{r['budget']:g}", f"{r['epochs']:.1f}"]
        if "robust" not in r:
            why = next((x["failed"] for x in r["runs"] if "failed" in x), "not done yet")
            body.append([*head, "", escape(why), "", runs])
            continue
        robust = with_interval(r["robust"], r["robust_ci95"])
        kept = (r["method"], r["budget"]) in front
        alarms = sorted({a.partition(" of ")[0] for run in r["runs"] for a in run.get("alarms", [])})
        body.append(
            [
                *head,
                with_interval(r["clean"], r["clean_ci95"]),
                f"<strong>{robust}</strong> *" if kept else robust,
                escape(", ".join(alarms)),
                runs,
            ]
        )
    caption = "Everything that was bought. *: none is as robust for less"
    return html.table(caption, ["method", unit, "epochs", "clean", "robust", "monitors", "runs by seed"], body)


def _link(run: Mapping[str, Any]) -> str:
    text = f"{run['seed']}: {percent(run['robust'])}" if "robust" in run else f"{run['seed']}: -"
    return f'<a href="{escape(run["run"])}/">{text}</a>'


def _teachers(found: Mapping[str, Any]) -> str:
    if not found["teachers"]:
        return ""
    body = [
        [escape(t["run"]), escape(", ".join(t["of"])), amount(round(t["cost"], 1), found["unit"])]
        for t in found["teachers"]
    ]
    return html.table("Teachers, trained once and not counted above", ["run", "used by", "cost"], body)


def file(folder: Path) -> Path:
    """Where the page is."""
    return folder / "frontier.html"
