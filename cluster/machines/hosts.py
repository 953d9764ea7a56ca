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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sparring.agents.spec import Facts
from sparring.cluster.errors import BrokenCheckpoint, Infrastructure
from sparring.cluster.machines import head, stop
from sparring.cluster.runs import images
from sparring.trainers.datasets import Prepared, cache

TIMEOUT = 180.0  # seconds; a node's first task starts a process that imports torch
ENDED = 20.0  # seconds for a task on another host that kills a process there
GRACE = 1.0  # seconds that a process has to end when Ray asks it to
NOTICED = 5.0  # seconds until Ray says that a node is lost
VISIBLE = 5.0  # seconds after which a file of another host must be seen; network file systems cache what is not there


def prepare(
    nodes: Iterable[str], shared: Prepared, *, folder: Path | None, files: Iterable[str], runtime_env: dict[str, Any]
) -> None:
    """Bring the images to every other node, and check that it sees the run's folder and files.

    Args:
        nodes: ids of nodes with agents.
        shared: the run's images.
        folder: the run's; None when nothing is saved.
        files: paths that agents read: weights to start from, a user's network.
        runtime_env: what our packages need there.

    Raises:
        BrokenCheckpoint: a node does not see the folder, cannot write it, or lacks a file.
    """
    others = sorted(set(nodes) - {ray.get_runtime_context().get_node_id()})
    options = [{**_on(node), "runtime_env": runtime_env} for node in others]
    lacking = ray.get([_missing.options(**o).remote(shared) for o in options], timeout=TIMEOUT)
    entries = {k: ray.put(cache.pack(Path(shared.cache) / k)) for k in {k for keys in lacking for k in keys}}
    sent = [
        _receive.options(**o).remote(shared, k, entries[k])
        for o, keys in zip(options, lacking, strict=True)
        for k in keys
    ]
    ray.get(sent, timeout=TIMEOUT)
    if folder is not None and options:
        _probe(folder, sorted(files), options)


def leaving(group: PlacementGroup) -> dict[str, str]:
    """Nodes of the group that are being drained: id -> address."""
    from ray._private.state import state  # Ray offers no other way to ask

    draining = set(state.get_draining_nodes())
    return {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] in draining & placed(group)}


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
        stop.heed("while it waited for another node")
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is."""

    host: str
    node: str  # address of its Ray node
    pid: int

    @classmethod
    def own(cls) -> Place:
        """This process."""
        return cls(socket.gethostname(), ray.util.get_node_ip_address(), os.getpid())


def end(processes: Sequence[Place | Facts]) -> None:
    """End agents' processes, or workers', each on its own host: those that do not hear Ray's request, as a stopped one, are killed."""
    if head.lost():
        return  # Ray's processes end with it
    here = (socket.gethostname(), ray.util.get_node_ip_address())
    nodes = {n["NodeManagerAddress"]: n["NodeID"] for n in ray.nodes() if n["Alive"]}
    asked = []
    for f in processes:
        if (f.host, f.node) == here:
            _kill(f.pid)
        elif f.node in nodes:
            asked.append(_end.options(**_on(nodes[f.node])).remote(f.pid))
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=ENDED)


def _kill(pid: int) -> None:
    """Once it had time to end by itself: what is killed at once Ray reports to the user as a crash."""
    deadline = time.monotonic() + GRACE
    while _is_actor(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if _is_actor(pid):
        with suppress(ProcessLookupError):  # it may have ended by itself meanwhile
            os.kill(pid, signal.SIGKILL)


def _is_actor(pid: int) -> bool:
    """Whether ``pid`` still is a Ray worker, and not some other process that got its number."""
    try:
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def alive() -> list[str]:
    """Ids of all nodes that have CPUs for agents."""
    return [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]


def placed(group: PlacementGroup) -> set[str]:
    """Ids of the group's nodes."""
    return set(ray.util.placement_group_table(group)["bundles_to_node_id"].values())


def _on(node: str) -> dict[str, Any]:
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _probe(folder: Path, files: Sequence[str], options: Sequence[dict[str, Any]]) -> None:
    """A file that the driver writes must be seen on every node, and each one's answer beside it here."""
    asked = folder / f"probe-{secrets.token_hex(4)}"
    answers = [asked.with_suffix(f".{i}") for i in range(len(options))]
    asked.write_text("")
    try:
        looks = [_look.options(**o).remote(str(asked), str(a), files) for o, a in zip(options, answers, strict=True)]
        for (host, wrong), answer in zip(ray.get(looks, timeout=TIMEOUT), answers, strict=True):
            if not wrong and _appears(answer):
                continue
            wrong = wrong or f"what it writes into {folder} is not seen here"
            raise BrokenCheckpoint(
                f"node {host}: {wrong}. Every node must see the run's files at the same path: put them on storage that all nodes "
                "mount (--runs-dir /shared/runs), or train on one machine, without --address"
            )
    finally:
        asked.unlink()
        for answer in answers:
            answer.unlink(missing_ok=True)


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _visible(asked: str, answer: str, files: Sequence[str]) -> tuple[str, str]:
    """On a node: its host, and what it cannot see or write; empty when all is well."""
    path, host = Path(asked), socket.gethostname()
    if not _appears(path):
        return host, f"{path.parent} is not there, or is another folder of that name"
    try:
        Path(answer).write_text("")
    except OSError as error:
        return host, f"{path.parent} cannot be written: {error.strerror}"
    lacking = [f for f in files if not Path(f).exists()]
    return host, f"{', '.join(lacking)} is not there" if lacking else ""


_missing, _receive, _look, _end = (ray.remote(f) for f in (images.missing, images.receive, _visible, _kill))
