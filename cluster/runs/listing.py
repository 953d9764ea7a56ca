"""What there is: runs, methods, the state of a run's checkpoints."""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sparring.cluster import terminal
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.runs import places, remote
from sparring.cluster.runs.checkpoints import Checkpoints
from sparring.cluster.runs.lock import is_running
from sparring.cluster.terminal import relative

METHODS = terminal.HOME / "trainers" / "methods"
TABLE = terminal.HOME / "cluster" / "config" / "recipes.json"


def runs(runs_dir: Path) -> list[dict[str, Any]]:
    """Every run in a folder, or in a place by its URI: name, method, last committed step, best held-out accuracy per agent, locked
    or not; when it was begun is not known of a run elsewhere.
    """
    uri = places.uri_of(runs_dir)
    if uri is not None:
        with tempfile.TemporaryDirectory() as folder:
            names = remote.heads(uri, Path(folder))
            here = runs(Path(folder))
        return [{**run, "run": names[Path(run["run"]).name], "begun": None} for run in here]
    found: list[dict[str, Any]] = []
    for config in sorted(runs_dir.glob("*/config.yaml")):
        path = config.parent
        checkpoints = Checkpoints(path / "checkpoints")
        steps = checkpoints.committed()
        try:
            method = str(yaml.safe_load(config.read_text())["method"]["name"])
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            found.append({"run": str(path), "strange": "its config.yaml is no run's"})
            continue
        try:
            best = checkpoints.manifest(steps[-1])["best"] if steps else {}
        except BrokenCheckpoint:
            best = {}  # the other runs are still worth listing; fsck says what is wrong with this one
        found.append(
            {
                "run": str(path),
                "method": method,
                "step": steps[-1] if steps else None,
                "best": {agent: entry["value"] for agent, entry in best.items()},
                "metric": next((entry["metric"] for entry in best.values()), "robust"),
                "running": is_running(path),
                "begun": config.stat().st_mtime,
            }
        )
    return found


def chosen(found: list[dict[str, Any]], words: Sequence[str], sort: str) -> list[dict[str, Any]]:
    """Those with every word in their name or method; by name or method, or the largest first by step, best accuracy or begin.

    What has no such value comes last.
    """
    kept = [r for r in found if all(w in Path(r["run"]).name or w in r.get("method", "") for w in words)]
    if sort in ("name", "method"):
        return sorted(kept, key=lambda r: (r.get("method", "~") if sort == "method" else "", r["run"]))

    def value(run: dict[str, Any]) -> float:
        if sort == "best":
            return max(run.get("best", {}).values(), default=-1.0)
        own = run.get(sort)
        return -1.0 if own is None else float(own)

    return sorted(kept, key=lambda r: (-value(r), r["run"]))


def show_runs(result: dict[str, Any], words: Sequence[str] = ()) -> None:
    """As a table; ``words`` that were asked for."""
    if not result["runs"]:
        print(
            f"no run here has {' and '.join(map(repr, words))} in its name or method"
            if words
            else f"no runs here; make one with: {terminal.command()} demo"
        )
        return
    rows = []
    for r in result["runs"]:
        if "strange" in r:
            rows.append([r["run"], "?", "-", "-", r["strange"]])
            continue
        step = "-" if r["step"] is None else str(r["step"])
        best = [f"{agent} {terminal.percent(value)} {r['metric']}" for agent, value in r["best"].items()]
        running = "running" if r["running"] else ""
        rows.append([r["run"], Path(r["method"]).stem, step, ", ".join(best) or "-", running])
    terminal.table(["run", "method", "saved step", "best held-out accuracy", ""], rows)


def methods() -> dict[str, str]:
    """Name -> first line of the file's docstring, read without importing it."""
    files = [f for f in sorted(METHODS.glob("*.py")) if f.stem not in ("__init__", "base")]
    return {f.stem: (ast.get_docstring(ast.parse(f.read_text())) or "").partition("\n")[0] for f in files}


