"""What a search for MTARD's temperature chooses by each measure of held-out networks, and what AutoAttack says of the winners.

python benchmarks/measures.py [--seeds 3] [--epochs N] [--examples N] [--runs DIR] [--save]

One search per seed, whose trials all run to their end, so that their training does not depend on the measure: every trial's last
checkpoint is compared on the held-out images by each. Robust, clean and w-robust are what ``sparring tune`` would see. With --runs an
interrupted measurement goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import circumstances, evaluated, save

from sparring.agents.robustness import Judging, accuracies, fitting_threads
from sparring.cluster.config.recipes import needs, recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.machines import session
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs import images
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.search import search
from sparring.cluster.search.settings import Search
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.search import Choice

MEASURES = ("pgd", "scaled-pgd")
TEMPERATURES = (1, 2, 3, 5, 7, 10)  # MTARD keeps it within 1 to 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=recipe("mtard").epochs)
    parser.add_argument("--temperatures", type=int, nargs="+", default=TEMPERATURES)
    parser.add_argument("--examples", type=int, help="test images under AutoAttack; default all")
    parser.add_argument("--runs", type=Path, help="keep the searches in this folder")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/measures.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    session.start(num_cpus=2, object_store_memory=256 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        runs = args.runs or Path(folder)
        found = [one_seed(runs / f"seed-{seed}", seed, args) for seed in range(args.seeds)]
    record = {
        **circumstances(seed=0),
        "n": args.seeds,
        "epochs": args.epochs,
        "temperatures": args.temperatures,
        "images": args.examples or len(load_test(recipe("mtard").data)),
        "seeds": found,
    }
    print(save("measures", record) if args.save else json.dumps(record))


def one_seed(runs: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Every trial by every measure, and each measure's winner under AutoAttack."""
    changes: dict[str, Any] = {"team": "local", "seed": seed, "epochs": args.epochs}
    for role, name in needs(recipe("mtard")).items():
        teacher = recipe(name).replace({"team": "local", "seed": seed, "epochs": args.epochs})
        run = launch.train(teacher, runs_dir=runs, name=name, resume_if_exists=True, how=Circumstances(quiet=True))
        changes[f"agents.{role}.init"] = str(run.path)
    config = recipe("mtard").replace(changes)
    asked = Search(
        config=config,
        spaces={"method.temperature": Choice(tuple(args.temperatures))},
        trials=len(args.temperatures),
        sampler="grid",
        scheduler="fifo",
    )
    folder = search.tune(asked, runs_dir=runs, name="search", resume=(runs / "search").exists())
    trials = [RunFolder(path) for path in sorted((folder / "trials").iterdir())]
    seen = [compared(trial) for trial in trials]
    winners = {}
    for measure in MEASURES:
        best = max(range(len(trials)), key=lambda i: seen[i][measure]["w_robust"])
        winners[measure] = {"trial": best, **under_autoattack(trials[best], args.examples)}
    print(seed, json.dumps(winners), file=sys.stderr, flush=True)
    return {"seed": seed, "trials": seen, "winners": winners}


def compared(trial: RunFolder) -> dict[str, Any]:
    """The last checkpoint on the held-out images, as an agent compares it, by each measure."""
    config = trial.config
    dataset = images.prepare(config.data, quiet=True).load()
    _, held_out = dataset.held_out(config.data.validation, seed=config.seed, fraction=config.data.fraction)
    model, _ = load_agent(trial, "student", checkpoint="last")
    found: dict[str, Any] = {"temperature": temperature(config)}
    for measure in MEASURES:
        by = replace(config.measure, loss=measure)
        with fitting_threads(model):
            seen = accuracies(model, held_out, by, Judging(seed=config.seed), own=config.attack)
        found[measure] = {"clean": seen.clean, "robust": seen.robust, "w_robust": (seen.clean + seen.robust) / 2}
    return found


def temperature(config: RunConfig) -> float:
    """Of the method."""
    return float(config.method.temperature)


def under_autoattack(trial: RunFolder, examples: int | None) -> dict[str, float]:
    """Clean accuracy and accuracy after AutoAttack on test images."""
    threat = str(trial.config.threats[0])
    asked = {"attacks": ["clean", "autoattack"], "threats": [threat], "examples": examples, "masking": 0}
    found = evaluated(trial.path, "autoattack", checkpoint="last", **asked)["student"]
    return {"clean": found["clean_accuracy"], "autoattack": found["threats"][threat]["attacks"]["autoattack"]}


if __name__ == "__main__":
    main()
