"""How often honest networks raise a flag of masked gradients, and which flags masked ones raise.

python benchmarks/masking.py [--seeds 10] [--epochs N] [--examples 256] [--save]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import CLONE, circumstances, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation import masking
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import DataConfig, Threat


def main() -> None:
    sys.path.insert(0, str(CLONE))
    from tests.cluster.evaluation.test_masking import MASKED

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's own")
    parser.add_argument("--examples", type=int, default=256, help="test images")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/masking.json")
    args = parser.parse_args()
    split, threat = load_test(DataConfig(), args.examples), Threat("linf", 0.15)
    models: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            changes = {"team": "local", "seed": seed, "checkpoint.every": 10**6}
            changes |= {"epochs": args.epochs} if args.epochs else {}
            run = launch.train(
                recipe("at").replace(changes), runs_dir=Path(folder), name=f"s{seed}", how=Circumstances(quiet=True)
            )
            models.append(load_agent(RunFolder(run.path), checkpoint="last")[0])
    honest = [[f.name for f in masking.examine(m, split, threat)] for m in models]
    masked = {
        kind.__name__: [f.to_dict() for f in masking.examine(kind(models[0], models[1]), split, threat)]
        for kind in MASKED
    }
    record = {**circumstances(seed=0), "n": args.examples, "seeds": args.seeds, "honest": honest, "masked": masked}
    print(save("masking", record) if args.save else json.dumps(record))


if __name__ == "__main__":
    main()
