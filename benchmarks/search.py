"""Searches on digits with two cores: what they take, that their best runs are repeated, and what sampling, stopping and sharing gain.

python benchmarks/search.py [--only asha tpe pbt planted shared] [--trials 8] [--epochs N] [--seeds 10] [--rounds 2] [--save]

asha, tpe: MTARD's temperatures and weights; pbt: MAT's alpha and temperature. planted: a method whose best settings are known
(tests/planted.py), TPE against random draws at equal budget, ASHA against whole runs. shared: the same MTARD search with and
without shared teachers, the clean one much larger than the student.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from common import circumstances, save
from scipy.stats import wilcoxon

from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import needs, recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.machines import session
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.search import report as search_report
from sparring.cluster.search import search
from sparring.cluster.search.objective import reports
from sparring.cluster.search.results import results_of
from sparring.cluster.search.settings import Search
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.search import Space, Uniform
from tests.helpers import bytes_of, chosen, planted

PBT: dict[str, Space] = {"method.alpha": Uniform(0, 1), "method.temperature": Uniform(1, 10)}
TEACHER = "resnet18"  # the clean one of "shared"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("asha", "tpe", "pbt", "planted", "shared")
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=recipe("mtard").epochs)
    parser.add_argument("--seeds", type=int, default=10, help="of the planted searches")
    parser.add_argument("--rounds", type=int, default=2, help="of shared teachers: pairs of searches")
    parser.add_argument("--steps", type=int, default=150, help="of a trial with shared teachers")
    parser.add_argument("--teacher", default=TEACHER, help="clean teacher of the shared searches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/search.json")
    args = parser.parse_args()
    result: dict[str, Any] = {**circumstances(seed=args.seed), "n": args.trials, "epochs": args.epochs}
    session.start(num_cpus=2, object_store_memory=256 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            result[part] = PARTS[part](Path(folder) / part, args)
            print(part, json.dumps(result[part]), file=sys.stderr, flush=True)
    print(save("search", result) if args.save else json.dumps(result))


def by_halving(runs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """MTARD, random draws, ASHA."""
    return measured(with_teachers(runs, args), runs, trials=args.trials)


def by_tpe(runs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """MTARD, Optuna's draws, ASHA."""
    return measured(with_teachers(runs, args), runs, trials=args.trials, sampler="tpe")


def by_population(runs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """MAT, whose alpha and temperature change while it trains."""
    config = recipe("mat").replace({"team": "local", "seed": args.seed, "epochs": args.epochs})
    return measured(config, runs, trials=args.trials, scheduler="pbt", spaces=PBT)


def measured(config: RunConfig, runs: Path, *, trials: int, **options: Any) -> dict[str, Any]:
    """A search, its time, and whether ``best.yaml`` repeats its best run."""
    asked = Search(**{"config": config, "spaces": config.method.SEARCH, "trials": trials, **options})
    started = time.perf_counter()
    folder = search.tune(asked, runs_dir=runs, name="search")
    seconds = time.perf_counter() - started
    best = search_report.best_of(results_of(folder))
    assert best is not None
    again = launch.train(
        run_config.load(folder / "best.yaml"), runs_dir=runs, name="again", how=Circumstances(quiet=True)
    )
    found = results_of(folder)
    return {
        "seconds": round(seconds, 1),
        "steps": [r["reports"][-1]["step"] for r in found],
        "objective": [r["reports"][-1]["objective"] for r in found],
        "changes": [len(RunFolder(p).config.changes) for p in sorted((folder / "trials").iterdir())],
        "best": {"params": best["params"], **best["reports"][-1]},
        "repeated": reports(RunFolder(again.path), asked.objective)[-1] == best["reports"][-1],
    }


def on_planted(runs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What searches choose comes to, in the known optimum's share; the paired test is Wilcoxon's, one-sided."""
    found: dict[str, list[float]] = {"random": [], "tpe": []}
    for seed in range(args.seeds):
        for sampler, values in found.items():
            asked = planted(steps=2, every=2, seed=seed, scheduler="fifo", sampler=sampler, trials=24, concurrent=1)
            values.append(chosen(search.tune(asked, runs_dir=runs, name=f"{sampler}-{seed}")))
    halving: dict[str, list[float]] = {"asha": [], "fifo": []}
    steps: dict[str, list[int]] = {"asha": [], "fifo": []}
    for seed in range(args.seeds):
        for scheduler in halving:
            asked = planted(steps=18, every=1, seed=seed, scheduler=scheduler, trials=12, concurrent=1)
            folder = search.tune(asked, runs_dir=runs, name=f"{scheduler}-{seed}")
            halving[scheduler].append(chosen(folder))
            steps[scheduler].append(sum(r["reports"][-1]["step"] for r in results_of(folder)))
    return {
        "samples": {**found, **halving},
        "means": {k: fmean(v) for k, v in {**found, **halving}.items()},
        "p": float(wilcoxon(found["tpe"], found["random"], alternative="greater").pvalue),
        "steps": steps,
    }


def with_shared(runs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Pairs of searches with and without shared teachers, the order turned round each time."""
    config = with_teachers(runs, args, clean=args.teacher, brief=True).replace(
        {"max_steps": args.steps, "checkpoint.every": args.steps}
    )
    asked = Search(config=config, spaces=config.method.SEARCH, trials=args.trials, scheduler="fifo")
    seconds: dict[bool, list[float]] = {True: [], False: []}
    identical = True
    for i in range(args.rounds):
        for shared in (True, False) if i % 2 else (False, True):
            started = time.perf_counter()
            search.tune(replace(asked, share_teachers=shared), runs_dir=runs, name=f"{shared}-{i}")
            seconds[shared].append(time.perf_counter() - started)
        pairs = zip(*(sorted((runs / f"{s}-{i}" / "trials").iterdir()) for s in (True, False)), strict=True)
        identical = identical and all(bytes_of(a) == bytes_of(b) for a, b in pairs)
    return {
        "clean_teacher": args.teacher,
        "student": config.network,
        "steps": args.steps,
        "seconds": {"shared": seconds[True], "unshared": seconds[False]},
        "ratio": round(median(a / b for a, b in zip(seconds[True], seconds[False], strict=True)), 3),
        "identical": identical,
    }


def with_teachers(runs: Path, args: argparse.Namespace, *, clean: str | None = None, brief: bool = False) -> RunConfig:
    """MTARD on digits with teachers trained first; ``brief``: a step of them, where only their cost counts."""
    config = recipe("mtard")
    common: dict[str, object] = {"team": "local", "seed": args.seed, "epochs": args.epochs}
    changes = dict(common)
    for role, name in needs(config).items():
        own: dict[str, object] = {"max_steps": 1} if brief else {}
        if clean is not None and role == "clean_teacher":
            own["network"] = clean
        path = launch.train(
            recipe(name).replace(common | own), runs_dir=runs, name=role, how=Circumstances(quiet=True)
        ).path
        changes[f"agents.{role}.init"] = str(path)
        if "network" in own:
            changes[f"agents.{role}.network"] = clean
    return config.replace(changes)


PARTS = {"asha": by_halving, "tpe": by_tpe, "pbt": by_population, "planted": on_planted, "shared": with_shared}

if __name__ == "__main__":
    main()
