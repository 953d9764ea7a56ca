"""All single-norm methods on digits at equal student steps: accuracy with three seeds, cost, MixACM's ablation.

python benchmarks/methods_on_digits.py [--epochs N] [--seeds 3] [--only ROW ...] [--autoattack N] [--processes 2] [--runs DIR] [--save]

With --runs the runs and their evaluations are kept in DIR/seed-N/ROW, and the same command goes on after an interruption. Every row is its
recipe with the same length, network and data; teachers are the products of ``at`` and ``clean`` of the same seed, whose cost stands in
their own rows. Robust accuracies are under the run's own threat.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import circumstances, evaluated, save
from methods import passes

from sparring.agents.robustness import wilson
from sparring.cluster.config.recipes import needs, recipe
from sparring.cluster.models.examples import load_test
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import DataConfig

PLAIN = {"method.kd_weight": 0.0, "method.acm_weight": 0.0}
ROWS: dict[
    str, tuple[str, dict[str, object], tuple[str, ...]]
] = {  # row -> recipe, changes, agents (products when none)
    "at": ("at", {}, ()),
    "clean": ("clean", {}, ()),
    "trades": ("trades", {}, ()),
    "mart": ("mart", {}, ()),
    "mat": ("mat", {}, ()),
    "mtard (ECCV)": ("mtard_eccv-digits", {}, ()),
    "mtard (B-MTARD)": ("mtard", {}, ()),
    "rslad": ("rslad", {}, ()),
    "ard": ("ard", {}, ()),
    "iad": ("iad", {}, ()),
    "akd2": ("akd2", {}, ()),
    "adaad": ("adaad", {}, ()),
    "adaiad": ("adaiad", {}, ()),
    "lbgat": ("lbgat", {}, ()),
    "peeraid": ("peeraid", {}, ("student", "peer")),
    "mixacm: all": ("mixacm", {}, ()),
    "mixacm: ACM + mixup": ("mixacm", {"method.kd_weight": 0.0}, ()),
    "mixacm: ACM + soft labels": ("mixacm", {"method.alpha": 0.0}, ()),
    "mixacm: ACM": ("mixacm", {"method.alpha": 0.0, "method.kd_weight": 0.0}, ()),
    "mixacm: KD only": ("mixacm", {"method.alpha": 0.0, "method.acm_weight": 0.0}, ()),
    "mixup only": ("mixacm", PLAIN, ()),
}
MEASURE = "scaled-pgd-20"
ATTACKS, AUTOATTACK = ("clean", "pgd-20", MEASURE), ("pgd-20", "autoattack")
BLOCK = 364  # all test images at once under AutoAttack, most of whose time on few small images is its overhead
WITHOUT_AUTOATTACK = ("mixacm: ACM", "mixacm: KD only", "mixup only")  # whose prefix counts: the ablation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=recipe("at").epochs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(ROWS))
    parser.add_argument("--autoattack", type=int, help="test images under AutoAttack; default all, 0: none")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # one seed, in a process of its own
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/methods_on_digits.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.seed is not None:
        print(json.dumps(one_seed(args)))
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        args.runs = args.runs or Path(folder)
        results = all_seeds(args)
    test = len(load_test(DataConfig()))
    record = {
        **circumstances(seed=0),
        "n": args.seeds,
        "seeds": list(range(args.seeds)),
        "test_images": test,
        "autoattack_images": test if args.autoattack is None else args.autoattack,
        "epochs": args.epochs,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "rows": {row: pooled([r[row] for r in results], test) for row in results[0]},
    }
    print(save("methods_on_digits", record) if args.save else json.dumps(record))


def all_seeds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of every seed, so many processes at a time; rows of one seed are split between them."""
    halves = [args.only[i :: args.processes] for i in range(args.processes)]
    results: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        for teacher in dict.fromkeys(t for row in args.only for t in needs(recipe(ROWS[row][0])).values()):
            trained(teacher, args.runs / f"seed-{seed}", args, {"seed": seed})  # before its students, who share it
        flags = ["--epochs", str(args.epochs), "--seed", str(seed)]
        flags += [] if args.autoattack is None else ["--autoattack", str(args.autoattack)]
        flags += ["--runs", str(args.runs)]
        jobs = [
            subprocess.Popen([sys.executable, __file__, *flags, "--only", *rows], stdout=subprocess.PIPE, text=True)
            for rows in halves
            if rows
        ]
        merged: dict[str, Any] = {}
        for job in jobs:
            out, _ = job.communicate()
            if job.returncode:
                sys.exit(job.returncode)
            merged |= json.loads(out.splitlines()[-1])
        results.append({row: merged[row] for row in args.only})
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    return results


