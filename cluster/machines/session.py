"""Attach to a Ray cluster or start one on this machine, and leave as found.

Ray's workers do not inherit this process's ``sys.path``. Around a local ``ray.init`` the process stands in the folder of our
code, so every worker finds ``sparring`` there first; an attached cluster gets that folder as its working directory.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, chdir, contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from sparring.cluster.errors import Infrastructure, NoResources
from sparring.cluster.machines import head
from sparring.cluster.machines.cores import usable
from sparring.cluster.machines.stop import terminate_held
from sparring.cluster.runs.folder import SUBMITTED
from sparring.cluster.terminal import HOME
from sparring.trainers import uris

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody's usage is reported without asking
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # the agents are what the machine is for; Ray's 15 starves them beside anything else
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # lost processes are the controller's to explain
}
OURS = ("agents", "cluster", "serve", "trainers", "sparring.py")  # what workers need of HOME
LONGEST = 40  # characters of a folder for temporary files: a socket's path has up to 66 more, and 107 in all
OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}

_ours: set[str] = set()  # addresses of clusters that were started here
_knows_us: set[str] = set()  # addresses of clusters whose workers find our packages: started or joined here


def start(**options: Any) -> str:
    """Start a Ray on this machine whose workers find our packages first; its address.

    Raises:
        Infrastructure: it does not come up, as when one of its processes is killed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    options.setdefault("num_cpus", usable())  # Ray counts the machine's, whatever this process may use
    options |= _short_folder()
    with chdir(HOME), terminate_held():
        try:
            context = ray.init(address="local", include_dashboard=False, **OPTIONS, **options)
        except ValueError:  # an option that is not allowed
            raise
        except Exception as error:  # Ray raises no narrower one
            ray.shutdown()
            raise Infrastructure(
                f"Ray did not start on this machine: {uris.line(error).rstrip('.')}. Nothing is lost: the same command begins again"
            ) from error
    address = str(context.address_info["address"])
    _knows_us.add(address)
    _ours.add(address)
    return address


def _short_folder() -> dict[str, str]:
    """Ray's sockets lie in its session's folder; where TMPDIR makes their paths longer than Linux allows, that lies in /tmp."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return {"_temp_dir": "/tmp/ray"} if len(base) > LONGEST and os.access("/tmp", os.W_OK) else {}


def brings_its_own(address: str | None) -> bool:
    """Whether a connection would start a Ray on this machine: none is given, none is there, and this is no submitted job."""
    return address is None and not ray.is_initialized() and SUBMITTED not in os.environ


@contextmanager
def connected(address: str | None = None) -> Iterator[dict[str, Any]]:
    """A Ray connection for the time of the block; one that exists is used and kept.

    Args:
        address: ``host:port`` of a running cluster; None is the cluster of a submitted job, else a Ray on this machine.

    Yields:
        The runtime environment that our actors need there.

    Raises:
        NoResources: no cluster answers at the address.
        Infrastructure: its head, or Ray's process on this machine, is lost inside the block.
    """
    if ray.is_initialized():  # the caller's own: its workers know nothing of us
        known = ray.get_runtime_context().gcs_address in _knows_us
        with _needed():
            yield {} if known else {"env_vars": {"PYTHONPATH": str(HOME)}}
        return
    try:
        if brings_its_own(address):
            start()
        elif address is None:
            _join(os.environ["RAY_ADDRESS"], {})  # the job's own environment holds for its agents too
        else:
            _join(address, {} if SUBMITTED in os.environ else shipped())
        with _needed():
            yield {}
    finally:
        ray.shutdown()


def _needed() -> AbstractContextManager[None]:
    """What this process's connection needs is watched, inside the block."""
    context = ray.get_runtime_context()
    address, node = context.gcs_address, context.get_node_id()
    here = [f"{n['NodeManagerAddress']}:{n['NodeManagerPort']}" for n in ray.nodes() if n["NodeID"] == node]
    return head.watched([head.head(address, own=address in _ours), *map(head.raylet, here)])


def shipped() -> dict[str, Any]:
    """The runtime environment that brings our code to a cluster: its folders alone, whatever else lies beside them."""
    others = sorted(f"/{path.name}" for path in HOME.iterdir() if path.name not in OURS)
    return {"working_dir": str(HOME), "excludes": [*others, "__pycache__"]}


def shipped_size() -> tuple[int, int]:
    """Files and bytes of it."""
    files = [f for name in OURS for f in (HOME / name, *(HOME / name).rglob("*")) if f.is_file()]
    sizes = [f.stat().st_size for f in files if "__pycache__" not in f.parts]
    return len(sizes), sum(sizes)


def _join(address: str, runtime_env: dict[str, Any]) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:  # Ray itself would try for long, and write lines of C++ about it
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise NoResources(f"no Ray cluster answers at {address}: {error}; expected host:port of its head") from error
    try:
        with terminate_held():
            ray.init(address=address, runtime_env=runtime_env, **OPTIONS)
    except (ConnectionError, RuntimeError, RayError) as error:
        raise NoResources(_refused(address, error)) from error
    _knows_us.add(ray.get_runtime_context().gcs_address)


def _refused(address: str, error: Exception) -> str:
    """Why a cluster that is there does not take this process."""
    text = str(error)
    if "working_dir" in text or "package" in text.lower():
        count, size = shipped_size()
        why = text.splitlines()[:2][-1].partition(". ")[0].rstrip(".")  # after Ray's heading; without its advice
        return (
            f"the cluster at {address} was not reached, as our code could not be packed: {why}. What is packed is "
            f"{', '.join(OURS)} in {HOME}: {count} files, {size / 2**20:.1f} MiB; move what is not code out of there"
        )
    if "Version mismatch" in text:
        found = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)
        theirs, ours = (f"Ray {r} on Python {p}" for r, p in (found + [("?", "?")] * 2)[:2])
        return (
            f"the cluster at {address} runs {theirs}, this process {ours}: both must be the same on every node. Install here what "
            "runs there, or the other way round: pip install -e . -c constraints.txt"
        )
    return (
        f"{address} answers, but does not let this process in ({text.splitlines()[0]}). Most likely the cluster's token is not here: "
        "copy the head's and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE (mode 600), as on every node. Or the port is not "
        "the head's, which is 6379 unless it was started with another"
    )
