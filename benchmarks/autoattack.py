"""Our AutoAttack beside pyautoattack used directly: CPU seconds in interleaved rounds, passes, and the verdict on every image.

    python benchmarks/autoattack.py --runs DIR [--only CASE ...] [--rounds 5] [--save]

Three networks are trained into DIR (kept, so a second call finds them): small_cnn on digits, small_cnn and ResNet-18 on CIFAR-10
(``--cifar``: the folder that holds it; without it these are left out). Of each, images that it classifies rightly are taken and a radius
at which about half of them resist PGD. Then a round is: theirs, ours, one thread each. ``pairs`` compares verdicts on more networks,
among them one of timm's, at several radii; ``workers`` the files and the wall time of ``sparring evaluate`` with 0, 1 and 2 workers.
With ``--save`` what was measured takes its place in the file beside the other cases, each with its own command and machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import RESULTS, circumstances, save
from torch import Tensor, nn

from sparring.agents.checkpoint import sha256
from sparring.agents.fast import faster
from sparring.agents.robustness import Judging, correct, judged
from sparring.cluster.config.recipes import recipe
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.autoattack import Passes, stages
from sparring.trainers.autoattack.reference import NORMS, reference
from sparring.trainers.config import Attack, DataConfig, NormName, Threat
from sparring.trainers.data import Split

SEED, ROUNDS = 5, 5


@dataclass(frozen=True, slots=True)
class Case:
    """A network, images of its data set, a norm."""

    run: str
    images: int
    norm: NormName = "linf"
    rounds: int = ROUNDS


CASES = {
    "digits": Case("digits", 200),
    "digits l2": Case("digits", 100, "l2"),
    "cifar small_cnn": Case("cifar-small_cnn", 24),
    "cifar resnet18": Case("cifar-resnet18", 8, rounds=3),
}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("at-digits", {"epochs": 10}),
    "cifar-small_cnn": (
        "at",
        {"data.name": "cifar10", "network": "small_cnn", "max_steps": 400, "attack.eps": 4 / 255},
    ),
    "cifar-resnet18": ("clean", {"data.name": "cifar10", "network": "resnet18", "max_steps": 120, "batch_size": 64}),
}
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {  # five methods, one network of timm's
    "pairs-at": ("at-digits", {"epochs": 4}),
    "pairs-trades": ("trades-digits", {"epochs": 4}),
    "pairs-mat": ("mat-digits", {"epochs": 4}),
    "pairs-mart": ("mart-digits", {"epochs": 4}),
    "pairs-timm": ("clean-digits", {"epochs": 6, "network": "timm:resnet10t"}),
}
RADII: dict[NormName, tuple[float, ...]] = {"linf": (0.1, 0.15, 0.2, 0.25), "l2": (0.4, 0.7), "l1": (1.0, 2.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, help="the folder that holds CIFAR-10")
    parser.add_argument("--only", nargs="*", default=[*CASES, "pairs", "workers"])
    parser.add_argument("--rounds", type=int, help="default: 5, of ResNet-18 3")
    parser.add_argument("--images", type=int, help="fewer images, to try the script")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/autoattack.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        if name in args.only and (args.cifar or not case.run.startswith("cifar")):
            found[name] = speed(case, args)
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {"pairs": pairs, "workers": workers}
    for part, measured in parts.items():
        if part in args.only:
            found[part] = measured(args)
            print(part, json.dumps(found[part]), file=sys.stderr, flush=True)
    now = circumstances(seed=SEED)
    for case in found.values():
        case["source"] = now | {"n": case.get("pairs") or len(case.get("rounds", [])) or 1}
    kept = json.loads((RESULTS / "autoattack.json").read_text())["cases"] if args.save else {}
    record = now | {"n": ROUNDS, "threads": 1, "cases": kept | found}
    print(save("autoattack", record) if args.save else json.dumps(record))


def trained(name: str, args: argparse.Namespace) -> RunFolder:
    """The run of that name, trained when it is not there."""
    path, (method, changes) = args.runs / name, (RUNS | PAIRS)[name]
    if not (path / "done.json").exists():
        shutil.rmtree(path, ignore_errors=True)
        config = recipe(method).replace({"team": "local", "seed": 0, **changes})
        if name.startswith("cifar"):
            config = config.replace({"data.root": str(args.cifar)})
        launch.train(config, runs_dir=args.runs, name=name, how=Circumstances(quiet=True))
        (path / "done.json").write_text("{}")
    return RunFolder(path)


def chosen(case: Case, args: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor, Threat]:
    """The network, so many images that it is right on, and the radius at which half of them resist PGD."""
    model, _ = load_agent(trained(case.run, args))
    data = DataConfig(name="cifar10", root=str(args.cifar)) if case.run.startswith("cifar") else DataConfig()
    wanted = args.images or case.images
    some = load_test(data, 8 * wanted if case.run.startswith("cifar") else None)
    some = some[correct(model.eval(), some, None, Judging(seed=0)).nonzero().squeeze(1)[:wanted]]
    low, high = 0.0, {"linf": 0.5, "l2": 3.0, "l1": 8.0}[case.norm]
    for _ in range(8):
        eps = (low + high) / 2
        resist = correct(model, some, Attack(norm=case.norm, eps=eps, steps=20), Judging(seed=0)).double().mean()
        low, high = (eps, high) if resist > 0.5 else (low, eps)
    return model, some.pixels().contiguous(), some.all_labels(), Threat(case.norm, round(high, 6))


def ours(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, dict[str, Any]]:
    """Flags, and of each stage CPU seconds and passes."""
    seen: dict[str, Any] = {}
    with judged(model), torch.no_grad():
        passes, broken, adv = Passes(faster(model, x)), model(x).argmax(1) != y, x.clone()
        for name, stage in stages("standard", threat, 10).items():
            started, before = time.process_time(), (passes.forward, passes.backward)
            left = (~broken).nonzero().squeeze(1)
            if len(left):
                found = adv.clone()
                found[left] = stage(passes, x[left], y[left], torch.Generator().manual_seed(SEED))
                broken = broken | (model(found).argmax(1) != y)
                adv[broken] = found[broken]
            used = passes.forward - before[0], passes.backward - before[1]
            seen[name] = {"seconds": time.process_time() - started, "forward": used[0], "backward": used[1]}
    return broken, seen


def theirs(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Flags of pyautoattack called as its README does, on a network in eval mode; weights as training left them."""
    from pyautoattack import AutoAttack

    made = AutoAttack(model, norm=NORMS[threat.norm], eps=threat.eps, seed=SEED, version="standard")
    adv, _ = made.run_standard_evaluation(x, y, batch_size=len(x))
    with torch.no_grad():
        return model(adv).argmax(1) != y


