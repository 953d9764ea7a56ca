"""AT, MAT, B-MTARD, PeerAiD and MixACM with ResNet-18 on CIFAR-10 at equal short budgets, on one GPU and without Ray.

python benchmarks/cifar10_short.py --data-root DATA --runs-dir runs/cifar10-short [--minutes 9] [--save]

Every row is ``sparring train METHOD-cifar10-short`` in one process; teachers (``at``, ``clean``) are trained first and have their
own rows. Interrupted or out of ``--minutes``, the same command goes on where it stopped; ``--save`` writes the table once all is there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import circumstances, save

from sparring.cluster.config.recipes import needs, recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import Interrupted
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.machines.stop import terminate_interrupts
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

METHODS = ("clean", "at", "mat", "mtard", "peeraid", "mixacm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--data-name", default="cifar10", help="other images, for trying it out")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/cifar10-short"))
    parser.add_argument("--epochs", type=int, help="instead of the recipes' own")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, help="stop after so long; everything is saved")
    parser.add_argument("--only", nargs="*", default=list(METHODS))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/cifar10_short.json")
    args = parser.parse_args()
    if args.minutes:
        timer = threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True  # what ends earlier does not wait for it
        timer.start()
    try:
        with terminate_interrupts():  # an evaluation; training finishes its step and saves
            rows = {method: row(method, args) for method in args.only}
    except (Interrupted, KeyboardInterrupt) as stopped:
        print(f"{stopped or 'stopped while it evaluated'}\nthe same command goes on from there", file=sys.stderr)
        return 130
    configs = next(iter(rows.values()))
    record = {
        **circumstances(seed=0),
        "gpu": gpu(),
        "n": args.examples,
        "epochs": args.epochs or recipe("at-cifar10-short").epochs,
        "network": configs["network"],
        "precision": args.precision,
        "compile": args.compile,
        "rows": rows,
    }
    print(save("cifar10_short", record) if args.save else json.dumps(record))
    return 0


def gpu() -> str | None:
    """Name of the device."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def configured(method: str, args: argparse.Namespace) -> RunConfig:
    """The short recipe in one process."""
    config = recipe(f"{method}-cifar10-short")
    changes: dict[str, Any] = {"team": "local", "data.root": args.data_root, "data.name": args.data_name}
    changes |= {"batch_size": args.batch_size, "network": args.network}
    changes |= {"precision": args.precision, "compile": args.compile}
    changes |= {k: v for k, v in (("epochs", args.epochs), ("max_steps", args.max_steps)) if v}
    for role, teacher in needs(config).items():
        changes[f"agents.{role}.init"] = str(args.runs_dir / teacher.partition("-")[0])
    return config.replace(changes)


def row(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train to the end, or find that done; evaluate once."""
    config = configured(method, args)
    for teacher in needs(recipe(f"{method}-cifar10-short")).values():
        name = teacher.partition("-")[0]
        launch.train(
            configured(name, args),
            runs_dir=args.runs_dir,
            name=name,
            resume_if_exists=True,
            how=Circumstances(quiet=True),
        )
    done = args.runs_dir / f"{method}.json"
    if done.exists():
        return dict(json.loads(done.read_text()))
    started = time.perf_counter()
    launch.train(config, runs_dir=args.runs_dir, name=method, resume_if_exists=True)
    folder = RunFolder.open(args.runs_dir / method)
    report = evaluate_run(folder, attacks=["clean", "pgd-20"], examples=args.examples, block=500, masking=0)
    one = next(iter(config.method.roles()))  # agents of one process take turns: what one does not do is its idle time
    seconds = sum(sum(line["seconds"].values()) for line in folder.metrics() if line["agent"] == one)
    result = {
        "minutes": round(seconds / 60, 1),
        "network": config.network,
        "agents": {
            name: {"clean": r["clean_accuracy"], "pgd20": r["robust_accuracy"], "ci95": r["ci95"]}
            for name, r in report["agents"].items()
        },
    }
    done.write_text(json.dumps(result))
    print(method, json.dumps(result), f"({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
