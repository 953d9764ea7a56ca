"""How well the disagreement of two peers tells attacked digits from clean ones, by what the attacker knows.

    python benchmarks/disagreement.py --runs-dir RUNS [--seeds 0 1 2] [--save]

Two peers are trained by mutual adversarial training (recipe mat-digits); of their ensemble an evaluation measures what ``sparring evaluate
ensemble:RUN`` says: the AUROC of disagreement under linf:0.15, where one peer is attacked, where both are, and where the attacker lowers it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import circumstances, evaluated, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

ATTACKERS = ("one", "all", "adaptive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/disagreement.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    each = [measured(seed, args.runs_dir) for seed in args.seeds]
    result = circumstances(seed=args.seeds[0]) | {"seeds": args.seeds, "threat": each[0]["threat"], "n": each[0]["n"]}
    result["clean_mean"] = fmean(e["clean_mean"] for e in each)
    result["auroc"] = {a: [e["auroc"][a] for e in each] for a in ATTACKERS}
    result["succeeded"] = {a: [e["succeeded"][a] for e in each] for a in ATTACKERS}
    print(json.dumps(result))
    if args.save:
        save("disagreement", result)


def measured(seed: int, runs_dir: Path) -> dict[str, Any]:
    config = recipe("mat-digits").replace({"seed": seed, "team": "local", "device": "cpu"})
    how = Circumstances(quiet=True)
    run = launch.train(config, runs_dir=runs_dir, name=f"peers-{seed}", resume_if_exists=True, how=how).path
    asked: dict[str, Any] = {"attacks": ["clean", "pgd-20"], "agents": ["ensemble"]}
    found: dict[str, Any] = evaluated(run, "disagreement", **asked)["ensemble"]["detector"]
    return found


if __name__ == "__main__":
    main()
