"""Whether a GPU computes what the CPU computes: the same steps on both, from the same examples.

    python benchmarks/exact_on_device.py [--methods at mat mtard peeraid] [--json]

Random starts are drawn on the device, so examples are crafted on the CPU alone and given to both. Prints the largest relative
differences over the steps, of a loss term, of an answer's logits and of the gradient of the cross entropy at the examples, as
attacks take it; exits 1 above float32 rounding.
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

from sparring.agents.exchange import unpack
from sparring.agents.precision import arithmetic
from sparring.cluster.runs import images
from sparring.cluster.team.team import LocalTeam
from sparring.trainers import attacks
from sparring.trainers.losses import cross_entropy
from sparring.trainers.types import Adversarial

STEPS = 3
ALLOWED = 1e-3  # of a loss, of the length of logits or gradients, after steps that both took: rounding of 2^-24 per operation, through 3 steps of a ResNet-18


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
    sys.exit(max(worst for found in result["largest"].values() for worst in found.values()) > ALLOWED)


def largest(method: str, args: argparse.Namespace) -> dict[str, float]:
    """Largest relative differences between both devices: of loss terms, answers and gradients."""
    with tempfile.TemporaryDirectory() as folder:
        config = configured(method, args, Path(folder), {"data.augment": "none"})
        specs = config.specs(images.prepare(config.data, quiet=True))
        here = LocalTeam([replace(s, device="cpu") for s in specs])
        there = LocalTeam([replace(s, device=args.device) for s in specs])
        both = _Both(here, there)
        for t in range(STEPS):
            config.method.step(both, t)
    return both.worst


class _Both:
    """A team whose verbs run on both devices; what the CPU says is what both are given."""

    def __init__(self, here: LocalTeam, there: LocalTeam) -> None:
        self._here, self._there = here, there
        self.worst = {"losses": 0.0, "answers": 0.0, "gradients": 0.0}

    def __getitem__(self, role: str) -> Any:
        return _Pair(self._here[role], self._there[role], self)

    def differ(self, what: str, mine: Any, theirs: Any) -> None:
        """Note how far the other device's value lies from the CPU's, in its length."""
        mine, theirs = (torch.as_tensor(v, dtype=torch.float64).cpu() for v in (mine, theirs))
        off = float((theirs - mine).norm() / mine.norm().clamp_min(1e-6))
        self.worst[what] = max(self.worst[what], off)


class _Pair:
    def __init__(self, here: Any, there: Any, both: _Both) -> None:
        self.here, self.there, self._both = here, there, both

    def craft(self, t: int, **hints: Any) -> Any:
        made = self.here.craft(t, **hints)
        x = unpack(made, device=torch.device("cpu"))
        assert isinstance(x, Adversarial)
        self._both.differ("gradients", *(self._gradient(h.endpoint.agent, t, x.x) for h in (self.here, self.there)))
        return made

    @staticmethod
    def _gradient(agent: Any, t: int, x: torch.Tensor) -> torch.Tensor:
        y = agent.batches.batch(t).y
        with agent.views.held() as view, arithmetic("fp32"):
            return attacks.gradient(lambda z: cross_entropy(view(z), y), x.to(agent.batches.device)).cpu()

    def answer(self, t: int, on: Any = None) -> Any:
        said, theirs = self.here.answer(t, on), self.there.answer(t, on)
        for mine, other in zip(_logits(said), _logits(theirs), strict=True):
            self._both.differ("answers", mine, other)
        return said

    def predict(self, t: int, **seen: Any) -> Any:
        self.there.predict(t, **seen)
        return self.here.predict(t, **seen)

    def learn(self, t: int, **seen: Any) -> None:
        self.there.learn(t, **seen)
        self.here.learn(t, **seen)
        for name, value in self.here.metrics.values.items():
            if name not in ("robust_accuracy", "clean_accuracy"):
                self._both.differ("losses", value, self.there.metrics.values[name])


def _logits(answer: Any) -> list[torch.Tensor]:
    """Of one answer, or of one on each of several messages."""
    said = unpack(answer, device=torch.device("cpu"))
    return [one.logits for one in (said.values() if isinstance(said, dict) else [said])]


if __name__ == "__main__":
    main()
