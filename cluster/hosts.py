"""What the other nodes of a run need: the decoded images in their cache, and sight of the run's files.

Each task runs once on each node of the placement group that is not the driver's.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agents.spec import Facts
from cluster import images
from cluster.errors import BrokenCheckpoint, Infrastructure
from trainers.datasets import Prepared, cache

TIMEOUT = 180.0  # seconds; a node's first task starts a process that imports torch
NOTICED = 5.0  # seconds until Ray says that a node is lost
VISIBLE = 5.0  # seconds after which a file of another host must be seen; network file systems cache what is not there


def prepare(
    group: PlacementGroup, shared: Prepared, *, folder: Path | None, files: Iterable[str], runtime_env: dict[str, Any]
) -> None:
    """Bring the images to every other node of the group, and check that it sees the run's folder and files.

    Args:
        group: the run's placement group, ready.
        shared: the run's images.
        folder: the run's; None when nothing is saved.
        files: paths that agents read: weights to start from, a user's network.
        runtime_env: what our packages need there.

    Raises:
        BrokenCheckpoint: a node does not see the folder, cannot write it, or lacks a file.
    """
    entries: dict[str, Any] = {}  # put into the object store once, however many nodes want them
    for node in sorted(_others(group)):
        there = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
        on_node = {**there, "runtime_env": runtime_env}
        for key in ray.get(_missing.options(**on_node).remote(shared), timeout=TIMEOUT):
            entries[key] = entries.get(key) or ray.put(cache.pack(Path(shared.cache) / key))
            ray.get(_receive.options(**on_node).remote(shared, key, entries[key]), timeout=TIMEOUT)
        if folder is not None:
            _probe(folder, sorted(files), on_node)


def leaving(group: PlacementGroup) -> list[str]:
    """Nodes of the group that are being drained: their addresses."""
    from ray._private.state import state  # Ray offers no other way to ask

    draining = set(state.get_draining_nodes())
    placed = set(ray.util.placement_group_table(group)["bundles_to_node_id"].values())
    return sorted(n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] in draining & placed)


def lacking(group: PlacementGroup) -> str | None:
    """What a group that was ready once lacks since a node was lost; None when every bundle has a living one."""
    table = ray.util.placement_group_table(group)
    alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
    lost = sorted(i for i, node in table["bundles_to_node_id"].items() if node not in alive)
    if table["state"] == "CREATED" and not lost:
        return None
    return f"{len(lost) or 'some'} of {len(table['bundles'])} bundles have none (placement group {table['state']})"


def await_bundles(group: PlacementGroup, deadline: float, say: Callable[[str], None]) -> None:
    """Wait until every bundle has a node; a group that was ready once is ready for Ray's own wait ever after.

    Args:
        deadline: on the monotonic clock.
        say: told once what is waited for.

    Raises:
        Infrastructure: none came in time.
    """
    if found := lacking(group):
        say(f"waiting for another node, at most {deadline - time.monotonic():.0f} s: {found}")
    while found := lacking(group):
        if time.monotonic() > deadline:
            raise Infrastructure(
                f"no node took over in time (--placement.replacement): {found}. Nothing committed is lost; add a node and continue "
                "with: sparring resume RUN"
            )
        time.sleep(0.2)


def soon_lacking(group: PlacementGroup) -> bool:
    """Whether a node turns out to be lost within the seconds that Ray takes to notice."""
    deadline = time.monotonic() + NOTICED
    while not lacking(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def end(facts: Facts | None) -> None:
    """Kill an agent's process if it is one of this host: a stopped one does not hear Ray's request."""
    here = (socket.gethostname(), ray.util.get_node_ip_address())
    if facts is not None and (facts.host, facts.node) == here and _is_actor(facts.pid):
        with suppress(ProcessLookupError):  # it may have ended by itself meanwhile
            os.kill(facts.pid, signal.SIGKILL)


def _is_actor(pid: int) -> bool:
    """Whether ``pid`` still is a Ray worker, and not some other process that got its number."""
    try:
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _others(group: PlacementGroup) -> set[str]:
    placed = set(ray.util.placement_group_table(group)["bundles_to_node_id"].values())
    return placed - {ray.get_runtime_context().get_node_id()}


def _probe(folder: Path, files: Sequence[str], on_node: dict[str, Any]) -> None:
    """A file that the driver writes must be seen there, and the answer beside it here."""
    asked = folder / f"probe-{secrets.token_hex(4)}"
    answered = asked.with_suffix(".answer")
    asked.write_text("")
    try:
        host, wrong = ray.get(_look.options(**on_node).remote(str(asked), files), timeout=TIMEOUT)
        if not wrong and not _appears(answered):
            wrong = f"what it writes into {folder} is not seen here"
        if wrong:
            raise BrokenCheckpoint(
                f"node {host}: {wrong}. Every node must see the run's files at the same path: put them on storage that all nodes "
                "mount (--runs-dir /shared/runs), or keep all agents here with --placement.strategy STRICT_PACK"
            )
    finally:
        asked.unlink()
        answered.unlink(missing_ok=True)


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _visible(asked: str, files: Sequence[str]) -> tuple[str, str]:
    """On a node: its host, and what it cannot see or write; empty when all is well."""
    path, host = Path(asked), socket.gethostname()
    if not _appears(path):
        return host, f"{path.parent} is not there, or is another folder of that name"
    try:
        path.with_suffix(".answer").write_text("")
    except OSError as error:
        return host, f"{path.parent} cannot be written: {error.strerror}"
    lacking = [f for f in files if not Path(f).exists()]
    return host, f"{', '.join(lacking)} is not there" if lacking else ""


_missing, _receive, _look = ray.remote(images.missing), ray.remote(images.receive), ray.remote(_visible)
