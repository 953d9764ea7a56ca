"""The table of ``sparring demo`` with its circumstances: benchmarks/results/demo.json, shown in README.md.

python benchmarks/demo.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import circumstances, save

from sparring.cluster.commands.demo import THREAT, brought, demo
from sparring.cluster.config.recipes import recipe


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = demo(runs_dir=Path(folder), quiet=True)
    rows = {
        name: {
            "clean": r["clean_accuracy"],
            "clean_ci95": r["clean_ci95"],
            "robust": r["threats"][THREAT]["robust_accuracy"],
            "robust_ci95": r["threats"][THREAT]["ci95"],
        }
        for name, r in result["agents"].items()
    }
    n = next(iter(result["agents"].values()))["n"]
    seed = recipe("mat-digits").seed
    record = {
        **circumstances(seed=seed),
        "n": n,
        "seconds": result["seconds"],
        "epochs": result["epochs"],
        "brought": brought(result),
        "attack": f"{result['attack']}, {THREAT}",
        "networks": rows,
    }
    print(save("demo", record))


if __name__ == "__main__":
    main()
