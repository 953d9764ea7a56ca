"""``report.html``: one self-contained page per run, or several runs side by side. Every number comes from report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.evaluation import analysis
from sparring.cluster.reports import charts, learning
from sparring.cluster.reports.html import document, table
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.terminal import once, percent, radius, with_interval
from sparring.trainers.files import naming

WORST = 8  # pairs of classes listed when the confusion table would be too wide


def make(folder: RunFolder, **asked: Any) -> Path:
    """Compute report.json of a run (``asked``: of :func:`analysis.analyse`) and draw report.html from it; the page's path."""
    numbers = analysis.analyse(folder, **asked)
    write(folder.path / "report.json", to_json(numbers))
    path = folder.path / "report.html"
    write(path, page([folder]).encode())
    with once("tensorboard"), naming(folder.path / "tensorboard"):
        _to_tensorboard(folder, numbers)
    return path


def _to_tensorboard(folder: RunFolder, numbers: Mapping[str, Any]) -> None:
    """The gallery's images and the matrix, in a folder of their own: of two files of events in one folder, TensorBoard's reader
    leaves the older one when the newer one is there, and a run that goes on would not be seen any more."""
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    step = max(a["checkpoint"] for a in numbers["agents"].values())
    board = SummaryWriter(str(folder.path / "tensorboard" / "report"))
    for agent, shown in numbers["gallery"].items():
        for kind in ("clean", "adversarial") if shown["images"] else ():
            images = np.asarray([item[kind] for item in shown["images"]], dtype=np.uint8)
            board.add_images(f"{kind}/{agent}", images, step, dataformats="NHWC")
    cross = numbers["cross"]
    matrix = np.asarray(cross["accuracy"])[..., None]
    board.add_image("cross_accuracy", matrix.repeat(16, 0).repeat(16, 1), step, dataformats="HWC")
    rows = [[a, *(percent(v) for v in row)] for a, row in zip(cross["agents"], cross["accuracy"], strict=True)]
    lines = [["", *(f"on {a}" for a in cross["agents"])], ["---"] * (len(rows) + 1), *rows]
    board.add_text("cross_accuracy", "\n".join("| " + " | ".join(line) + " |" for line in lines), step)
    board.close()


def page(folders: Sequence[RunFolder]) -> str:
    """The page of one run, or of several side by side, from their report.json."""
    title = "Sparring report: " + ", ".join(f.path.name for f in folders)
    sections = "".join(f'<section class="run">{_run(folder)}</section>' for folder in folders)
    joint = _joint(folders) if len(folders) > 1 else ""
    return document(title, f'{joint}<div class="runs">{sections}</div>')


def _run(folder: RunFolder) -> str:
    numbers = json.loads((folder.path / "report.json").read_text())
    parts = [
        f"<h2>{escape(numbers['run'])}</h2>",
        _ended(folder),
        _summary(numbers),
        _alarms(folder),
        f'<h3>Training</h3><div class="charts">{learning.curves(folder)}</div>',
        f'<h3>Strength of the attack</h3><div class="charts">{_curve(numbers)}</div>',
        _cross(numbers),
        _gallery(numbers),
        _confusion(numbers),
        _details(folder),
    ]
    return "".join(parts)


def _joint(folders: Sequence[RunFolder]) -> str:
    """All agents of all runs in one table, and their curves in one chart."""
    rows, lines = [], []
    for folder in folders:
        numbers = json.loads((folder.path / "report.json").read_text())
        for name, a in numbers["agents"].items():
            entry = a["threats"][numbers["threat"]]
            label = f"{numbers['run']} {name}"
            clean = with_interval(a["clean_accuracy"], a["clean_ci95"])
            robust = with_interval(entry["robust_accuracy"], entry["ci95"])
            rows.append([escape(label), escape(radius(numbers["threat"])), str(numbers["n"]), clean, robust])
            lines.append((label, [(p["eps"], p["accuracy"]) for p in a["curve"]]))
    chart = charts.line_chart(f"Accuracy under {numbers['attack'].upper()}", lines, x_label="eps", percent=True)
    header = ["run and agent", "threat", "n", "clean", "robust"]
    beside = table("Side by side, each under its own threat", header, rows)
    return f'{beside}<div class="charts">{chart}</div><p class="quiet">Each curve ends at twice the eps of its own run.</p>'


def _summary(numbers: Mapping[str, Any]) -> str:
    rows = []
    for name, a in numbers["agents"].items():
        entry = a["threats"][numbers["threat"]]
        attacks = [percent(entry["attacks"][k]) for k in ("fgsm", numbers["attack"])]
        label = escape(name) + ("" if a["product"] else " <small>(not a product)</small>")
        robust = f"<strong>{with_interval(entry['robust_accuracy'], entry['ci95'])}</strong>"
        rows.append(
            [label, str(a["checkpoint"]), with_interval(a["clean_accuracy"], a["clean_ci95"]), *attacks, robust]
        )
    caption = (
        f"{numbers['checkpoint'].capitalize()} checkpoint of each agent, {numbers['n']} of {numbers['n_test']} test images, threat {escape(radius(numbers['threat']))}, seed {numbers['seed']}; brackets are "
        "95 % intervals. Robust: right on the clean image and after every attack."
    )
    return table(caption, ["agent", "step", "clean", "FGSM", numbers["attack"].upper(), "robust"], rows)


