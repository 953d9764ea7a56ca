"""Every recipe takes two steps of batch 4 with random-weight teachers on the CPU: ``python -m tests.recipes_check [NAME ...]``.

Images are random ones of the data set's shape, attacks have one step. A network of more than ``LARGE`` parameters is only
built and run forward once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from sparring.agents import networks
from sparring.agents.checkpoint import save_model
from sparring.agents.networks import NetworkConfig
from sparring.cluster.config.recipes import RECIPES, needs, recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers import datasets

LARGE = 100_000_000
IMAGES = Path(__file__).with_name("tiny_images.py")


def check(name: str, folder: Path) -> str:
    """Two steps of a recipe; what was done, in a few words."""
    config = small(recipe(name), folder)
    dataset = datasets.load(config.data)
    if parameters(networks.configure(config.network, dataset)) > LARGE:
        model = networks.build(networks.configure(config.network, dataset)).eval()
        with torch.no_grad():
            assert model(torch.rand(1, *dataset.shape)).shape == (1, len(dataset.classes))
        return f"built, {sum(p.numel() for p in model.parameters()):,} parameters, one forward pass"
    for role, teacher in needs(recipe(name)).items():
        spec = recipe(teacher).network
        shown = networks.configure(spec, dataset)
        if parameters(shown) > LARGE:
            shown = networks.configure("wide_resnet:depth=10,widen=1,swish=True", dataset)  # its stand-in
        save_model(networks.build(shown), folder / f"{name}-{role}")
        config = config.replace({f"agents.{role}.init": str(folder / f"{name}-{role}")})
    run = launch.train(config, runs_dir=folder, name=name, how=Circumstances(quiet=True))
    return f"2 steps, {', '.join(run.agents)}"


def small(config: RunConfig, folder: Path) -> RunConfig:
    """The same in miniature."""
    changes: dict[str, object] = {"max_steps": 2, "batch_size": 4, "team": "local", "device": "cpu"}
    changes |= {"checkpoint.attack_steps": 0, "attack.steps": 1, "data.cache": str(folder / "cache")}
    changes |= {f"attacks.{norm}.steps": 1 for norm in config.attacks}
    if config.data.name == "imagenet":
        changes |= {"data.name": "generated:40", "data.size": 32, "loader.workers": 0}
    elif config.data.name != "digits":
        changes["data.name"] = f"{IMAGES}:{config.data.name.replace('-', '_')}"
    return config.replace(changes)


def parameters(config: NetworkConfig) -> int:
    """Counted without weights."""
    with torch.device("meta"):
        return sum(
            p.numel() for p in networks.parse(config.spec)[0](config, **networks.parse(config.spec)[1]).parameters()
        )


def main(names: list[str]) -> int:
    """Check the named recipes, or all."""
    torch.set_num_threads(1)
    for name in names or sorted(RECIPES):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            done = check(name, Path(folder))
        print(f"{name}: {done} ({time.perf_counter() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
