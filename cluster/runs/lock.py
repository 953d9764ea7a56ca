"""run.lock: one process at a time writes a run; a lock whose holder is dead is taken over.

The kernel holds it, so the number of a process counts for nothing: it may be another one's after a reboot. Between machines whose
file system does not carry such locks the holder's signs of life count, by the file's time, whatever the clocks say: a lock that
looks dead is watched for longer than they are apart. Whoever holds one asks before each commit whether it still does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from sparring.cluster.errors import Exists, Infrastructure
from sparring.trainers.files import naming

HEARTBEAT = 10.0  # seconds between signs of life in run.lock
STALE = 60.0  # seconds without one after which a lock of another host is taken over
SETTLED = 1.0  # seconds in which two hosts that take over the same lock see each other
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Held:
    """The lock of a run as a process that writes it saw it.

    Args:
        path: of run.lock.
        file: the same, open.
        text: what it says.
    """

    path: Path
    file: TextIO
    text: str

    def check(self) -> None:
        """Refuse to write where the run no longer is.

        Raises:
            Infrastructure: the run's folder was moved or deleted; says where it is.
            Exists: another process has taken the run over, or another folder is in its place.
        """
        run = self.path.parent
        try:
            same = os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
            text = self.path.read_text()
        except (FileNotFoundError, NotADirectoryError):
            same, text = False, ""
        if same and text == self.text:
            return
        if same:
            raise Exists(
                f"run {run} was taken over by {_said(_holder(text))}, since this process gave no sign of life for {STALE:g} s; it stops, "
                "and what is committed stays. Wait for the other one, or see: sparring runs"
            )
        link = Path(f"/proc/self/fd/{self.file.fileno()}")  # Linux says where an open file is now
        there = link.readlink().parent if link.is_symlink() else run
        if there != run and (there / "config.yaml").exists():
            told = f"moved to {there} while it trained; what was committed is there. Continue with: sparring resume {there}"
        elif (run / "config.yaml").exists():
            told = f"replaced while it trained, or its run.lock removed. If this is the run: sparring resume {run}"
        else:
            told = "deleted while it trained. To have it again, begin it anew: sparring train"
        raise (Exists if run.exists() else Infrastructure)(f"run {run} was {told}")

    @classmethod
    def of(cls, run: Path) -> Held:
        """The lock that another process of the same run holds."""
        path = run / "run.lock"
        return cls(path, path.open(), path.read_text())


@contextmanager
def locked(run: Path) -> Iterator[Held]:
    """Hold run.lock; a lock whose holder is dead is taken over.

    Raises:
        Exists: another live process holds it; names host and pid.
    """
    path = run / "run.lock"
    with _acquire(path) as file:
        mine = Held(path, file, path.read_text())
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT):
                with contextlib.suppress(OSError):  # a disk that cannot be written now
                    os.utime(file.fileno())

        thread = threading.Thread(target=beat, daemon=True)
        # SIGTERM is for the main thread, which may hold it back
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield mine
        finally:
            stop.set()
            thread.join()
            _give_back(mine)


def _give_back(mine: Held) -> None:
    """Remove the lock while it is still held; never another's, nor where the disk cannot be written: the kernel frees it anyway."""
    with contextlib.suppress(Exists, Infrastructure, OSError):
        mine.check()
        mine.path.unlink()


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
    try:
        _take(path, file)
    except BaseException:
        with contextlib.suppress(OSError):  # what was not written is tried once more
            file.close()
        raise
    return file


def _take(path: Path, file: TextIO) -> None:
    """Write our name into the lock, unless it is that of a live process of another machine."""
    file.seek(0)
    holder, me = _holder(file.read()), _me()
    elsewhere = any(holder.get(key, me[key]) != me[key] for key in ("host", "boot"))
    if elsewhere:
        recent = abs(time.time() - os.fstat(file.fileno()).st_mtime) < STALE
        if (recent and holder.get("host") != me["host"]) or _beats(path):
            _refuse(path)
        time.sleep(random.uniform(0, HEARTBEAT))  # two that have watched the same lock do not write at the same moment
        if _holder(path.read_text()) != holder:
            _refuse(path)
    file.truncate(0)
    with naming(path):
        file.write(json.dumps(me))
        file.flush()
    if elsewhere:  # two that wait for the same lock see it free at the same moment: who wrote last has it
        time.sleep(SETTLED)
        if _holder(path.read_text()) != me:
            _refuse(path)


def _beats(path: Path) -> bool:
    """Whether the holder gives a sign of life within the time in which one is due. No clock is asked: they may differ."""
    seen, until = path.stat().st_mtime_ns, time.monotonic() + 1.5 * HEARTBEAT
    while time.monotonic() < until:
        time.sleep(HEARTBEAT / 20)
        with path.open() as file:  # opened anew: a network file system asks its server then
            if os.fstat(file.fileno()).st_mtime_ns != seen:
                return True
    return False


def _me() -> dict[str, Any]:
    """This process, and since which start of the machine; containers of one machine share that."""
    boot = {"boot": BOOT.read_text().strip()} if BOOT.exists() else {"boot": ""}
    return {"host": socket.gethostname(), "pid": os.getpid(), **boot}


def _held(file: TextIO) -> bool:
    """Try to lock an open file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse(path: Path) -> NoReturn:
    holder: dict[str, Any] = {}
    for _ in range(20):  # it may be about to write its name
        holder = _holder(path.read_text()) if path.exists() else {}
        if holder:
            break
        time.sleep(0.05)
    age = time.time() - path.stat().st_mtime if path.exists() else 0
    life = f"{age:.0f} s ago" if age > -1 else f"{-age:.0f} s ahead of this machine's clock"
    raise Exists(
        f"run {path.parent} is locked by {_said(holder)} (last sign of life {life}). Wait for it, or stop it first"
    )


def _said(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _holder(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
