"""Where the weights of a role come from, and how good they are: runs, published models, files from elsewhere."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agents import foreign_weights, model_folder
from agents.checkpoint import load_model, save_model, sha256
from agents.robustness import correct
from agents.spec import AgentSpec
from cluster import weights
from cluster.errors import BrokenCheckpoint, UsageError
from cluster.models import agent_folder, weights_file
from cluster.run_folder import RunFolder
from trainers.config import DataConfig

if TYPE_CHECKING:
    from cluster.run_config import RunConfig
    from cluster.settings import Own

HELD_OUT = 128  # images on which a teacher is looked at before the first step


def found(role: str, own: Own, data: DataConfig) -> tuple[Path, str | None]:
    """The folder (or one file of weights in it) that ``own.init`` means, and the network in it where that is known.

    A run means its agent's best checkpoint, a published model its newest version; a file from elsewhere is turned into a
    network of ours in the cache of decoded images.

    Raises:
        UsageError: nothing of that kind is there, or a file whose network is not named.
        BrokenCheckpoint: the file cannot be read or does not fit.
    """
    assert own.init is not None
    path = Path(own.init)
    version = model_folder.resolve(path)
    if version is not None:
        wrong = model_folder.problems(version)
        if wrong:
            raise BrokenCheckpoint("; ".join(wrong))
        if not (version / "model.safetensors").is_file():
            raise UsageError(f"{version} is an ensemble of several networks; a role takes one")
        return version.resolve(), own.network
    if (path / "model.safetensors").is_file() or (path.parent / "state.json").is_file():
        return path.resolve(), own.network
    if path.suffix in foreign_weights.SUFFIXES:
        return _imported(role, own, data)
    run, _, agent = own.init.partition("@")
    return agent_folder(RunFolder.open(Path(run)), agent or None)[0], own.network


def missing(config: RunConfig) -> dict[str, str]:
    """Frozen roles without weights, and the recipe that each needs."""
    from cluster.recipes import needs

    given = {role for role, own in config.agents.items() if own.init is not None}
    return {role: name for role, name in needs(config).items() if role not in given}


def wanted(config: RunConfig, asked_for: bool) -> bool:
    """Whether missing teachers are to be trained first: asked for by a flag, or agreed to in a terminal."""
    lacking = missing(config)
    if asked_for or not lacking or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return asked_for
    what = ", ".join(f"{role} ({name})" for role, name in lacking.items())
    print(f"This run needs trained networks: {what}. Train them first? [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def trained(config: RunConfig, *, runs_dir: Path, quiet: bool) -> RunConfig:
    """The run with every teacher that is missing trained by the recipe that it needs, or found where that was done before."""
    from cluster import launch
    from cluster.recipes import recipe

    same = ("data", "team", "address", "device", "placement", "threads_per_agent")
    changes = {}
    for role, name in missing(config).items():
        teacher = replace(recipe(name), **{k: getattr(config, k) for k in same})
        if not quiet:
            print(f"{role}: training {name}, or going on with it", file=sys.stderr)
        run = launch.train(teacher, runs_dir=runs_dir, name=f"{name}-teacher", resume_if_exists=True, quiet=quiet)
        changes[f"agents.{role}.init"] = str(run.path)
    return config.replace(changes)


def _imported(role: str, own: Own, data: DataConfig) -> tuple[Path, str]:
    flag = f"--agents.{role.replace('_', '-')}"
    if own.network is None:
        raise UsageError(f"{own.init} holds weights only; say of what network: {flag}.network wrn-34-10")
    path, mapping = Path(str(own.init)), Path(own.mapping) if own.mapping else None
    model = weights.load(path, own.network, data, mapping)
    content = sha256(path) + repr(model.config) + (mapping.read_text() if mapping else "")
    folder = Path(data.cache).expanduser() / "weights" / hashlib.sha256(content.encode()).hexdigest()[:24]
    save_model(model, folder)
    return folder.resolve(), model.config.spec


def facts(specs: list[AgentSpec], folder: RunFolder) -> dict[str, dict[str, Any]]:
    """What is known of every frozen network: sha256, accuracy on some held-out images, and its card's figures.

    A run that is continued has it noted.
    """
    roles = specs[0].make_method().roles()
    frozen = [n for n in specs[0].others if n not in roles or not roles[n].learns]
    if not frozen:
        return {}
    spec = specs[0]
    env = folder.path / "env.json"
    noted: dict[str, dict[str, Any]] = json.loads(env.read_text()).get("teachers", {}) if env.exists() else {}
    if {n: noted.get(n, {}).get("init") for n in frozen} == {n: spec.others[n][1] for n in frozen}:
        return noted
    _, held = spec.images.load().held_out(spec.data.validation, seed=spec.seed, fraction=spec.data.fraction)
    some = held[torch.arange(min(HELD_OUT, len(held)))]
    result = {}
    for name in frozen:
        path = Path(str(spec.others[name][1]))
        model = load_model(path)
        right = correct(model, some, None, seed=0, device=torch.device("cpu"))
        result[name] = {
            "init": str(path),
            "network": model.config.spec,
            "sha256": sha256(weights_file(path)),
            "held_out_accuracy": float(right.double().mean()),
            "n": len(some),
            "classes": model.config.classes,
            "measured": _measured(path),
        }
    return result


def _measured(path: Path) -> list[dict[str, Any]]:
    """Evaluations of these very weights: on a published model's card, or in the run that they are from."""
    from cluster import card

    if (path / "card.json").is_file():
        return list(model_folder.card(path)["evaluations"])
    folder = next((p for p in path.parents if (p / "config.yaml").is_file()), None)
    return card.evaluations(folder, sha256(weights_file(path))) if folder else []


def warnings(teachers: dict[str, dict[str, Any]]) -> list[str]:
    """One line per frozen network that guesses."""
    return [
        f"WARNING: {name} is right on {100 * f['held_out_accuracy']:.0f} % of {f['n']} held-out images, which is near chance; is it "
        "trained on other classes, or for normalised pixels?"
        for name, f in teachers.items()
        if f["held_out_accuracy"] < 2 / f["classes"]
    ]


def lines(teachers: dict[str, dict[str, Any]]) -> list[str]:
    """One line per frozen network."""
    said = []
    for name, f in teachers.items():
        right = f"right on {100 * f['held_out_accuracy']:.0f} % of {f['n']} held-out images"
        said.append(f"{name}: {f['network']}, sha256 {f['sha256'][:12]}, {right}")
    return said
