"""The plan: one bundle per lane of every agent, or a sentence that names the fix."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from sparring.cluster.config.settings import Own, Placement
from sparring.cluster.errors import Interrupted, NoResources, UsageError
from sparring.cluster.machines import placement
from sparring.cluster.machines.fitting import Bundle, Node
from sparring.cluster.machines.stop import StopSignal
from tests.hosts import wait_for

GPU_NODES = [
    Node("10.0.0.1", {"CPU": 8.0, "GPU": 2.0}, {"zone": "a", "ray.io/market-type": "spot"}),
    Node("10.0.0.2", {"CPU": 8.0, "GPU": 2.0}, {"zone": "b"}),
]


def cpus(*counts: float) -> list[Node]:
    return [Node(f"host{i}", {"CPU": count}, {}) for i, count in enumerate(counts)]


def roles(count: int) -> list[str]:
    return [f"peer{i}" for i in range(count)]


def resources(bundles: list[Bundle]) -> list[dict[str, float]]:
    return [b.resources for b in bundles]


def test_gpus_where_there_are_any() -> None:
    assert resources(placement.plan(roles(3), Placement(), GPU_NODES)) == [{"CPU": 1.0, "GPU": 1.0}] * 3
    assert resources(placement.plan(roles(2), Placement(), cpus(2))) == [{"CPU": 1.0}] * 2
    assert resources(placement.plan(roles(8), Placement(gpus_per_agent=0.5), GPU_NODES)) == [{"CPU": 1, "GPU": 0.5}] * 8
    with pytest.raises(UsageError, match=r"--placement\.cpus-per-agent above 0"):
        placement.plan(roles(9), Placement(cpus_per_agent=0, gpus_per_agent=0), GPU_NODES)


def test_every_lane_has_a_bundle_and_an_agent_what_is_its_own() -> None:
    own = {"peer1": Own(gpus=0, label="zone=b")}
    bundles = placement.plan(roles(2), Placement(label="zone=a"), GPU_NODES, lanes=2, own=own)
    assert [b.agent for b in bundles] == ["peer0", "peer0", "peer1", "peer1"]
    assert [b.selector for b in bundles] == [{"zone": "a"}] * 2 + [{"zone": "b"}] * 2
    assert resources(bundles) == [{"CPU": 1.0, "GPU": 1.0}] * 2 + [{"CPU": 1.0}] * 2


@pytest.mark.parametrize(
    ("count", "options", "nodes", "words"),
    [
        (3, {}, cpus(2), ["3 agents need 1 CPU each", "host0: 2 CPU", "--placement.cpus-per-agent 0.66"]),
        (9, {}, GPU_NODES, ["9 agents need 1 CPU, 1 GPU each", "10.0.0.2: 8 CPU, 2 GPU", "per-agent 0.33"]),
        (1, {"gpus_per_agent": 1}, cpus(4), ["peer0 needs 1 CPU, 1 GPU", "--placement.gpus-per-agent 0"]),
        (3, {"strategy": "STRICT_PACK"}, GPU_NODES, ["STRICT_PACK", "--placement.strategy PACK"]),
        (3, {"strategy": "STRICT_SPREAD"}, GPU_NODES, ["STRICT_SPREAD", "--placement.strategy SPREAD"]),
        (1, {"cpus_per_agent": 6}, cpus(4, 4), ["peer0 needs 6 CPU", "--placement.cpus-per-agent 1"]),
        (9, {"gpus_per_agent": 0.4}, GPU_NODES, ["9 agents need 1 CPU, 0.4 GPU", "--placement.gpus-per-agent 0.33"]),
        (2, {"label": "zone=c"}, GPU_NODES, ["No node has the label zone=c", "zone=a, zone=b", "--labels zone=c"]),
        (3, {"label": "zone=b"}, GPU_NODES, ["3 agents need 1 CPU, 1 GPU each on a node with zone=b", "0.5"]),
    ],
)
def test_impossible_plans(count: int, options: dict[str, Any], nodes: list[Node], words: list[str]) -> None:
    with pytest.raises(NoResources) as caught:
        placement.plan(roles(count), Placement(**options), nodes)
    text = str(caught.value)
    for word in words:
        assert word in text
    for name, value in re.findall(r"--placement\.(\w+)-per-agent ([\d.]+)", text):  # the advice works
        placement.plan(roles(count), Placement(**(options | {f"{name}_per_agent": float(value)})), nodes)
    for strategy in re.findall(r"--placement\.strategy (\w+)", text):
        placement.plan(roles(count), Placement(**(options | {"strategy": strategy})), nodes)


def test_different_bundles_are_fitted_exactly() -> None:
    """3 + 3 + 2 + 2 + 2 CPUs on two nodes of 6: only {3, 3} and {2, 2, 2} works."""
    nodes = [Node("a", {"CPU": 12.0, "GPU": 6.0}, {}), Node("b", {"CPU": 12.0, "GPU": 6.0}, {})]
    own = {f"peer{i}": Own(gpus=g) for i, g in enumerate((2, 3, 2, 3, 2))}
    assert len(placement.plan(roles(5), Placement(), nodes, own=own)) == 5
    with pytest.raises(NoResources):
        placement.plan(roles(5), Placement(), nodes, own=own | {"peer0": Own(gpus=3)})


def test_waiting_leaves_the_check_to_the_autoscaler() -> None:
    assert len(placement.plan(roles(9), Placement(wait=60), GPU_NODES)) == 9
    with pytest.raises(UsageError, match=r"--wait needs --placement\.gpus-per-agent as long as no node has a GPU"):
        placement.plan(roles(2), Placement(wait=60), cpus(0))
    assert resources(placement.plan(roles(1), Placement(wait=60, gpus_per_agent=1), [])) == [{"CPU": 1.0, "GPU": 1.0}]


def test_lanes_share_no_gpu() -> None:
    with pytest.raises(UsageError, match=r"lanes = 2 need a whole GPU each"):
        placement.plan(roles(1), Placement(gpus_per_agent=0.5), GPU_NODES, lanes=2)
    with pytest.raises(NoResources, match=r"Set --placement\.gpus-per-agent 0, or take fewer --lanes"):
        placement.plan(roles(1), Placement(), GPU_NODES, lanes=5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Placement(gpus_per_agent=1.5),
            "1.5 is not allowed; expected a fraction from 0 to 1, or a whole number",
        ),
        (lambda: Own(gpus=-1), "-1 is not allowed"),
        (lambda: Placement(label="zone"), "'zone' is not allowed; expected key=value"),
        (lambda: Own(label="=b"), "expected key=value"),
    ],
)
def test_bad_values(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.fixture
def free_session(ray_session: str) -> None:
    """The session's CPUs, all free: a run that has just ended gives them back within seconds."""
    import ray

    wait_for(
        lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], seconds=60, what="free CPUs"
    )


