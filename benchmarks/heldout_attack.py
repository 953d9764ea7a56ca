"""Which cheap attack compares networks most as AutoAttack does: every choice of equal cost beside it.

python benchmarks/heldout_attack.py RUN|FOLDER [RUN|FOLDER ...] [--passes 10] [--examples N] [--save]

The best checkpoints of the products of finished runs, on test images, each under its own run's threat. What AutoAttack found is kept in
the run (``evaluation/autoattack-all``, as benchmarks/methods_on_digits.py leaves it), so a second call costs the choices only. Of a FOLDER all
runs in seed-*/ that have such an evaluation are taken. Runs of one folder name are one group, whose value is the mean over its seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from common import circumstances, evaluated, save
from scipy.stats import kendalltau
from torch import Tensor, nn

from sparring.agents.robustness import Judging, correct, fitting_threads
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import chosen_agents, load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers.config import Attack, Threat
from sparring.trainers.data import Split
from sparring.trainers.losses import cross_entropy, dlr, margin, scaled_cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]


def apart(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of logits divided by the distance of the two largest, held constant."""
    top = logits.detach().topk(2, dim=1).values
    return cross_entropy(logits / (top[:, :1] - top[:, 1:]).clamp_min(1e-9), y)


# every choice: the losses of its starts, which share the passes
CHOICES: dict[str, tuple[Loss, ...]] = {
    "cross entropy": (cross_entropy,),
    "margin": (margin,),
    "dlr": (dlr,),
    "scaled cross entropy": (scaled_cross_entropy,),
    "cross entropy over the two largest": (apart,),
    "cross entropy, then margin": (cross_entropy, margin),
    "cross entropy, then dlr": (cross_entropy, dlr),
    "scaled cross entropy, then margin": (scaled_cross_entropy, margin),
    "margin, then margin": (margin, margin),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN|FOLDER")
    parser.add_argument("--passes", type=int, default=10, help="steps in all, shared by a choice's starts")
    parser.add_argument("--examples", type=int, help="test images; default all")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/heldout_attack.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    networks = []
    for path in [run for given in args.runs for run in runs_of(given)]:
        networks += measured(RunFolder(path), args.passes, args.examples)
        print(json.dumps(networks[-1]), file=sys.stderr, flush=True)
    record = {
        **circumstances(seed=0),
        "n": len(networks),
        "passes": args.passes,
        "images": networks[0]["images"],
        "choices": {name: compared(networks, name) for name in CHOICES},
        "networks": networks,
    }
    print(save("heldout_attack", record) if args.save else json.dumps(record))


def runs_of(path: Path) -> list[Path]:
    """A run, or those below a folder that AutoAttack has been through."""
    if (path / "config.yaml").exists():
        return [path]
    return [report.parents[2] for report in sorted(path.glob("seed-*/*/evaluation/autoattack-all/report.json"))]


def measured(folder: RunFolder, passes: int, examples: int | None) -> list[dict[str, Any]]:
    """Every product of one run: accuracy after AutoAttack and after each choice, right on the clean image besides."""
    config, threat = folder.config, folder.config.threats[0]
    asked: dict[str, Any] = {"threats": [str(threat)], "examples": examples, "masking": 0}
    truth = evaluated(folder.path, "autoattack", attacks=["pgd-20", "autoattack"], **asked)
    split, found = load_test(config.data, examples), []
    for agent in chosen_agents(folder):
        model, _ = load_agent(folder, agent)
        how = Judging(seed=config.seed)
        with fitting_threads(model):
            right = correct(model, split, None, how)
            left = {
                name: right & standing(model, split, threat, losses, passes, how) for name, losses in CHOICES.items()
            }
        found.append(
            {
                "group": f"{folder.path.name} {agent}",
                "seed": config.seed,
                "images": len(split),
                "autoattack": truth[agent]["threats"][str(threat)]["attacks"]["autoattack"],
                **{name: float(hits.double().mean()) for name, hits in left.items()},
            }
        )
    return found


def standing(
    model: nn.Module, split: Split, threat: Threat, losses: Sequence[Loss], passes: int, how: Judging
) -> Tensor:
    """[N] bool: right after every start of a choice."""
    once = Attack(norm=threat.norm, eps=threat.eps, steps=passes // len(losses))
    each = [
        correct(model, split, once, replace(how, loss=loss, seed=1000 * i + how.seed)) for i, loss in enumerate(losses)
    ]
    return torch.stack(each).all(0)


def compared(networks: Sequence[Mapping[str, Any]], choice: str) -> dict[str, float]:
    """How far a choice is from AutoAttack: in value over networks and over groups, and in the order of groups."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for network in networks:
        groups[network["group"]].append(network)
    off = [network[choice] - network["autoattack"] for network in networks]
    mine = [fmean(n[choice] for n in group) for group in groups.values()]
    theirs = [fmean(n["autoattack"] for n in group) for group in groups.values()]
    return {
        "mean_gap": fmean(off),
        "largest_gap": max(off),
        "group_largest_gap": max(a - b for a, b in zip(mine, theirs, strict=True)),
        "kendall_tau": float(kendalltau(mine, theirs).statistic),
        "kendall_tau_networks": float(
            kendalltau([n[choice] for n in networks], [n["autoattack"] for n in networks]).statistic
        ),
    }


if __name__ == "__main__":
    main()