def show_methods(result: dict[str, Any]) -> None:
    """One line per method."""
    for name, line in result["methods"].items():
        print(f"{name:10} {line}")


def fsck(run: Path) -> dict[str, Any]:
    """Committed steps of a run and every missing or altered file.

    Raises:
        UsageError: not a run.
    """
    if not (run / "config.yaml").is_file():
        raise UsageError(f"{run} is not a run (it has no config.yaml). List runs with: sparring runs")
    checkpoints = Checkpoints(run / "checkpoints")
    steps = checkpoints.committed()
    problems = {t: checkpoints.problems(t) for t in steps}
    whole = [t for t in steps if not problems[t]]
    return {
        "run": str(run),
        "steps": steps,
        "problems": [p for wrong in problems.values() for p in wrong],
        "newest_whole": whole[-1] if whole else None,
    }


def show_fsck(report: dict[str, Any]) -> None:
    """What was found and what to do."""
    for problem in report["problems"]:
        print(problem)
    steps = ", ".join(map(str, report["steps"])) or "none"
    if not report["problems"]:
        print(f"{report['run']}: committed steps {steps}; all whole")
    elif report["newest_whole"] is not None:
        print(
            f"the newest whole checkpoint is step {report['newest_whole']}; go on from it with: {terminal.command()} resume {report['run']}"
        )
    else:
        print("no checkpoint is whole")


def show_finished(result: dict[str, Any]) -> None:
    """Held-out accuracy per agent and the next command."""
    rows = [[a, terminal.percent(v["clean"]), terminal.percent(v["robust"])] for a, v in result["agents"].items()]
    terminal.table(["on images held out of training", "clean", "robust"], rows)
    run = relative(result["run"])
    print("\nat the last checkpoint; 'evaluate' and the report take the best one and the test images")
    page = f"\nreport: {relative(result['report'])}" if result.get("report") else ""
    print(f"\nrun folder: {run}{page}\nnext: {terminal.command()} evaluate {run}")


def about(config: Any) -> dict[str, Any]:
    """What stands beside a recipe: the recipes of the teachers it needs, published results, its source and what differs from it."""
    from sparring.cluster.config import recipes

    source, differs = recipes.source(config.recipe)
    return {
        "needs": recipes.needs(config),
        "published": list(recipes.results(config.recipe)),
        "source": source,
        "differs": list(differs),
    }


def comments(about: dict[str, Any]) -> str:
    """The same as lines of YAML comments."""
    lines = [f"# needs {role}: {name}" for role, name in about["needs"].items()]
    lines += [f"# published: {text}" for text in about["published"]]
    lines += [f"# source: {about['source']}"] if about["source"] else []
    lines += [f"# differs: {text}" for text in about["differs"]]
    return "".join(line + "\n" for line in lines)


def recipes() -> list[dict[str, Any]]:
    """Name, network, length and threats of every recipe: from a table beside them, which needs no torch, as long as the methods are
    those that it was made from."""
    known = json.loads(TABLE.read_bytes())
    if known["methods"] == list(methods()):
        return list(known["recipes"])
    return listed()


def listed() -> list[dict[str, Any]]:
    """The same from the recipes themselves."""
    from sparring.cluster.config.recipes import RECIPES, recipe

    configs = {name: recipe(name) for name in sorted(RECIPES)}
    return [
        {"name": name, "network": c.network, "epochs": c.epochs, "threats": list(map(str, c.threats))}
        for name, c in configs.items()
    ]


def show_recipes(result: dict[str, Any]) -> None:
    """Name, network and length of each."""
    width = max(len(r["name"]) for r in result["table"])
    for r in result["table"]:
        print(
            f"{r['name']:{width}}  {r['network']}, {r['epochs']} epochs, {', '.join(map(terminal.radius, r['threats']))}"
        )
