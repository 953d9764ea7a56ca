"""What a search has shown: search.parquet with every report, search.html drawn from it, TensorBoard's HParams."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparring.agents.checkpoint import write
from sparring.cluster.reports import charts, html
from sparring.cluster.search.settings import Search
from sparring.cluster.terminal import relative

Results = Sequence[Mapping[str, Any]]


def write_all(folder: Path, search: Search, results: Results, best: Mapping[str, Any] | None) -> None:
    """All of it; each file whole or absent."""
    rows = [
        {"trial": r["trial"], "status": r["status"], **made, **r["params"]} for r in results for made in r["reports"]
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    write(folder / "search.parquet", sink.getvalue().to_pybytes())
    hparams(folder / "tensorboard", search, results)
    write(folder / "search.html", page(folder.name, search, results, best).encode())


def hparams(folder: Path, search: Search, results: Results) -> None:
    """The trials as TensorBoard's HParams page compares them: searched settings, last report."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    for r in results:
        if r["reports"]:
            last = {k: v for k, v in r["reports"][-1].items() if k != "step"}
            with SummaryWriter(str(folder)) as board:
                board.add_hparams({k: r["params"][k] for k in search.spaces}, last, run_name=r["trial"])


def front(results: Results, first: str, second: str) -> list[Mapping[str, Any]]:
    """Trials that no other beats in both objectives at their last report (Pareto front), best in the first one first."""
    ended = [r for r in results if r["reports"]]
    last = {id(r): (r["reports"][-1][first], r["reports"][-1][second]) for r in ended}

    def beaten(r: Mapping[str, Any]) -> bool:
        a, b = last[id(r)]
        return any(x >= a and y >= b and (x, y) != (a, b) for x, y in last.values())

    return sorted((r for r in ended if not beaten(r)), key=lambda r: -last[id(r)][0])


def ranking(results: Results) -> list[Mapping[str, Any]]:
    """Trials by how far they came, then by their objective."""
    ended = [r for r in results if r["reports"]]
    return sorted(ended, key=lambda r: (-r["reports"][-1]["step"], -r["reports"][-1]["objective"]))


def page(name: str, search: Search, results: Results, best: Mapping[str, Any] | None) -> str:
    """Objective over steps, one chart per setting, a table of all trials, and the Pareto front of two objectives."""
    paths = sorted(search.spaces)
    lines = [(r["trial"], [(x["step"], x["objective"]) for x in r["reports"]]) for r in ranking(results)]
    share = not any("/" in part for part in search.objective.split(","))  # accuracies, not AGENT/TERM
    axes: Any = {"percent": share, "near": True}
    drawn = [charts.line_chart(f"{search.objective} while trials train", lines, x_label="step", **axes)]
    for path in paths:
        points = [(r["params"][path], r["reports"][-1]["objective"]) for r in results if r["reports"]]
        if all(isinstance(x, int | float) for x, _ in points):
            each = [(r["trial"], [(float(r["params"][path]), r["reports"][-1]["objective"])]) for r in ranking(results)]
            log = bool(getattr(search.spaces[path], "log", False))
            drawn.append(charts.line_chart(f"{search.objective} by {path}", each, x_label=path, log=log, **axes))
    header = ["trial", "status", "steps", search.objective, *paths]
    body = [[*cells(r), *(show(r["params"][p]) for p in paths)] for r in ranking(results)]
    parts = [
        _best(best, search),
        f'<div class="charts">{"".join(drawn)}</div>',
        html.table("All trials", header, body),
    ]
    objectives = search.objective.split(",")
    if len(objectives) == 2:
        a, b = objectives
        pareto = [
            [r["trial"], show(r["reports"][-1][a]), show(r["reports"][-1][b]), *(show(r["params"][p]) for p in paths)]
            for r in front(results, a, b)
        ]
        parts.append(html.table("Not beaten in both (Pareto front)", ["trial", a, b, *paths], pareto))
    return html.document(f"Sparring search: {name}", f'<section class="run">{"".join(parts)}</section>')


