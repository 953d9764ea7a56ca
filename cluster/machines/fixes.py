"""Commands that would mend what ``sparring doctor`` warns of, for this machine as it is. They are shown; nothing here runs one."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from sparring.cluster import terminal

GPUS = Path("/proc/driver/nvidia/gpus")  # what the driver sees, whatever torch does
MOUNTS = Path("/proc/mounts")


def newer_python() -> str | None:
    """An environment with a newer Python that this machine has; None where there is none."""
    for minor in range(14, 10, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return f"{shlex.quote(found)} -m venv .venv\n" + install(".venv/bin/python")
    return None


def install(python: str = "") -> str:
    """Everything that Sparring needs, in the versions that were tested where they are here."""
    python, home = python or shlex.quote(sys.executable), shlex.quote(str(terminal.HOME))
    if (terminal.HOME / "constraints.txt").is_file():
        return f"{python} -m pip install -e {home} -c {home}/constraints.txt"
    return f"{python} -m pip install --upgrade 'torch>=2.11' torchvision 'ray[train,tune,serve]>=2.60'"


def gpus(cuda: str | None) -> str | None:
    """What keeps torch from a GPU that the driver sees; None where there is none, or nothing is known.

    Args:
        cuda: version of CUDA that torch was built for.
    """
    if not GPUS.is_dir() or not any(GPUS.iterdir()):
        return None
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return "unset CUDA_VISIBLE_DEVICES"
    if cuda is None:
        return (
            f"{shlex.quote(sys.executable)} -m pip install --force-reinstall --no-deps torch torchvision\n{install()}"
        )
    return None


def one_core() -> str:
    """Two agents on one core."""
    return f"{terminal.command()} train mat --placement.cpus-per-agent 0.5"


def little_memory() -> str:
    """What needs least of it: one process and no Ray."""
    return f"{terminal.command()} train mat --team local"


def full_disk(needed: float) -> str | None:
    """Runs on the disk with most room; None where no other has so much.

    Args:
        needed: GiB.
    """
    writable = {place for place in _places() if os.access(place, os.W_OK)}
    room = {place: shutil.disk_usage(place).free / 2**30 for place in sorted(writable)}
    best = max(room, key=lambda place: room[place], default=None)
    if best is None or room[best] <= needed:
        return None
    return f"{terminal.command()} train mat --runs-dir {shlex.quote(str(best / 'runs'))}"


def _places() -> list[Path]:
    """Folders on all disks that are a machine's or a network's."""
    try:
        lines = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        lines = []
    mounts = [Path(where) for what, where, *_ in lines if what.startswith("/dev/") or ":/" in what]
    return [p for p in (Path.home(), Path(tempfile.gettempdir()), *mounts) if p.is_dir()]


def port_taken(port: int) -> str:
    """The cluster that may be there, and the next port that is free for one of our own."""
    free = next(p for p in range(port + 1, 65536) if not answers(p))
    return (
        f"{terminal.command()} train mat --address 127.0.0.1:{port}    # if that is a Ray head\n"
        f"ray start --head --port {free}    # if not, and this machine is to be one"
    )


def answers(port: int) -> bool:
    """Whether somebody listens at a port of this machine."""
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def no_token(path: Path) -> str:
    """A secret of one's own at this path; Ray's command writes none while RAY_AUTH_TOKEN_PATH names a missing file."""
    python, file, folder = (shlex.quote(str(p)) for p in (sys.executable, path, path.parent))
    made = 'import secrets; print(secrets.token_hex(32), end="")'
    return f"(umask 077 && mkdir -p {folder} && {python} -c '{made}' > {file})    # or copy the cluster's there"
