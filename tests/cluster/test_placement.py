"""The plan: one bundle per agent, or a sentence that names the fix."""

from __future__ import annotations

import re
import time

import pytest

from cluster import placement
from cluster.errors import NoResources, UsageError
from cluster.settings import Placement

TWO_GPU_NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]


def test_gpus_where_there_are_any() -> None:
    assert placement.plan(3, Placement(), TWO_GPU_NODES) == [{"CPU": 1.0, "GPU": 1.0}] * 3
    assert placement.plan(2, Placement(), [{"CPU": 2.0}]) == [{"CPU": 1.0}] * 2
    assert placement.plan(6, Placement(gpus_per_agent=0.5), TWO_GPU_NODES) == [{"CPU": 1.0, "GPU": 0.5}] * 6
    with pytest.raises(UsageError, match=r"--placement\.cpus-per-agent above 0"):
        placement.plan(9, Placement(cpus_per_agent=0, gpus_per_agent=0), TWO_GPU_NODES)


@pytest.mark.parametrize(
    ("agents", "options", "nodes", "words"),
    [
        (3, {}, [{"CPU": 2.0}], ["3 agents need 1 CPU each", "node 0: 2 CPU", "--placement.cpus-per-agent 0.66"]),
        (
            9,
            {},
            TWO_GPU_NODES,
            ["9 agents need 1 CPU, 1 GPU each", "node 1: 8 CPU, 2 GPU", "--placement.gpus-per-agent 0.4"],
        ),
        (1, {"gpus_per_agent": 1}, [{"CPU": 4.0}], ["1 agents need 1 CPU, 1 GPU", "--placement.gpus-per-agent 0"]),
        (3, {"strategy": "STRICT_PACK"}, TWO_GPU_NODES, ["STRICT_PACK", "--placement.strategy PACK"]),
        (3, {"strategy": "STRICT_SPREAD"}, TWO_GPU_NODES, ["STRICT_SPREAD", "--placement.strategy SPREAD"]),
        (1, {"cpus_per_agent": 6}, [{"CPU": 4.0}, {"CPU": 4.0}], ["1 agents need 6 CPU each"]),
    ],
)
def test_impossible_plans(
    agents: int, options: dict[str, object], nodes: list[dict[str, float]], words: list[str]
) -> None:
    with pytest.raises(NoResources) as caught:
        placement.plan(agents, Placement(**options), nodes)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)
    advice = re.search(r"--placement\.(\w+)-per-agent ([\d.]+)", str(caught.value))
    if advice and float(advice[2]) > 0 and "strategy" not in options:  # the advice works
        placement.plan(agents, Placement(**(options | {f"{advice[1]}_per_agent": float(advice[2])})), nodes)  # type: ignore[arg-type]


def test_resources_in_use_are_said_in_time(ray_session: str) -> None:
    import ray

    held = placement.reserve([{"CPU": 1.0}] * 7, Placement())
    started = time.monotonic()
    with pytest.raises(NoResources, match=r"in use: 2 agents of 1 CPU were not free within 2 s.*free now: 1 CPU"):
        placement.reserve([{"CPU": 1.0}] * 2, Placement(), timeout=2)
    assert time.monotonic() - started < 10
    ray.util.remove_placement_group(held)
