"""Robustness per pass on CIFAR-10 at 16x16: one budget after the other spent on one network, and on networks that train each other.

python benchmarks/frontier_cifar10.py --runs-dir RUNS [--data-root data/cifar10] [--save]

The setting is that of claims.py. Interrupted, the same command goes on; ``--save`` writes benchmarks/results/frontier_cifar10.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from claims_compared import FEW
from common import circumstances, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.frontier.frontier import compared

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "at": ("at", {}),
    "at_awp": ("at", {"optim.awp": 0.005}),
    "trades": ("trades", {}),
    "trades_awp": ("trades", {"optim.awp": 0.005}),
    "fgsm_rs": ("fgsm_rs", {}),
    "n_fgsm": ("n_fgsm", {}),
    "free": ("free", {"method.replays": 4}),
    "mat": ("mat", {}),
}
BUDGETS = [5_000, 15_000, 45_000]  # passes; 60 epochs of adversarial training are 29,000


def configured(method: str, changes: dict[str, Any], setting: dict[str, Any]) -> RunConfig:
    """A method in the setting of the claims."""
    return recipe(method).replace({**setting, **changes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--data-root", default="data/cifar10")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/frontier_cifar10.json")
    args = parser.parse_args()
    os.environ["CIFAR10"] = str(Path(args.data_root).resolve())
    found = compared(
        {label: configured(*METHODS[label], FEW) for label in args.only},
        args.budgets,
        unit="passes",
        seeds=args.seeds,
        examples=str(args.examples),
        runs_dir=args.runs_dir,
        name="frontier-cifar10",
        resume=(args.runs_dir / "frontier-cifar10").exists(),
    )
    setting = {k: v for k, v in FEW.items() if k != "data.name"} | {"data": "CIFAR-10 at 16x16, means of 2x2"}
    kept = {k: v for k, v in found.items() if k not in ("data", "frontier", "report")}
    record = {**circumstances(seed=0), **kept, "setting": setting}
    print(save("frontier_cifar10", record) if args.save else json.dumps(record))


if __name__ == "__main__":
    main()
