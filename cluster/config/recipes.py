"""Named runs: each recipe is a function that returns a complete configuration."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from sparring.cluster.config.published import MULTI, RESULTS, Setting
from sparring.cluster.config.published import PUBLISHED as OWN
from sparring.cluster.config.published_baselines import BASELINES
from sparring.cluster.config.published_imagenet import IMAGENET, NORMS
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.config.settings import Checkpointing
from sparring.trainers import methods
from sparring.trainers.config import Attack, DataConfig, OptimConfig

DIGITS_NORMS = {
    "linf": Attack(norm="linf", eps=0.15, steps=7),
    "l2": Attack(norm="l2", eps=0.6, steps=7),
    "l1": Attack(norm="l1", eps=2.0, steps=12),
}
CIFAR_NORMS = {  # radii and steps of MSD (arXiv 1909.04068) and E-AT (arXiv 2105.12508)
    "linf": Attack(norm="linf", eps=8 / 255, step_size=2 / 255, steps=10),
    "l2": Attack(norm="l2", eps=0.5, step_size=0.1, steps=10),
    "l1": Attack(norm="l1", eps=12, step_size=1.0, steps=20),
}


def digits(method: str) -> RunConfig:
    """Any method on scikit-learn's digits, about half a minute on two CPU cores: linf eps 0.15, PGD-7, 40 epochs."""
    kind = methods.load(method)
    made = kind(**kind.DIGITS)
    return RunConfig(
        recipe=f"{Path(method).stem}-digits",
        method=made,
        network="small_cnn:width=24",
        attack=Attack(**{"norm": "linf", "eps": 0.15, "steps": 7, **made.ATTACK}),
        attacks={p: DIGITS_NORMS[p] for p in made.norms()},
        optim=OptimConfig(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="linear"),
        epochs=40,
        batch_size=128,
        checkpoint=Checkpointing(every=100),
    )


def images(method: str, data: str, network: str) -> RunConfig:
    """A method on colour images: linf 8/255, PGD-10 with step 2/255, SGD 0.1 lowered tenfold at epochs 100 and 150 of 200.

    Sources: the recipe of Rice et al. (arXiv 2002.11569) and of the methods' published scripts; crop with padding 4 and flip.
    """
    padding = {"cifar10": 4, "cifar100": 4, "tiny-imagenet": 8, "mini-imagenet": 8}[data]
    made = methods.load(method)()
    return RunConfig(
        recipe=f"{method}-{data}-{network}",
        method=made,
        network=network,
        data=DataConfig(name=data, augment="crop-flip", padding=padding, validation=0.02),
        attack=Attack(**{"norm": "linf", "eps": 8 / 255, "steps": 10, "step_size": 2 / 255, **made.ATTACK}),
        attacks={p: CIFAR_NORMS[p] for p in made.norms()},
        optim=OptimConfig(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="multistep", milestones=(100, 150)),
        epochs=200,
        batch_size=128,
        checkpoint=Checkpointing(every=400),
    )


def imagenet(method: str, network: str) -> RunConfig:
    """A method on ImageNet at 224 pixels: linf 4/255, random parts in training, the middle 7/8 in evaluation."""
    made = methods.load(method)()
    return RunConfig(
        recipe=f"{method}-imagenet-{network}",
        method=made,
        network=network,
        data=DataConfig(name="imagenet", size=224, middle=0.875, augment="resized-crop", validation=0.01),
        attack=Attack(**{"norm": "linf", "eps": 4 / 255, **made.ATTACK}),
        attacks={p: NORMS[p] for p in made.norms()},
        optim=OptimConfig(momentum=0.9),
        checkpoint=Checkpointing(every=1000),
    )


PUBLISHED: dict[str, Setting] = OWN | BASELINES | IMAGENET
SETTINGS = [
    ("cifar10", "resnet18"),
    ("cifar10", "preact_resnet18"),
    ("cifar10", "wrn-34-10"),
    ("cifar100", "resnet18"),
    ("cifar100", "wrn-34-10"),
    ("tiny-imagenet", "preact_resnet18"),
    ("mini-imagenet", "preact_resnet18"),
]
AWP = {"optim.awp": 0.005}  # TRADES with adversarial weight perturbation, as its paper has it (arXiv 2004.05884)
UNION = ("mat_multi", "avg", "max", "msd", "eat")  # methods against several norms


