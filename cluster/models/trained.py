"""Trained networks, read back from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sparring.agents.checkpoint import CheckpointError, load_model, sha256
from sparring.agents.ensemble import Ensemble
from sparring.cluster.errors import BrokenCheckpoint, UsageError
from sparring.cluster.runs.folder import RunFolder


def load_agent(folder: RunFolder, agent: str | None = None, *, checkpoint: str = "best") -> tuple[nn.Module, int]:
    """The network of an agent in eval mode and the step it was saved at.

    Raises:
        UsageError: no such agent, or several products and none named.
        BrokenCheckpoint: no whole checkpoint; names the damaged files.
    """
    folder_of, step = agent_folder(folder, agent, checkpoint=checkpoint)
    try:
        return load_model(folder_of), step
    except CheckpointError as error:
        raise BrokenCheckpoint(str(error)) from error


def agent_folder(folder: RunFolder, agent: str | None = None, *, checkpoint: str = "best") -> tuple[Path, int]:
    """The folder of an agent in a whole checkpoint, and its step; errors as :func:`load_agent`."""
    if checkpoint not in ("best", "last"):
        raise UsageError(f"checkpoint {checkpoint!r} is not allowed; use best or last")
    checkpoints = folder.checkpoints
    steps = checkpoints.committed()
    if not steps:
        raise BrokenCheckpoint(f"{folder} has no committed checkpoint; train it with: sparring resume {folder}")
    names = chosen_agents(folder, [agent] if agent else [])
    if len(names) > 1:
        raise UsageError(f"run {folder.path.name} has {len(names)} products; name one: {', '.join(names)}")
    best = checkpoints.manifest(steps[-1])["best"]
    step = best[names[0]]["step"] if checkpoint == "best" and names[0] in best else steps[-1]
    wrong = checkpoints.problems(step)
    if wrong:
        raise BrokenCheckpoint(
            f"checkpoint of step {step} in {folder} is damaged: {'; '.join(wrong)}. See: sparring fsck {folder}"
        )
    role, _, average = names[0].partition(".")
    path = checkpoints.path(step) / "agents" / role
    if average and not (path / f"{average}.safetensors").is_file():
        raise UsageError(f"{role} has no average {average!r} at step {step} of {folder}; see --optim.swa, --optim.ema")
    return (path / f"{average}.safetensors" if average else path), step


ENSEMBLE = "ensemble"  # the name, beside the agents', of all products as one network


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to be evaluated, and how an evaluation records it: ``weights`` (sha256) or ``members``, and ``step``."""

    model: nn.Module
    record: dict[str, Any]
    folder: Path | None = None  # where its weights lie as an agent's or a published model's do, or a file in there


def subject(folder: RunFolder, agent: str, *, checkpoint: str = "best") -> Subject:
    """An agent's network; ``ensemble``: all products as one."""
    if agent != ENSEMBLE:
        path, step = agent_folder(folder, agent, checkpoint=checkpoint)
        model, _ = load_agent(folder, agent, checkpoint=checkpoint)
        return Subject(model, {"weights": sha256(weights_file(path)), "step": step}, folder=path)
    parts = {name: subject(folder, name, checkpoint=checkpoint) for name in chosen_agents(folder)}
    if len(parts) < 2:
        raise UsageError(f"run {folder.path.name} has one product, {next(iter(parts))}; an ensemble needs two or more")
    records = {name: part.record for name, part in parts.items()}
    ensemble = Ensemble([part.model for part in parts.values()]).eval()
    return Subject(ensemble, {"members": records, "step": max(r["step"] for r in records.values())})


def recorded_subject(folder: RunFolder, agent: str, facts: Mapping[str, Any]) -> nn.Module | None:
    """The network of a recorded :class:`Subject`; None when its weights are not there unaltered."""
    if "members" in facts:
        found = [recorded_subject(folder, name, member) for name, member in facts["members"].items()]
        parts = [part for part in found if part is not None]
        return Ensemble(parts).eval() if len(parts) == len(found) else None
    role, _, average = agent.partition(".")
    base = folder.checkpoints.path(facts["step"]) / "agents" / role
    path = base / f"{average}.safetensors" if average else base
    file = weights_file(path)
    if not file.is_file() or sha256(file) != facts["weights"]:
        return None
    return load_model(path)


def weights_file(path: Path) -> Path:
    """The file of weights that a path of :func:`agent_folder` means."""
    return path if path.suffix == ".safetensors" else path / "model.safetensors"


def chosen_agents(folder: RunFolder, agents: Sequence[str] = ()) -> list[str]:
    """The named agents (``student``, or ``student.swa`` for an average of its weights), or the method's products: averages
    where there are any.

    Raises:
        UsageError: the run has no such agent.
    """
    method = folder.config.method
    unknown = [a for a in agents if a != ENSEMBLE and a.partition(".")[0] not in method.roles()]
    if unknown:
        raise UsageError(f"run {folder.path.name} has no agent {unknown[0]!r}; it has: {', '.join(method.roles())}")
    return list(agents) or [deployed(folder, role) for role in method.deploy()]


def deployed(folder: RunFolder, role: str) -> str:
    """The role, or the average of its weights that takes its place once it exists."""
    steps = folder.checkpoints.committed()
    best = folder.checkpoints.manifest(steps[-1])["best"] if steps else {}
    return next((name for name in (f"{role}.swa", f"{role}.ema") if name in best), role)
