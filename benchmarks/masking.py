"""How often honest networks raise a flag of masked gradients, and how often masked ones raise theirs.

python benchmarks/masking.py [--seeds 13] [--epochs 5 15] [--examples 256] [--processes 2] [--runs DIR] [--again FLAG] [--save]

Honest: every network of at, trades, mart and mat (two peers) of every seed and length, but for trades and mart after the shortest, whose own
training leaves logits about 1 apart: these are a kind of softened ones. Masked: each network behind every kind of masking (tests/masked.py),
looked at by the checks that this kind must raise. With --runs an interrupted measurement goes on; --again FLAG looks once more for a flag
whose check has changed since.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import CLONE, circumstances, save
from torch import nn

from sparring.agents.checkpoint import load_model
from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation import masking
from sparring.cluster.evaluation.masking import Examined, Flag
from sparring.cluster.evaluation.subjects import pixels
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import chosen_agents, load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import DataConfig, Threat
from sparring.trainers.data import Split

METHODS = ("at", "trades", "mart", "mat")
SOFTENING = ("trades", "mart")
LINF, TWICE, L2, L1 = Threat("linf", 0.15), Threat("linf", 0.3), Threat("l2", 0.6), Threat("l1", 2.0)
ALL_NORMS = 4  # seeds whose networks are looked at under l2 and l1 too
BY_NORM = [masking.zero_gradients, masking.black_box_beats_white_box, masking.more_effort_keeps_helping]
Check = Callable[[Examined], Flag]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=13)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 15], help="lengths of training")
    parser.add_argument("--examples", type=int, default=256, help="test images")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="keep the runs, and what was seen, in this folder")
    parser.add_argument("--again", help="a flag to be looked for once more in the networks of --runs")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # one seed, in a process of its own
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/masking.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        args.runs = args.runs or Path(folder)
        if args.seed is not None:
            one_seed(args)
            return
        for first in range(0, args.seeds, args.processes):
            together(range(first, min(first + args.processes, args.seeds)), args)
        paths = sorted(args.runs.glob("seed-*/*/masking-*.json"))
        own = [f"{method}-{min(args.epochs)}" for method in SOFTENING]
        seen = [json.loads(p.read_text()) for p in paths if p.parent.name not in own]
        soft = {name: [json.loads(p.read_text()) for p in paths if p.parent.name == name] for name in own}
        now = thresholds(args.examples)
    record = {
        **circumstances(seed=0),
        "n": len(seen),
        "images": args.examples,
        "seeds": args.seeds,
        "epochs": args.epochs,
        "methods": METHODS,
        "flags": {name: counted(name, seen, soft, now[name]) for name in seen[0]["honest"]},
    }
    print(save("masking", record) if args.save else json.dumps(record))


def together(seeds: Sequence[int], args: argparse.Namespace) -> None:
    """Some seeds, each in a process of its own."""
    flags = ["--epochs", *map(str, args.epochs), "--examples", str(args.examples), "--runs", str(args.runs)]
    flags += ["--again", args.again] if args.again else []
    jobs = [subprocess.Popen([sys.executable, __file__, *flags, "--seed", str(seed)]) for seed in seeds]
    codes = [job.wait() for job in jobs]
    if any(codes):
        sys.exit(1)
    print(f"seeds {list(seeds)} done", file=sys.stderr, flush=True)


def one_seed(args: argparse.Namespace) -> None:
    """Every network of one seed: trained, and what the checks see beside it."""
    for method in METHODS:
        for epochs in args.epochs:
            changes = {"team": "local", "seed": args.seed, "checkpoint.every": 10**6, "epochs": epochs}
            runs, name = args.runs / f"seed-{args.seed}", f"{method}-{epochs}"
            run = launch.train(
                recipe(method).replace(changes),
                runs_dir=runs,
                name=name,
                resume_if_exists=True,
                how=Circumstances(quiet=True),
            )
            folder = RunFolder(run.path)
            agents = chosen_agents(folder)
            models = [load_agent(folder, agent, checkpoint="last")[0] for agent in agents]
            for i, agent in enumerate(agents):
                path, norms = folder.path / f"masking-{agent}.json", args.seed < ALL_NORMS
                if not path.exists():
                    path.write_text(json.dumps(seen_of(models[i], models[i - 1], args.examples, all_norms=norms)))
                elif args.again:
                    known = json.loads(path.read_text())
                    seen = seen_of(
                        models[i], models[i - 1], args.examples, all_norms=norms, only=[by_name()[args.again]]
                    )
                    path.write_text(json.dumps({part: known[part] | seen[part] for part in known}))


def seen_of(
    model: nn.Module, other: nn.Module, examples: int, *, all_norms: bool, only: Sequence[Check] = masking.CHECKS
) -> dict[str, Any]:
    """Values of all checks on an honest network, and of the right ones on it behind every kind of masking."""
    split = load_test(DataConfig(), examples)
    honest = values(model, split, LINF, only)
    for threat in (L2, L1) if all_norms else ():
        seen = values(model, split, threat, [check for check in BY_NORM if check in only])
        honest |= {f"{k}, {threat.norm}": v for k, v in seen.items()}
    kinds: dict[str, Any] = {}
    for name, masked, threat, checks in kinds_of(model, other, split):
        if threat.norm != "linf" and not all_norms:
            continue
        for flag, value in values(masked, split, threat, [check for check in checks if check in only]).items():
            kinds.setdefault(flag if threat.norm == "linf" else f"{flag}, {threat.norm}", {})[name] = value
    return {"honest": honest, "masked": kinds}


def by_name() -> dict[str, Check]:
    """Checks by the name of their flag."""
    return {check.__name__.replace("_", " "): check for check in masking.CHECKS}


def kinds_of(model: nn.Module, other: nn.Module, split: Split) -> Iterator[tuple[str, nn.Module, Threat, list[Check]]]:
    """Every kind of masking: its name, the network behind it, the threat, and what must see it."""
    sys.path.insert(0, str(CLONE))
    from tests import masked

    for kind, flags in masked.MASKED.items():
        if kind is masked.Detector and other is model:
            continue  # it needs two
        threat = TWICE if kind is masked.Lucky else LINF
        yield kind.__name__, kind(model, other), threat, [by_name()[flag] for flag in sorted(flags)]
    x, _ = pixels(split, 0, len(split))
    for gap in masked.SOFT:
        yield f"gap {gap:g}", masked.Rescaled(model, x, gap), LINF, [masking.softened_logits]
    for gap in masked.FAR:
        yield f"gap {gap:g}", masked.Rescaled(model, x, gap), L2, [masking.zero_gradients]
    for threat in (L2, L1):
        yield "Quantised", masked.Quantised(model), threat, [masking.black_box_beats_white_box]


def values(model: nn.Module, split: Split, threat: Threat, checks: Sequence[Check]) -> dict[str, Any]:
    """What the checks see, each beside its threshold."""
    if not checks:
        return {}  # for looked_at, none named means all
    return {f.name: [f.value, f.threshold] for f in masking.looked_at(model, split, threat, checks=checks)}


def thresholds(examples: int) -> dict[str, float]:
    """By flag, as they are now: a network that was looked at before one changed is not looked at again."""
    model = load_model(CLONE / "tests" / "networks" / "honest-0").eval()
    honest = seen_of(model, model, examples, all_norms=True)["honest"]
    return {name: threshold for name, (_, threshold) in honest.items()}


def counted(
    flag: str, seen: Sequence[dict[str, Any]], soft: Mapping[str, Sequence[dict[str, Any]]], threshold: float
) -> dict[str, Any]:
    """False alarms of the honest networks, detections of each kind, and every value."""
    looked = [s for s in seen if flag in s["honest"]]
    kinds: dict[str, list[list[float]]] = {}
    for s in looked:
        for kind, value in s["masked"].get(flag, {}).items():
            kinds.setdefault(kind, []).append(value)
    if flag == "softened logits":
        kinds |= {name: [s["honest"][flag] for s in networks] for name, networks in soft.items()}
    own = flag == "softened logits"  # whose threshold depends on the network
    honest = [s["honest"][flag] for s in looked]
    return {
        "n": len(looked),
        "threshold": threshold,
        **({"thresholds": sorted({t for found in [honest, *kinds.values()] for _, t in found})} if own else {}),
        "alarms": above(honest, None if own else threshold),
        "detected": {kind: above(found, None if own else threshold) for kind, found in kinds.items()},
        "honest": [round(v, 4) for v, _ in honest],
        "masked": {kind: [round(v, 4) for v, _ in found] for kind, found in kinds.items()},
    }


def above(found: Sequence[Sequence[float]], threshold: float | None) -> int:
    """How many values are no longer honest by the threshold, or by that beside each; NaN is not."""
    return sum(not value <= (own if threshold is None else threshold) for value, own in found)


if __name__ == "__main__":
    main()