def test_resources_in_use_are_said_in_time(free_session: None) -> None:
    import ray

    held = placement.reserve([Bundle("peer0", 1.0)] * 7, Placement())
    started = time.monotonic()
    try:
        with pytest.raises(
            NoResources, match=r"in use: 2 agents need 1 CPU each, not free within 2 s.*free now: 1 CPU"
        ):
            placement.reserve([Bundle("peer0", 1.0)] * 2, Placement(), timeout=2)
        with pytest.raises(NoResources, match=r"no node came within 1 s that makes room: 9 agents need 1 CPU each"):
            placement.reserve([Bundle("peer0", 1.0)] * 9, Placement(wait=1, gpus_per_agent=0), timeout=1)
        assert time.monotonic() - started < 10
    finally:
        ray.util.remove_placement_group(held)


def test_a_signal_ends_a_wait(free_session: None) -> None:
    """Nothing is under way: the run stops at once instead of after its --wait, and nothing stays reserved."""
    import os
    import signal
    import threading

    import ray

    timer = threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with StopSignal():
        timer.start()
        started = time.monotonic()
        with pytest.raises(Interrupted, match=r"stopped while it waited for resources; .*--resume-if-exists"):
            placement.reserve([Bundle("peer0", 1.0)] * 9, Placement(wait=60, gpus_per_agent=0))
        assert time.monotonic() - started < 10
    assert {g["state"] for g in ray.util.placement_group_table().values()} == {"REMOVED"}
