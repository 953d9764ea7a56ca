"""What a scenario may not leave behind, and what it may not change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos_faults import Scene

OWN = "SPARRING_CHAOS_OWN_MEMORY"  # in the environment: /dev/shm is this program's alone
MOUNTS = 'mount --make-rshared / && mount -t tmpfs -o size=4g tmpfs /dev/shm && exec "$@"'  # hosts see disks that are mounted later
GRACE = 75.0  # seconds in which processes of a killed driver must have ended: some of Ray's notice only after a minute


class Committed:
    """Checkpoints that were committed: none of their files may change as long as it is there."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._seen: dict[Path, str] = {}

    def look(self) -> None:
        """Remember those that are new."""
        for mark in found(self._run, "checkpoints/step-*/COMMITTED"):
            if "." in mark.parent.name or mark in self._seen:
                continue
            for file in sorted(p for p in mark.parent.rglob("*") if p.is_file()):
                try:
                    self._seen.setdefault(file, _sha256(file))
                except FileNotFoundError:  # it is being dropped
                    self._seen.pop(file, None)

    def changed(self) -> list[str]:
        """Those that changed though they are there."""
        return [
            f"{file.relative_to(self._run)} of a committed checkpoint changed"
            for file, known in self._seen.items()
            if file.exists() and _sha256(file) != known
        ]


def found(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder that changes meanwhile."""
    try:
        return list(folder.rglob(pattern))
    except OSError:  # a folder that was there is gone
        return []


def with_own_memory() -> None:
    """Begin this program again with a /dev/shm of its own, so that what others leave there is not laid to it (root)."""
    inside = ["unshare", "-m", "sh", "-c", MOUNTS, "sh"]
    if OWN in os.environ or os.geteuid() != 0 or not shutil.which("unshare"):
        return
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode == 0:
        os.environ[OWN] = "1"
        os.execvp(inside[0], [*inside, sys.executable, *sys.argv])


def there() -> set[str]:
    """What a scenario could leave behind, by name; nothing where others may leave the same."""
    if OWN not in os.environ:
        return set()
    return {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}


def left(scene: Scene, before: set[str]) -> list[str]:
    """What is there that was not there before, after a while."""
    scene.release()
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and (scene.processes() or there() - before):
        time.sleep(0.2)
    found = [f"left behind: process {pid} {' '.join(argv)[:100]}" for pid, argv in scene.processes().items()]
    found += [f"left behind: {name}" for name in sorted(there() - before)]
    scene.end()
    return found


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
