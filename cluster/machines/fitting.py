"""Whether bundles fit on nodes: exact for equal shares, without Ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one agent, or one lane of it, gets: ``Bundle("peer0", cpus=1, gpus=0.5, label="zone=b")``."""

    agent: str
    cpus: float
    gpus: float = 0.0
    label: str | None = None

    @property
    def resources(self) -> dict[str, float]:
        """As Ray takes them: no zeros."""
        return {k: v for k, v in (("CPU", self.cpus), ("GPU", self.gpus)) if v > 0}

    @property
    def selector(self) -> dict[str, str]:
        """The node labels it needs."""
        key, _, value = (self.label or "").partition("=")
        return {key: value} if key else {}


@dataclass(frozen=True, slots=True)
class Node:
    """A node alive: ``Node("10.0.0.1", {"CPU": 8.0, "GPU": 2.0}, {"zone": "b"})``."""

    name: str
    resources: Resources
    labels: Mapping[str, str]


def fits(bundles: Sequence[Bundle], nodes: Sequence[Node], strategy: str) -> bool:
    """Whether some assignment of bundles to nodes holds: whole numbers of equal bundles per node, solved exactly.

    A fraction of a GPU counts as 1/n of one, so unequal fractions that would just fill one together are refused.
    """
    kinds = list(Counter(replace(b, agent="") for b in bundles).items())
    if strategy == "STRICT_PACK":
        return any(_one_holds(kinds, node) for node in nodes)
    if not nodes:
        return False
    most = [[min(count, _room(node, kind)) for node in nodes] for kind, count in kinds]
    if strategy == "STRICT_SPREAD":
        most = [[min(1, m) for m in row] for row in most]
    if len(kinds) == 1:  # nearly always; scipy takes half a second to import
        return sum(most[0]) >= kinds[0][1]
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    k, n = len(kinds), len(nodes)
    rules = [LinearConstraint(np.kron(np.eye(k), np.ones((1, n))), [c for _, c in kinds], [c for _, c in kinds])]
    for resource in ("CPU", "GPU"):
        need = np.array([[_share(kind).get(resource, 0.0) for kind, _ in kinds]])
        rules.append(
            LinearConstraint(
                np.kron(need, np.eye(n)), -np.inf, [node.resources.get(resource, 0) + 1e-6 for node in nodes]
            )
        )
    if strategy == "STRICT_SPREAD":
        rules.append(LinearConstraint(np.kron(np.ones((1, k)), np.eye(n)), -np.inf, 1))
    found = milp(np.zeros(k * n), integrality=np.ones(k * n), bounds=Bounds(0, np.ravel(most)), constraints=rules)
    return bool(found.success)


def _one_holds(kinds: Sequence[tuple[Bundle, int]], node: Node) -> bool:
    total = {r: sum(_share(b).get(r, 0.0) * count for b, count in kinds) for r in ("CPU", "GPU")}
    enough = all(need <= node.resources.get(r, 0) + 1e-6 for r, need in total.items())
    return enough and all(_room(node, b) for b, _ in kinds)


def _share(bundle: Bundle) -> dict[str, float]:
    """What a bundle uses up: a fraction of a GPU lies on one GPU, so 0.4 leaves room for one more, not one and a half."""
    gpus = 1 / math.floor(1 / bundle.gpus + 1e-9) if 0 < bundle.gpus < 1 else bundle.gpus
    return replace(bundle, gpus=gpus).resources


def _room(node: Node, bundle: Bundle) -> int:
    """How many such bundles a node holds."""
    if any(node.labels.get(k) != v for k, v in bundle.selector.items()):
        return 0
    return min(math.floor(node.resources.get(k, 0) / v + 1e-6) for k, v in _share(bundle).items())


def words(resources: Resources) -> str:
    return ", ".join(f"{v:g} {k}" for k, v in sorted(resources.items()) if k in ("CPU", "GPU")) or "nothing"
