"""Union accuracy of MAT's generalist and of each specialist on digits.

python benchmarks/union.py [--epochs N] [--examples N] [--save]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from common import circumstances, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

ATTACKS = ["clean", "pgd-20", "margin-pgd-20", "square-300"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's own")
    parser.add_argument("--examples", type=int, help="test images instead of all")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/union.json")
    args = parser.parse_args()
    config = recipe("mat_multi").replace({"team": "local", **({"epochs": args.epochs} if args.epochs else {})})
    with tempfile.TemporaryDirectory() as folder:
        run = launch.train(config, runs_dir=Path(folder), name="run", how=Circumstances(quiet=True))
        report = evaluate_run(
            RunFolder(run.path), attacks=ATTACKS, agents=["generalist", *config.method.norms()], examples=args.examples
        )
    networks = {
        name: {
            "clean": r["clean_accuracy"],
            "threats": {t: e["robust_accuracy"] for t, e in r["threats"].items()},
            "union": r["robust_accuracy"],
            "ci95": r["ci95"],
            "flags": [f["name"] for f in r["flags"]],
        }
        for name, r in report["agents"].items()
    }
    n = next(iter(report["agents"].values()))["n"]
    record = {
        **circumstances(seed=config.seed),
        "n": n,
        "epochs": config.epochs,
        "attacks": ATTACKS,
        "networks": networks,
    }
    print(save("union", record) if args.save else json.dumps(record))


if __name__ == "__main__":
    main()
