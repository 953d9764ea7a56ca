"""Where a team's actors run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.util.placement_group import PlacementGroup

from sparring.agents.spec import AgentSpec
from sparring.cluster.machines.fitting import Bundle


@dataclass(frozen=True, slots=True)
class Site:
    """Where a team's actors run."""

    group: PlacementGroup
    bundles: Sequence[Bundle]  # those of the agents
    runtime_env: dict[str, Any]  # what our packages need there
    replacement: float = 600.0  # seconds to wait for a node that takes over from a lost one
    folder: Path | None = None  # the run's, which every node must see
    borrowed: bool = False  # the group is somebody else's, who keeps its first bundle and removes it


def on_bundle(bundle: Bundle, spec: AgentSpec) -> AgentSpec:
    """An agent without a GPU of its own computes on the CPU, although Ray lets it see the node's GPUs."""
    return spec if bundle.gpus else replace(spec, device="cpu")
