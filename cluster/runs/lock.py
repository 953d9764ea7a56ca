"""run.lock: one process at a time writes a run; a lock whose holder is dead is taken over."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from sparring.cluster.errors import Exists

HEARTBEAT = 10.0  # seconds between signs of life in run.lock
STALE = 60.0  # seconds without one after which a lock of another host is taken over


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold run.lock; a lock whose holder is dead is taken over.

    Raises:
        Exists: another live process holds it; names host and pid.
    """
    path = run / "run.lock"
    with _acquire(path) as file:
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT):
                os.utime(file.fileno())

        thread = threading.Thread(target=beat, daemon=True)
        # SIGTERM is for the main thread, which may hold it back
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield
        finally:
            stop.set()
            thread.join()
            path.unlink(missing_ok=True)  # while it is still held


def is_running(run: Path) -> bool:
    """Whether a live process holds the run's lock."""
    try:
        with (run / "run.lock").open() as file:
            return not _held(file)
    except (FileNotFoundError, IsADirectoryError):
        return False


def _acquire(path: Path) -> TextIO:
    """The lock file, locked by the kernel until it is closed or this process dies.

    Between hosts whose file system does not carry such locks, the holder's signs of life count.
    """
    if path.is_dir():
        raise Exists(
            f"{path} is a folder, where a process notes that it writes the run; remove it, and repeat the command"
        )
    attempts = 5  # somebody who lists the runs holds a lock for a moment
    while True:
        file = path.open("a+")
        if not _held(file):
            file.close()
            attempts -= 1
            if attempts == 0:
                _refuse(path)
            time.sleep(0.05)
            continue
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its holder removed it between our opening and locking it
    file.seek(0)
    holder = _holder(file.read())
    age = time.time() - os.fstat(file.fileno()).st_mtime
    if holder.get("host", socket.gethostname()) != socket.gethostname() and age < STALE:
        file.close()
        _refuse(path)
    file.truncate(0)
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    file.flush()
    return file


def _held(file: TextIO) -> bool:
    """Try to lock an open file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse(path: Path) -> NoReturn:
    holder = _holder(path.read_text()) if path.exists() else {}
    age = time.time() - path.stat().st_mtime if path.exists() else 0
    raise Exists(
        f"run {path.parent} is locked by process {holder.get('pid')} on {holder.get('host')} "
        f"(last sign of life {age:.0f} s ago). Wait for it, or stop it first"
    )


def _holder(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
