"""A certificate of reproducibility: one committed interval of training, carried out again and compared in bytes.

The manifests form a chain: each names the sha256 of the one before it, of the configuration and of the data. An interval
between two kept checkpoints is trained again in this process, from the earlier one, and must give the files of the later.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.evaluation.verify import Verdict, evaluation
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.team import assemble
from sparring.cluster.team.team import save_now


def run(
    folder: RunFolder, interval: str = "random", *, seed: int | None = None
) -> tuple[Verdict, tuple[int, int] | None]:
    """Check the chain of a run, then carry out one interval again.

    Args:
        interval: ``random``, or ``A:B`` with the steps of two neighbouring checkpoints.
        seed: of the random choice.

    Returns:
        What is wrong, and the interval (None when the chain is broken already).

    Raises:
        UsageError: no such interval.
    """
    verdict = Verdict()
    verdict.problems += chain(folder)
    if verdict.problems:
        return verdict, None
    start, end = choose(folder, interval, seed)
    verdict.problems += again(folder, start, end)
    return verdict, (start, end)


def chain(folder: RunFolder) -> list[str]:
    """Every file of every checkpoint, every link between manifests, configuration and data."""
    checkpoints, found = folder.checkpoints, []
    steps = checkpoints.committed()
    if not steps:
        return [f"{folder} has no committed checkpoint"]
    try:
        config = folder.config
        wanted = config.sha256
    except ValueError as error:
        return [f"config.yaml cannot be read: {error}"]
    for t in steps:
        wrong = checkpoints.problems(t)
        found += wrong
        if wrong:
            continue
        manifest = checkpoints.manifest(t)
        if manifest["origin"]["configuration"] != wanted:
            found.append(f"config.yaml is not the configuration of step {t} (its sha256 differs)")
        previous = manifest["previous"]
        if previous is None or previous["t"] not in steps:
            continue  # the first, or one whose predecessor is no longer kept
        sha = hashlib.sha256((checkpoints.path(previous["t"]) / "MANIFEST.json").read_bytes()).hexdigest()
        if sha != previous["manifest"]:
            found.append(
                f"the manifest of step {previous['t']} is not the one that step {t} followed (the chain is broken)"
            )
    best = checkpoints.folder / "best.json"
    if not found and (not best.is_file() or best.read_bytes() != to_json(checkpoints.manifest(steps[-1])["best"])):
        found.append(f"best.json is not what the manifest of step {steps[-1]} says")
    return found


def choose(folder: RunFolder, interval: str, seed: int | None) -> tuple[int, int]:
    """The steps at which the interval begins and ends."""
    checkpoints = folder.checkpoints
    steps = checkpoints.committed()
    pairs = [(p["t"], t) for t in steps if (p := checkpoints.manifest(t)["previous"]) is not None and p["t"] in steps]
    if not pairs:
        raise UsageError(f"{folder} keeps no two neighbouring checkpoints; train with --checkpoint.keep 2 or more")
    if interval == "random":
        return random.Random(seed).choice(pairs)
    for pair in pairs:
        if interval == f"{pair[0]}:{pair[1]}":
            return pair
    raise UsageError(
        f"--interval {interval} is not kept; kept are: {', '.join(f'{a}:{b}' for a, b in pairs)}, or write random"
    )


def again(folder: RunFolder, start: int, end: int) -> list[str]:
    """Train steps ``start`` to ``end`` in this process and compare metrics and every file."""
    if folder.config.lanes > 1:
        raise UsageError(
            f"{folder} was trained in {folder.config.lanes} lanes; an interval is executed again in one process, which has none"
        )
    config, checkpoints = folder.config.replace({"team": "local"}), folder.checkpoints
    recorded = {(m["t"], m["agent"]): m["values"] for m in folder.metrics() if start <= m["t"] < end}
    found = []
    with tempfile.TemporaryDirectory() as scratch, assemble.team_of(config) as team:
        data = next(iter(team.describe().values())).data_sha256
        if data != checkpoints.manifest(end)["origin"]["data"]:
            return [f"the training images here are not those of step {end} (their sha256 differs)"]
        team.restore(checkpoints.path(start) / "agents", timeout=config.call_timeout)
        for t in range(start, end):
            for agent, metrics in team.collect(team.submit(config.method, t), timeout=config.call_timeout).items():
                if recorded.get((t, agent)) != metrics.values:
                    found.append(f"metrics.jsonl: step {t} of {agent} is not what training it again gives")
        saved = save_now(team, end, Path(scratch), timeout=config.call_timeout)
    hashes = {f"agents/{agent}/{name}": sha for agent, files in saved.items() for name, sha in files.items()}
    for name, sha in checkpoints.manifest(end)["files"].items():
        if hashes.get(name) != sha:
            found.append(f"{checkpoints.path(end).name}/{name} is not what training from step {start} gives")
    return found


def need_run(path: Path) -> RunFolder:
    """A run's folder with at least one checkpoint."""
    folder = RunFolder.open(path)
    if not folder.checkpoints.committed():
        raise BrokenCheckpoint(f"{folder} has no committed checkpoint; train it with: sparring resume {folder}")
    return folder


def verify(path: Path, interval: str | None) -> dict[str, Any]:
    """What ``sparring verify`` answers for an evaluation or a run.

    Raises:
        UsageError: neither.
    """
    if (path / "settings.json").is_file():
        seen = evaluation(path)
        return {
            "evaluation": str(path),
            "witnesses": seen.witnesses,
            "rows": seen.rows,
            "only_in_their_block": seen.alone,
            "problems": seen.problems,
        }
    if not (path / "config.yaml").is_file():
        here = ", ".join(str(p.parent) for p in sorted(path.glob("evaluation/*/settings.json")))
        raise UsageError(
            f"{path} is neither an evaluation (no settings.json) nor a run (no config.yaml)"
            + (f"; evaluations in it: {here}" if here else ". Both are listed by: sparring runs")
        )
    folder = need_run(path)
    if interval is None:
        return {"run": str(path), "interval": None, "problems": chain(folder)}
    verdict, chosen = run(folder, interval)
    return {"run": str(path), "interval": chosen, "problems": verdict.problems}


def show(result: dict[str, Any]) -> None:
    """Every problem, or what was found whole."""
    for problem in result["problems"]:
        print(problem)
    if result["problems"]:
        print(f"{len(result['problems'])} problems")
    elif "evaluation" in result:
        print(
            f"whole: {result['witnesses']} witnesses of {result['rows']} rows lie in ball and box and are misclassified"
        )
        if result["only_in_their_block"]:
            print(
                f"{result['only_in_their_block']} of them on the boundary: judged alone, not in their block, they are right"
            )
    elif result["interval"] is None:
        print("whole: every file and link; --interval random also trains a part again and compares bytes")
    else:
        a, b = result["interval"]
        print(f"whole: steps {a} to {b}, trained again, give the same bytes")