def one_seed(args: argparse.Namespace) -> dict[str, Any]:
    """All rows of one seed, the teachers that they need first."""
    return {row: measure(row, args.runs / f"seed-{args.seed}", args) for row in args.only}


def measure(row: str, runs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train one row and evaluate its agents."""
    name, changes, agents = ROWS[row]
    config = recipe(name)
    for role, teacher in needs(config).items():
        changes = {**changes, f"agents.{role}.init": str(trained(teacher, runs, args)[0])}
    path, seconds = trained(name, runs, args, changes, folder=re.sub(r"\W+", "-", row).strip("-"))
    folder, found = RunFolder(path), {}
    threat = str(config.threats[0])
    asked: dict[str, Any] = {"agents": agents, "threats": [threat], "masking": 0}
    full = evaluated(path, "pgd", attacks=ATTACKS, **asked)
    for agent, r in full.items():
        after = r["threats"][threat]["attacks"]
        found[agent] = {"clean": r["clean_accuracy"], "pgd20": after["pgd-20"], MEASURE: after[MEASURE]}
    if args.autoattack != 0 and not row.startswith(WITHOUT_AUTOATTACK):
        some = evaluated(path, "autoattack", attacks=AUTOATTACK, examples=args.autoattack, block=BLOCK, **asked)
        for agent, r in some.items():
            found[agent] |= r["threats"][threat]["attacks"]
    print(row, args.seed, json.dumps(found), file=sys.stderr, flush=True)
    return {"seconds": seconds, "passes": passes(folder.config), "agents": found}


def trained(
    name: str, runs: Path, args: argparse.Namespace, changes: dict[str, object] | None = None, *, folder: str = ""
) -> tuple[Path, float]:
    """A finished run and its seconds of training; teachers are trained once per seed."""
    path = runs / (folder or f"{name}-teacher")
    clock = path / "seconds.json"
    if not clock.exists():  # else it is a teacher of several rows, or was trained before an interruption
        shutil.rmtree(path, ignore_errors=True)  # begun and interrupted: seconds are those of a whole training
        config = recipe(name).replace({"team": "local", "epochs": args.epochs, "seed": args.seed, **(changes or {})})
        started = time.perf_counter()
        launch.train(config, runs_dir=runs, name=path.name, how=Circumstances(quiet=True))
        clock.write_text(json.dumps(time.perf_counter() - started))
    return path, float(clock.read_text())


def pooled(seeds: list[dict[str, Any]], test: int) -> dict[str, Any]:
    """Means over the seeds, every seed's own value, and the interval of all test images of all seeds together."""
    agents: dict[str, Any] = {}
    for agent in seeds[0]["agents"]:
        each = [s["agents"][agent] for s in seeds]
        values = {k: [e[k] for e in each] for k in each[0]}
        means = {k: fmean(v) for k, v in values.items()}
        n = test * len(seeds)
        agents[agent] = {
            **means,
            "w_robust": (means["clean"] + means[MEASURE]) / 2,
            "ci95": {k: wilson(round(means[k] * n), n) for k in ("pgd20", MEASURE, "autoattack") if k in means},
            "samples": values,
        }
    return {"seconds": fmean(s["seconds"] for s in seeds), "passes": seeds[0]["passes"], "agents": agents}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
