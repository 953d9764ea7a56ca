"""Whether mutual adversarial training brings something on digits when there are few: two peers against one network for the same arithmetic.

    python benchmarks/few_digits.py --runs-dir RUNS [--fractions 0.05 0.1 0.2] [--seeds 10 11 12 13 14] [--save]
    python benchmarks/few_digits.py --name few_digits_again --only 'mat alpha=1' --fractions 0.05 --seeds 20 21 22 23 24 25 26 27 28 29 --save --runs-dir RUNS

The images that a run trains on are a share of the 1,437; one network alone is trained as often as it has epochs of the peers, and once for
as much arithmetic as the two need together. Every peer counts half, robustness is that of the demo's attack on all test images at the best and
at the last checkpoint. Differences per seed, with Student's interval over seeds. Seeds are none that the demo uses.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from common import circumstances, evaluated, save

from sparring.cluster.commands.demo import ATTACK, FEW, THREAT
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.frontier import cost
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

T95 = {3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}  # of Student's t, by the number of seeds: two-sided 95 %
MUTUAL: Mapping[str, dict[str, Any]] = {
    "mat": {},
    "mat alpha=1": {"method.alpha": 1.0},
    "mat alpha=1 T=4": {"method.alpha": 1.0, "method.temperature": 4.0},
    "mat alpha=1 own_sample": {"method.alpha": 1.0, "method.preset": "own_sample"},
    "mat_hard": {"method.preset": "mat_hard"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--only", nargs="+", choices=[*MUTUAL], default=[*MUTUAL], help="kinds of mutual training")
    parser.add_argument("--name", default="few_digits")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json")
    args = parser.parse_args()
    result = circumstances(seed=args.seeds[0]) | {"seeds": args.seeds, "epochs": args.epochs, "attack": ATTACK}
    result |= {"threat": THREAT, "fractions": {}}
    for fraction in args.fractions:
        rows = measured(fraction, args)
        result["n"] = next(iter(rows.values()))[0]["n"]
        result["fractions"][str(fraction)] = {
            name: {c: [s[c] for s in found] for c in ("best", "last", "clean")}
            | {
                f"over {other}, {c}": interval([a[c] - b[c] for a, b in zip(found, rows[other], strict=True)])
                for other in ("alone", "alone, same cost")
                for c in ("best", "last")
                if other != name
            }
            for name, found in rows.items()
        }
        print(json.dumps(result["fractions"][str(fraction)], indent=1), flush=True)
    if args.save:
        save(args.name, result)


def measured(fraction: float, args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Per kind of training and seed."""
    few = FEW | {"data.fraction": fraction, "team": "local", "device": "cpu", "epochs": args.epochs}
    mutual = recipe("mat-digits").replace(few)
    kinds = {name: mutual.replace(MUTUAL[name]) for name in args.only}
    alone = recipe("at-digits").replace(few)
    ratio = cost.counted(mutual) / cost.counted(alone)
    kinds = {"alone": alone, "alone, same cost": alone.replace({"epochs": round(ratio * args.epochs)}), **kinds}
    made: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for seed in args.seeds:
        for name, config in kinds.items():
            made[name].append(trained(config.replace({"seed": seed}), f"{name}-{fraction}-{seed}", args.runs_dir))
    return made


def trained(config: RunConfig, name: str, runs_dir: Path) -> dict[str, float]:
    """Means over the run's networks."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", name)
    run = launch.train(config, runs_dir=runs_dir, name=name, resume_if_exists=True, how=Circumstances(quiet=True)).path
    found = {}
    for checkpoint in ("best", "last"):
        asked: dict[str, Any] = {"attacks": ["clean", "fgsm", ATTACK], "threats": [THREAT], "masking": 0}
        agents = evaluated(run, checkpoint, checkpoint=checkpoint, **asked)
        learners = [r for agent, r in agents.items() if agent != "ensemble"]
        found[checkpoint] = fmean(r["robust_accuracy"] for r in learners)
        found["clean"], found["n"] = fmean(r["clean_accuracy"] for r in learners), learners[0]["n"]
    return found


def interval(differences: Sequence[float]) -> list[float]:
    """Mean, and its 95 % interval over seeds."""
    mean = fmean(differences)
    half = (
        T95[len(differences)] * stdev(differences) / sqrt(len(differences)) if len(differences) in T95 else float("nan")
    )
    return [mean, mean - half, mean + half]


if __name__ == "__main__":
    main()
