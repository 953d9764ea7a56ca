"""Runs side by side: which settings differ, and what they came to. Read from files alone, so it costs no torch.

config.yaml, env.json          -> settings that are not the same everywhere
checkpoints' manifests         -> best held-out accuracy
evaluation/NAME/report.json    -> accuracies on test images, with their intervals
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparring.cluster import terminal
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.runs.checkpoints import Checkpoints

ABSENT = "-"  # in place of a setting that a run does not have
MADE_BY = ("commit", "cpu", "versions")  # what stands in env.json beside the configuration and may matter


def compare(named: Sequence[Path], *, runs_dir: Path = Path("runs")) -> dict[str, Any]:
    """``runs`` (names), ``settings`` (path -> a value per run, where they differ), ``results`` (one row per run, network and evaluation).

    Raises:
        UsageError: fewer than two runs, or one that is none.
    """
    if len(named) < 2:
        raise UsageError("compare needs two runs or more: sparring compare RUN RUN")
    folders = [_folder(path, runs_dir) for path in named]
    settings = [_settings(folder) for folder in folders]
    paths = dict.fromkeys(path for own in settings for path in own)
    values = {path: [own.get(path, ABSENT) for own in settings] for path in paths}
    names = [str(folder) for folder in folders]
    return {
        "runs": names,
        "settings": {path: each for path, each in values.items() if any(value != each[0] for value in each)},
        "results": [
            row | {"run": name} for name, folder in zip(names, folders, strict=True) for row in _results(folder)
        ],
    }


def _folder(path: Path, runs_dir: Path) -> Path:
    for folder in (path, runs_dir / path):
        if (folder / "config.yaml").is_file():
            return folder
    raise UsageError(f"{path} is not a run (it has no config.yaml). List runs with: sparring runs")


def _settings(folder: Path) -> dict[str, Any]:
    """Every setting by its path."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config = dict(config)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UsageError(f"{folder}/config.yaml is no run's: {str(error).splitlines()[0]}") from error
    found = dict(_flat(config))
    try:
        environment = json.loads((folder / "env.json").read_bytes())
    except (OSError, ValueError):  # a run that has not begun
        return found
    return found | dict(_flat({key: environment.get(key) for key in MADE_BY}, "env"))


def _flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{within}.{key}" if within else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, path)
        else:
            yield path, value


def _results(folder: Path) -> Iterator[dict[str, Any]]:
    """What was measured, held-out first."""
    checkpoints = Checkpoints(folder / "checkpoints")
    steps = checkpoints.committed()
    try:
        best = checkpoints.manifest(steps[-1])["best"] if steps else {}
    except BrokenCheckpoint:
        best = {}  # fsck says what is wrong
    for agent, entry in best.items():
        yield {"agent": agent, "on": "held out", "measured": entry["metric"], "robust": entry["value"]}
    for path in sorted(folder.glob("evaluation/*/report.json")):
        report = json.loads(path.read_bytes())
        for agent, entry in report["agents"].items():
            for threat, own in entry["threats"].items():
                yield {
                    "agent": agent,
                    "on": f"test, n = {entry['n']}",
                    "measured": f"{', '.join(a for a in own['attacks'] if a != 'clean')} at {terminal.radius(threat)}",
                    "clean": entry["clean_accuracy"],
                    "robust": own["robust_accuracy"],
                    "ci95": own["ci95"],
                }


def show(result: dict[str, Any]) -> None:
    """Settings, then results."""
    names = [Path(run).name for run in result["runs"]]
    if result["settings"]:
        rows = [[path, *map(_shown, values)] for path, values in result["settings"].items()]
        terminal.table(["setting", *names], rows)
    else:
        print("every setting is the same")
    print()
    rows = []
    for row in result["results"]:
        clean = terminal.percent(row["clean"]) if "clean" in row else ""
        robust = (
            terminal.with_interval(row["robust"], row["ci95"]) if "ci95" in row else terminal.percent(row["robust"])
        )
        rows.append([f"{Path(row['run']).name}@{row['agent']}", row["on"], row["measured"], clean, robust])
    if rows:
        terminal.table(["network", "images", "measured by", "clean", "robust [95 %]"], rows)
    print(f"\ncurves side by side: {terminal.command()} report {' '.join(result['runs'])}")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
