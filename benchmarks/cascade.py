"""What a cascade keeps of its large network's robustness, what it saves, and which attack finds that out.

    python benchmarks/cascade.py --runs-dir RUNS [--widths 0.3 0.6 0.9] [--seeds 0 1 2] [--save]

A small and a large network are trained by adversarial training on digits; their cascade is attacked under linf:0.15 on all
test images in three ways: with examples made for the large network alone; through the decision; through the decision and its smooth form, as
``sparring evaluate`` does. The attacks are scaled-pgd-50 and margin-pgd-50; for the first seed and the width in the middle also AutoAttack. Accuracies count an image as robust that all attacks of the way left right. Time is that of a batch of
64, in rounds that go through all networks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from common import circumstances, save
from torch import Tensor, nn

from sparring.agents.cascade import Cascade
from sparring.agents.robustness import judged
from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation.direct import evaluate_model
from sparring.cluster.evaluation.named_attacks import Block, parse
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers import datasets
from sparring.trainers.config import Threat
from sparring.trainers.data import Split

ATTACKS = ["scaled-pgd-50", "margin-pgd-50"]
SMALL, LARGE, THREAT = "small_cnn:width=4", "small_cnn:width=32", "linf:0.15"
TIMED, ROUNDS = 64, 15  # images of a batch


class Decision(nn.Module):
    """A cascade of which an attack knows the decision alone."""

    def __init__(self, cascade: Cascade) -> None:
        super().__init__()
        self.cascade = cascade

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.cascade(x)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.3, 0.6, 0.9])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/cascade.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for seed in args.seeds for row in measured(seed, args)]
    full = strongest(args.seeds[0], args.widths[len(args.widths) // 2], args.runs_dir)
    result = circumstances(seed=args.seeds[0]) | {"seeds": args.seeds, "threat": THREAT, "networks": [SMALL, LARGE]}
    result |= {
        "n": rows[0]["n"],
        "timed": TIMED,
        "rounds": ROUNDS,
        "rows": mean(rows),
        "each": rows,
        "autoattack": full,
    }
    for row in result["rows"]:
        print(row)
    if args.save:
        save("cascade", result)


def measured(seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per network and width."""
    small, large = (trained(network, seed, args.runs_dir) for network in (SMALL, LARGE))
    split = datasets.load(recipe("at-digits").data).test
    x, y = split.pixels(), split.all_labels()
    cascades = {width: Cascade(small, large, width).eval() for width in args.widths}
    seconds = timed({"small": small, "large": large, **{str(w): c for w, c in cascades.items()}}, x[:TIMED])
    rows = [
        {"network": name, "seed": seed, **robust(model, split), "ms": 1000 * seconds[name]}
        for name, model in (("small", small), ("large", large))
    ]
    for width, cascade in cascades.items():
        with torch.no_grad():
            asked = cascade.decide(x)[1].double().mean().item()
        whole, decision = robust(cascade, split), robust(Decision(cascade).eval(), split)
        row = {"network": f"cascade {width:g}", "seed": seed, "asked": asked, **whole}
        row |= {"decision_alone": decision["robust"], "made_for_large": transferred(cascade, large, x, y)}
        rows.append(row | {"ms": 1000 * seconds[str(width)]})
    for row in rows:
        print(row, flush=True)
    return rows


def trained(network: str, seed: int, runs_dir: Path) -> nn.Module:
    config = recipe("at-digits").replace({"network": network, "seed": seed, "team": "local", "device": "cpu"})
    name = f"cascade-{network.replace(':', '-').replace('=', '')}-{seed}"
    run = launch.train(config, runs_dir=runs_dir, name=name, resume_if_exists=True, how=Circumstances(quiet=True))
    return load_agent(RunFolder.open(run.path), config.method.deploy()[0])[0].eval()


def strongest(seed: int, width: float, runs_dir: Path) -> dict[str, Any]:
    """Robust accuracies under AutoAttack."""
    small, large = (trained(network, seed, runs_dir) for network in (SMALL, LARGE))
    split = datasets.load(recipe("at-digits").data).test
    cascade = Cascade(small, large, width).eval()
    models = {"small": small, "large": large, "cascade": cascade, "decision_alone": Decision(cascade).eval()}
    found = {name: robust(model, split, ["autoattack"])["robust"] for name, model in models.items()}
    print(found, flush=True)
    return found | {"width": width, "seed": seed}


def robust(model: nn.Module, split: Split, attacks: list[str] = ATTACKS) -> dict[str, Any]:
    found = evaluate_model(model, split, attacks=attacks, threats=[Threat.parse(THREAT)])
    return {"clean": found.clean_accuracy, "robust": found.robust_accuracy, "n": found.n}


def transferred(cascade: Cascade, large: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy of the cascade on examples made for its large network alone: what somebody who forgets the decision would report."""
    block, threat = Block(x, y, 0, 0), Threat.parse(THREAT)
    with judged(large), judged(cascade):
        right = cascade(x).argmax(1) == y
        for name in ATTACKS:
            right &= cascade(parse(name, threat)(large, block, large)).argmax(1) == y
    return right.double().mean().item()


def timed(models: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Median seconds of a batch."""
    found: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for name, model in models.items():
                started = time.perf_counter()
                model(x)
                if turn:  # the first is slow
                    found[name].append(time.perf_counter() - started)
    return {name: median(times) for name, times in found.items()}


def mean(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over seeds."""
    made = []
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        numbers = [k for k, v in own[0].items() if isinstance(v, float)]
        made.append({"network": name, **{k: fmean(row[k] for row in own) for k in numbers}})
    return made


if __name__ == "__main__":
    main()
