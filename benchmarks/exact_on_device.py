"""Whether a GPU computes what the CPU computes: losses of the same steps on both, from the same examples.

    python benchmarks/exact_on_device.py [--methods at mat mtard peeraid] [--json]

Random starts are drawn on the device, so examples are crafted on the CPU alone and given to both. Prints the largest relative
difference of a loss term over the steps; exits 1 above float32 rounding.
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
from common import circumstances
from step_time import configured

from cluster import images
from cluster.team import LocalTeam
from trainers.types import Metrics

STEPS = 3
ALLOWED = 1e-3  # of a loss, after steps that both took: rounding of 2^-24 per operation, through 3 steps of a ResNet-18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["at", "mat", "mtard", "peeraid"])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="compared with the CPU; cpu compares it with itself")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    args = parser.parse_args()
    result = circumstances(seed=args.seed) | {"n": STEPS, "largest": {m: largest(m, args) for m in args.methods}}
    result["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    print(json.dumps(result, indent=None if args.json else 1))
    sys.exit(max(result["largest"].values()) > ALLOWED)


def largest(method: str, args: argparse.Namespace) -> float:
    """Largest relative difference of a loss term between both devices."""
    with tempfile.TemporaryDirectory() as folder:
        config = configured(method, args, Path(folder), {"data.augment": "none"})
        specs = config.specs(images.prepare(config.data, quiet=True))
        here = LocalTeam([replace(s, device="cpu") for s in specs])
        there = LocalTeam([replace(s, device=args.device) for s in specs])
        worst = 0.0
        for t in range(STEPS):
            pair = _Both(here, there)
            config.method.step(pair, t)
            for mine, theirs in pair.metrics():
                for name, value in mine.values.items():
                    if name not in ("robust_accuracy", "clean_accuracy"):
                        worst = max(worst, abs(theirs.values[name] - value) / max(abs(value), 1e-6))
    return worst


class _Both:
    """A team whose verbs run on both devices; what the CPU says is what both are given."""

    def __init__(self, here: LocalTeam, there: LocalTeam) -> None:
        self._here, self._there = here, there
        self._seen: dict[str, _Pair] = {}

    def __getitem__(self, role: str) -> Any:
        return self._seen.setdefault(role, _Pair(self._here[role], self._there[role]))

    def metrics(self) -> list[tuple[Metrics, Metrics]]:
        """Of every learner."""
        return [(p.here.metrics, p.there.metrics) for p in self._seen.values() if p.here.metrics is not None]


class _Pair:
    def __init__(self, here: Any, there: Any) -> None:
        self.here, self.there = here, there

    def craft(self, t: int, **hints: Any) -> Any:
        return self.here.craft(t, **hints)

    def answer(self, t: int, on: Any = None) -> Any:
        return self.here.answer(t, on)

    def predict(self, t: int, **seen: Any) -> Any:
        self.there.predict(t, **seen)
        return self.here.predict(t, **seen)

    def learn(self, t: int, **seen: Any) -> None:
        self.there.learn(t, **seen)
        self.here.learn(t, **seen)


if __name__ == "__main__":
    main()