def short(method: str) -> RunConfig:
    """Any method on CIFAR-10 with ResNet-18 for 30 epochs, the rate falling linearly to 0; all agents may share one GPU."""
    config = images(method, "cifar10", "resnet18")
    networks = len(config.method.roles())
    changes = {"epochs": 30, "optim.schedule": "linear", "optim.milestones": (), "optim.warmup": 1.0}
    changes |= {"placement.gpus_per_agent": round(1 / networks, 2) if networks > 1 else None}
    if hasattr(config.method, "begin"):
        changes |= {"method.begin": 9}  # of 30 epochs, as 60 of 200
    return replace(config.replace(changes), recipe=f"{method}-cifar10-short")


def published(name: str) -> RunConfig:
    """A paper's setting; see ``cluster/config/published.py``, ``published_baselines.py`` and ``published_imagenet.py``."""
    s = PUBLISHED[name]
    common = imagenet(s.method, s.network) if s.data == "imagenet" else images(s.method, s.data, s.network)
    return replace(common.replace(s.changes), recipe=name)


def multi(method: str) -> RunConfig:
    """A method against several norms on CIFAR-10, with the schedule of MSD and E-AT: 50 epochs."""
    name = f"{method}-cifar10-preact_resnet18"
    return replace(images(method, "cifar10", "preact_resnet18").replace(MULTI), recipe=name)


RECIPES: dict[str, Callable[[], RunConfig]] = {
    **{f"{name}-digits": partial(digits, name) for name in methods.names()},
    "mtard_eccv-digits": lambda: replace(
        digits("mtard").replace({"method.variant": "eccv"}), recipe="mtard_eccv-digits"
    ),
    "trades_awp-digits": lambda: replace(digits("trades").replace(AWP), recipe="trades_awp-digits"),
    "trades_awp-cifar10-short": lambda: replace(short("trades").replace(AWP), recipe="trades_awp-cifar10-short"),
    **{f"{m}-{data}-{net}": partial(images, m, data, net) for m in ("mat", "at", "clean") for data, net in SETTINGS},
    **{f"{m}-cifar10-preact_resnet18": partial(multi, m) for m in UNION},
    **{name: partial(published, name) for name in PUBLISHED},
    **{f"{name}-cifar10-short": partial(short, name) for name in methods.names()},
}


def needs(config: RunConfig) -> dict[str, str]:
    """Frozen role -> recipe of the network that stands there: as published, or a short one on the same images."""
    roles = config.method.roles()
    frozen = [name for name in config.networks() if name not in roles or not roles[name].learns]
    known = PUBLISHED[config.recipe].needs if config.recipe in PUBLISHED else {}
    suffix = "cifar10-short" if config.recipe.endswith("-short") else "digits"
    return {role: known.get(role) or f"{'clean' if 'clean' in role else 'at'}-{suffix}" for role in frozen}


def results(name: str) -> tuple[str, ...]:
    """Accuracies that were published for a recipe, with their sources."""
    return PUBLISHED[name].results if name in PUBLISHED else RESULTS.get(name, ())


def source(name: str) -> tuple[str, tuple[str, ...]]:
    """Where a recipe's numbers are from, and what is not as there; empty where nothing was noted."""
    return (PUBLISHED[name].source, PUBLISHED[name].differs) if name in PUBLISHED else ("", ())


def recipe(name: str) -> RunConfig:
    """A recipe by name; a bare method, or the path of a method's file, means that method on digits.

    Raises:
        ValueError: unknown, with the nearest name.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if name in methods.names() or name.endswith(".py"):
        return digits(name)
    near = difflib.get_close_matches(name, [*RECIPES, *methods.names()], n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"recipe or method {name!r} is unknown. {hint}Methods: {', '.join(methods.names())}. Recipes: sparring recipes"
    )
