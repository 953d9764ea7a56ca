"""What bfloat16 changes in the result: robust accuracy on digits after training in float32 and in bfloat16, same seeds.

    python benchmarks/precision.py [--methods at mat] [--seeds 3] [--save]

Whole runs of the digits recipes in one process; PGD-20 on all test images, always in float32. The interval of a difference is that of
the mean over test images and seeds of right (bf16) - right (fp32), 95 %, normal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from common import circumstances, save

import sparring
from sparring.agents.robustness import Judging, correct
from sparring.cluster.config.recipes import recipe
from sparring.cluster.runs import images
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import Attack

PRECISIONS = ("fp32", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["at"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-steps", type=int, help="instead of the recipes' own, for trying it out")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/precision.json")
    args = parser.parse_args()
    result = circumstances(seed=0) | {"n": args.seeds, "methods": {m: compared(m, args) for m in args.methods}}
    if args.save:
        save("precision", result)
    print(json.dumps(result, indent=None if args.json else 1))


def compared(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracies per precision and seed, and the difference under attack."""
    right: dict[str, list[torch.Tensor]] = {p: [] for p in PRECISIONS}
    clean: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    for seed in range(args.seeds):
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                config = recipe(method).replace({"team": "local", "seed": seed, "precision": precision})
                if args.max_steps:
                    config = config.replace({"max_steps": args.max_steps})
                run = launch.train(config, runs_dir=Path(folder), name="run", how=Circumstances(quiet=True))
                model = sparring.load(run.path, agent=config.method.deploy()[0])
            test = images.prepare(config.data, quiet=True).load().test
            attack = Attack(norm=config.attack.norm, eps=config.attack.eps, steps=20)
            right[precision].append(correct(model, test, attack, Judging(seed)))
            clean[precision].append(correct(model, test, None, Judging(seed)).double().mean().item())
    change = torch.cat(right["bf16"]).double() - torch.cat(right["fp32"]).double()
    return {
        "robust": {p: [r.double().mean().item() for r in right[p]] for p in PRECISIONS},
        "clean": clean,
        "difference": change.mean().item(),
        "half_width": 1.96 * change.std().item() / sqrt(len(change)),
        "images": len(change) // args.seeds,
    }


if __name__ == "__main__":
    main()