def cells(result: Mapping[str, Any]) -> list[str]:
    last = result["reports"][-1]
    return [result["trial"], result["status"], str(last["step"]), show(last["objective"])]


def show(value: Any) -> str:
    """A value in a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _best(best: Mapping[str, Any] | None, search: Search) -> str:
    if best is None:
        return "<p>No trial has reported yet.</p>"
    values = ", ".join(f"{k} = {show(v)}" for k, v in sorted(best["params"].items()))
    return (
        f"<p>Best: trial {best['trial']}, {escape(search.objective)} {show(best['reports'][-1]['objective'])}, with {escape(values)}. "
        "Its run is in <code>best/</code>; <code>sparring train -c best.yaml</code> repeats it. Robust: after "
        f"{escape(search.config.checkpoint.name)} on held-out images.</p>"
    )


def best_of(results: Results) -> Mapping[str, Any] | None:
    """The trial with the highest objective at its end; while none has ended, at the last report of those that came furthest."""
    reported = [r for r in results if r["reports"]]
    if not reported:
        return None
    furthest = max(r["reports"][-1]["step"] for r in reported)
    ended = [r for r in reported if r["status"] == "finished"]
    compared = ended or [r for r in reported if r["reports"][-1]["step"] == furthest]
    return max(compared, key=_objective)


def _objective(result: Mapping[str, Any]) -> float:
    """At its last report; one that is no number is below all others."""
    value = float(result["reports"][-1]["objective"])
    return -math.inf if math.isnan(value) else value


def summary(folder: Path, results: Results) -> dict[str, Any]:
    """What the command answers: the best trial, all others, where things are."""
    best = best_of(results)
    assert best is not None
    found = [{k: r[k] for k in ("trial", "status", "params")} | {"last": (r["reports"] or [None])[-1]} for r in results]
    return {
        "search": relative(folder),
        "best": {"trial": best["trial"], "params": best["params"], **best["reports"][-1]},
        "trials": found,
        "run": relative(folder / "best"),
        "config": relative(folder / "best.yaml"),
        "report": relative(folder / "search.html"),
    }


def show_summary(answer: dict[str, Any]) -> None:
    """The same for a person."""
    for r in sorted(answer["trials"], key=lambda r: -(r["last"] or {"objective": -1})["objective"]):
        values = "  ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in sorted(r["params"].items())
        )
        last = r["last"]
        reported = f"step {last['step']:>5}  objective {last['objective']:.4f}" if last else "nothing reported"
        print(f"{r['trial']}  {r['status']:8}  {reported}  {values}")
    print(
        f"\nbest: trial {answer['best']['trial']}, objective {answer['best']['objective']:.4f}; its run: {answer['run']}"
    )
    print(f"report: {answer['report']}\nrepeat it: sparring train -c {answer['config']}")


def copy_best(source: Path, target: Path) -> None:
    """Make ``target`` a copy of the best trial. One that is a copy already stays, and so does what was made of another one."""
    committed = [str(p.relative_to(source)) for p in source.rglob("COMMITTED")]
    names = ("config.yaml", "metrics.jsonl", *committed)
    if all((target / n).is_file() and (target / n).read_bytes() == (source / n).read_bytes() for n in names):
        return
    working = target.with_name("best.tmp")
    shutil.rmtree(working, ignore_errors=True)
    try:
        shutil.copytree(source, working, ignore=shutil.ignore_patterns("*.tmp", "run.lock"))
    except OSError:
        shutil.rmtree(working, ignore_errors=True)
        raise
    if (target / "evaluation").exists():
        number = next(i for i in range(1, 10**6) if not target.with_name(f"best-before-{i}").exists())
        target.rename(target.with_name(f"best-before-{number}"))
    shutil.rmtree(target, ignore_errors=True)
    working.rename(target)
