"""Every method on digits by its own recipe, in one process: accuracy of its products, forward passes of a step.

python benchmarks/methods.py [--epochs N] [--only NAME ...] [--save]

Teachers are the products of ``at`` and ``clean``, trained first by the same recipe.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import circumstances, save

from sparring.agents.endpoint import Endpoint
from sparring.agents.networks import Network
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.models.initial import resolved
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.images import prepare
from sparring.cluster.team.team import LocalHandle
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers import methods

ATTACKS = ["clean", "pgd-20"]


def configured(method: str, runs: Path, epochs: int | None) -> RunConfig:
    """The method's recipe for one process, with the two teachers where it wants any."""
    config = recipe(method).replace({"team": "local", **({"epochs": epochs} if epochs else {})})
    roles = config.method.roles()
    frozen = [name for name in config.networks() if name not in roles or not roles[name].learns]
    return config.replace({f"agents.{r}.init": str(runs / ("clean" if r == "clean_teacher" else "at")) for r in frozen})


def passes(config: RunConfig) -> dict[str, dict[str, int]]:
    """Forward passes of one step by network: in attacks and answers (eval), and in train mode."""
    specs = resolved(config).specs(prepare(config.data, quiet=True))
    handles = {spec.me: LocalHandle(Endpoint(spec)) for spec in specs}
    counts: dict[str, dict[str, int]] = {}

    def watch(name: str, network: Any) -> None:
        counts[name] = {"eval": 0, "train": 0}

        def counted(inner: Any) -> Any:
            def call(x: Any) -> Any:
                counts[name]["train" if network.training and isinstance(network, Network) else "eval"] += 1
                return inner(x)

            return call

        if isinstance(network, Network):
            network.register_forward_hook(
                lambda *_: None
            )  # who is listened to runs as the paper has it: nothing folded or merged
        else:
            network.forward = counted(network.forward)  # a frozen network beside the agent, folded
        network.features = counted(network.features)

    for role, handle in handles.items():
        watch(role, handle.endpoint.agent.model)
        for name, network in handle.endpoint.agent.view.beside.items():
            watch(name, network)
    config.method.step(handles, 0)  # type: ignore[arg-type]
    return counts


def measure(method: str, runs: Path, epochs: int | None) -> dict[str, Any]:
    """Train, evaluate the products on all test images, count."""
    config = configured(method, runs, epochs)
    run = launch.train(config, runs_dir=runs, name=method, how=Circumstances(quiet=True))
    report = evaluate_run(RunFolder(run.path), attacks=ATTACKS, masking=0)
    return {
        "products": {
            name: {
                "clean": r["clean_accuracy"],
                "robust": r["robust_accuracy"],
                "ci95": r["ci95"],
                "threats": {t: e["robust_accuracy"] for t, e in r["threats"].items()},
            }
            for name, r in report["agents"].items()
        },
        "n": next(iter(report["agents"].values()))["n"],
        "attack_steps": config.attack.iterations,
        "passes": passes(config),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="instead of the recipes' own")
    parser.add_argument("--only", nargs="*", help="these methods")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/methods.json")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        wanted = args.only or methods.names()
        for method in ["at", "clean", *(m for m in wanted if m not in ("at", "clean"))]:
            results[method] = measure(method, Path(folder), args.epochs)
            print(method, json.dumps(results[method]["products"]), flush=True)
    n = next(iter(results.values()))["n"]
    record = {
        **circumstances(seed=recipe("at").seed),
        "n": n,
        "epochs": args.epochs or recipe("at").epochs,
        "methods": results,
    }
    print(save("methods", record) if args.save else json.dumps(record))


if __name__ == "__main__":
    main()