def _alarms(folder: RunFolder) -> str:
    alarms = folder.lines("alarms.jsonl")
    if not alarms:
        return '<p class="quiet">No monitor raised an alarm.</p>'
    items = "".join(
        f"<li><strong>{escape(a['name'])}</strong> of {escape(a['agent'])} at step {a['t']}: {escape(a['text'])}</li>"
        for a in alarms
    )
    return f'<div class="alarm" role="alert"><h3>Monitors</h3><ul>{items}</ul></div>'


def _curve(numbers: Mapping[str, Any]) -> str:
    lines = [(name, [(p["eps"], p["accuracy"]) for p in a["curve"]]) for name, a in numbers["agents"].items()]
    norm = numbers["threat"].partition(":")[0]
    return charts.line_chart(
        f"Accuracy under {numbers['attack'].upper()}", lines, x_label=f"eps ({norm})", percent=True
    )


def _cross(numbers: Mapping[str, Any]) -> str:
    cross = numbers["cross"]
    if len(cross["agents"]) == 1:
        return ""  # it would repeat the table
    rows = []
    for name, values, intervals in zip(cross["agents"], cross["accuracy"], cross["ci95"], strict=True):
        cells = [
            f'<span class="cell" style="{charts.heat(v)}" title="{with_interval(v, ci)}">{percent(v)}</span>'
            for v, ci in zip(values, intervals, strict=True)
        ]
        rows.append([escape(name), *cells])
    caption = f"Accuracy of the row's agent on {numbers['attack'].upper()} examples crafted on the column's agent."
    return "<h3>Who fools whom</h3>" + table(caption, ["agent", *(f"crafted on {a}" for a in cross["agents"])], rows)


def _gallery(numbers: Mapping[str, Any]) -> str:
    names, parts = numbers["classes"], []
    for agent, shown in numbers["gallery"].items():
        figures = []
        for item in shown["images"]:
            label, before, after, rounded = (
                escape(names[item[k]])
                for k in ("label", "predicted_clean", "predicted_adversarial", "predicted_rounded")
            )
            delta, factor = charts.difference(item["clean"], item["adversarial"])
            images = "".join(
                charts.image(pixels, alt=alt)
                for pixels, alt in (
                    (item["clean"], f"clean image of {label}"),
                    (delta, f"perturbation times {factor:.0f}"),
                    (item["adversarial"], f"adversarial image, read as {after}"),
                )
            )
            kind = "bad" if item["predicted_adversarial"] != item["label"] else "good"
            text = f"{label}: read as {before}, attacked <b class='{kind}'>{after}</b>" + (
                "" if rounded == after else f", 8-bit {rounded}"
            )
            figures.append(f'<figure class="triple">{images}<figcaption>{text}</figcaption></figure>')
        rates = (
            f"Of all images {percent(shown['fooled'])} were right before the attack and wrong after it; "
            f"{percent(shown['fooled_after_rounding'])} after rounding to 8 bits. Fooled ones come first."
        )
        parts.append(f'<h4>{escape(agent)}</h4><p>{rates}</p><div class="gallery">{"".join(figures)}</div>')
    return "<h3>Examples: clean, perturbation (magnified), adversarial</h3>" + "".join(parts)


def _confusion(numbers: Mapping[str, Any]) -> str:
    names = numbers["classes"]
    parts = []
    for agent, a in numbers["agents"].items():
        for kind in ("clean", "adversarial"):
            counts = a["confusion"][kind]
            caption = f"{escape(agent)}, {kind} images: rows are labels, columns predictions"
            if len(names) <= 12:
                rows = [
                    [
                        escape(n),
                        *(f'<span class="cell" style="{charts.heat(c / max(sum(row), 1))}">{c}</span>' for c in row),
                    ]
                    for n, row in zip(names, counts, strict=True)
                ]
                parts.append(table(caption, ["label", *names], rows))
                continue
            pairs = [(c, i, j) for i, row in enumerate(counts) for j, c in enumerate(row) if i != j and c]
            worst = sorted(pairs, reverse=True)[:WORST]
            rows = [[f"{escape(names[i])} as {escape(names[j])}", str(c)] for c, i, j in worst]
            parts.append(table(f"{escape(agent)}, {kind} images: most frequent confusions", ["pair", "images"], rows))
    return f'<h3>Confusions</h3><details><summary>Show the tables</summary><div class="charts">{"".join(parts)}</div></details>'


def _ended(folder: RunFolder) -> str:
    """Why the run stopped before its end."""
    ended = folder.environment.get("ended")
    if not ended:
        return ""
    return f"<p>Ended after step {ended['step']}, {escape(ended['when'])}: {escape(ended['what'])}</p>"


def _details(folder: RunFolder) -> str:
    env = folder.environment
    where = [
        [escape(n), escape(f"{a['host']}, {a['device']}, process {a['pid']}"), f"{a['parameters']:,}"]
        for n, a in env["agents"].items()
    ]
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items() if v)
    config = escape((folder.path / "config.yaml").read_text())
    return (
        "<h3>Configuration and environment</h3>"
        + table(
            f"Who ran where. {escape(versions)}; commit {escape(str(env['commit']))}",
            ["agent", "place", "parameters"],
            where,
        )
        + f"<details><summary>config.yaml</summary><pre>{config}</pre></details>"
    )
