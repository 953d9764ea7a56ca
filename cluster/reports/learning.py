"""How a run learnt: the part of its page that shows training."""

from __future__ import annotations

from html import escape
from pathlib import Path
from statistics import fmean

from sparring.cluster.reports import charts
from sparring.cluster.reports.html import table
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.terminal import percent
from sparring.trainers import methods


def curves(folder: RunFolder) -> str:
    """Held-out accuracy, the loss, its terms, weights and temperatures over the steps, and what each term weighs."""
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in folder.metrics():
        for name, value in line["values"].items():
            series.setdefault(name, {}).setdefault(line["agent"], []).append((line["t"] + 1, value))
    held: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for line in folder.lines("validation.jsonl"):
        for name in ("robust", "clean"):
            held.setdefault((line["agent"], name), []).append((line["t"], line[name]))
    agents = list(dict.fromkeys(agent for agent, _ in held))
    styles = [(agents.index(agent), name == "clean") for agent, name in held]  # a colour is an agent, dashes are clean
    lines = [(" ".join(key), points) for key, points in held.items()]
    title = f"Held-out accuracy, {folder.config.checkpoint.name}"
    shown = [charts.line_chart(title, lines, x_label="step", percent=True, styles=styles)]
    for name in ("total", *(k for k in series if k not in ("total", "lr"))):
        lines = [(agent, charts.thinned(points)) for agent, points in series.get(name, {}).items()]
        title = "Loss (total)" if name == "total" else name.replace("_", " ").capitalize()
        shown.append(charts.line_chart(title, lines, x_label="step", percent=name.endswith("accuracy")))
    shown += _shares(folder)
    name = Path(methods.name_of(folder.config.method)).stem
    about = f"Terms, weights and temperatures have the names of the method's file, {name}.py; see docs/methods.md."
    return "".join(shown) + f'<p class="quiet">{escape(about)}</p>'


def _shares(folder: RunFolder) -> list[str]:
    """What each term is of the gradient, where a loss has several, and a table of the means of both shares."""
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    loss: dict[tuple[str, str], list[float]] = {}
    for line in folder.metrics():
        for term, share in line.get("shares", {}).items():
            series.setdefault((line["agent"], term), []).append((line["t"] + 1, share["gradient"]))
            loss.setdefault((line["agent"], term), []).append(share["loss"])
    if not series:
        return []
    terms = list(dict.fromkeys(term for _, term in series))
    agents = list(dict.fromkeys(agent for agent, _ in series))
    styles = [(terms.index(term), agents.index(agent) > 0) for agent, term in series]  # a colour is a term
    lines = [(" ".join(key), charts.thinned(points)) for key, points in series.items()]
    chart = charts.line_chart("Share of each term in the gradient", lines, x_label="step", percent=True, styles=styles)
    rows = [
        [escape(agent), escape(term), percent(fmean(loss[agent, term])), percent(fmean(y for _, y in points))]
        for (agent, term), points in series.items()
    ]
    caption = "What each term is of the loss and of the gradient (sizes of the weighed terms, lengths of their gradients; means over the run)"
    return [chart, table(caption, ["agent", "term", "of the loss", "of the gradient"], rows)]