def speed(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds of both."""
    model, x, y, threat = chosen(case, args)
    model.requires_grad_(True)
    rounds: list[dict[str, Any]] = []
    differ = 0
    for _ in range(args.rounds or case.rounds):
        started = time.process_time()
        expected = theirs(model, x, y, threat)
        between = time.process_time()
        flags, seen = ours(model, x, y, threat)
        ended = time.process_time()
        differ = max(differ, int((flags != expected).sum()))
        rounds.append({"theirs": between - started, "ours": ended - between, "stages": seen})
    return {
        "images": len(x),
        "threat": str(threat),
        "resist": int((~expected).sum()),
        "differ": differ,
        "ratio": median(r["ours"] / r["theirs"] for r in rounds),
        "theirs": median(r["theirs"] for r in rounds),
        "ours": median(r["ours"] for r in rounds),
        "rounds": rounds,
    }


def pairs(args: argparse.Namespace) -> dict[str, Any]:
    """Verdicts on images of digits at several radii, by both; what a call has found is kept beside the run."""
    split = load_test(DataConfig(), args.images or 50)
    rows, differing = [], []
    for name in PAIRS:
        folder = trained(name, args)
        for threat in (Threat(norm, eps) for norm, radii in RADII.items() for eps in radii):
            file = folder.path / f"verdicts-{threat.norm}-{threat.eps:g}-{len(split)}.json"
            if not file.exists():
                file.write_text(json.dumps(verdicts(folder, split, threat)))
            broken = json.loads(file.read_text())
            wrong = [i for i, (ours, theirs) in enumerate(zip(*broken.values(), strict=True)) if ours != theirs]
            differing += [
                {"network": name, "threat": str(threat), "image": i, "ours": broken["ours"][i]} for i in wrong
            ]
            rows.append({"network": name, "threat": str(threat), "broken": sum(broken["ours"]), "differ": len(wrong)})
            print(rows[-1], file=sys.stderr, flush=True)
    return {"pairs": len(rows) * len(split), "differ": differing, "rows": rows}


def verdicts(folder: RunFolder, split: Split, threat: Threat) -> dict[str, list[bool]]:
    """Which images both break, on the first network of a run."""
    model, _ = load_agent(folder, folder.config.method.deploy()[0])
    x, y = split.pixels().contiguous(), split.all_labels()
    flags, _ = ours(model.eval(), x, y, threat)
    with judged(model), torch.no_grad():
        expected = model(reference(model, x, y, threat=threat, seed=SEED)[0]).argmax(1) != y
    return {"ours": flags.tolist(), "theirs": expected.tolist()}


def workers(args: argparse.Namespace) -> dict[str, Any]:
    """``evaluate`` on a run with 0, 1 and 2 workers: the same files, and seconds of wall time, Ray's start included."""
    folder, found = trained("digits", args), {}
    for n in (0, 1, 2):
        shutil.rmtree(folder.path / "evaluation" / f"workers-{n}", ignore_errors=True)
        started = time.perf_counter()
        options: dict[str, Any] = {
            "attacks": ["clean", "autoattack"],
            "threats": ["linf:0.2"],
            "workers": n,
            "masking": 0,
        }
        evaluate_run(folder, examples=args.images or 128, block=64, name=f"workers-{n}", **options)
        files = sorted((folder.path / "evaluation" / f"workers-{n}" / "blocks").rglob("*.parquet"))
        found[str(n)] = {"seconds": time.perf_counter() - started, "files": [sha256(f) for f in files]}
    same = all(f["files"] == found["0"]["files"] for f in found.values())
    return {"identical": same, "seconds": {n: f["seconds"] for n, f in found.items()}}


if __name__ == "__main__":
    main()
