"""Watches over what a connection to Ray needs: the cluster's head, and the raylet of this machine.

    thread: connect to both, once a second ---no answer for some time---> exception in the main thread ---> Infrastructure

Nothing of Ray can go on without the head's control service (GCS), nor for a process whose raylet is gone, and calls wait. Ray itself (2.60) ends a
process whose calls have waited for a minute (``RAY_gcs_rpc_server_reconnect_timeout_s``), with exit code 1 and lines of its own. A head that
keeps its state in Redis may come back before that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from sparring.cluster.errors import Infrastructure

OWN = 5.0  # seconds without an answer after which what nobody will start again is gone
OTHERS = 2 / 3  # of Ray's own patience: so long another cluster's head may take to come back
UNWINDING = 12.0  # seconds for the process to leave what it was doing; then it ends itself
RAYS_OWN = "RAY_gcs_rpc_server_reconnect_timeout_s"
SIGNAL = signal.SIGURG  # it does nothing where nobody listens

_lost = threading.Event()


class _Lost(BaseException):
    """Raised in the main thread, whatever it does: no error of an agent, so nothing tries to mend it."""


def lost() -> bool:
    """Whether one is gone: what would ask Ray waits in vain."""
    return _lost.is_set()


class Needed(Protocol):
    """Something without which nothing goes on."""

    @property
    def patience(self) -> float:
        """Seconds without an answer after which it counts as gone."""

    @property
    def sentence(self) -> str:
        """What a user is told then."""

    def answers(self) -> bool:
        """Whether it is there; asked once a second."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A process that must take connections.

    Args:
        address: ``host:port``.
        what: it is, as a sentence begins.
        patience: seconds without an answer after which it counts as gone.
    """

    address: str
    what: str
    patience: float

    @property
    def sentence(self) -> str:
        """What a user is told when it is gone."""
        return (
            f"{self.what} did not answer for {self.patience:.0f} s and counts as lost. Nothing that was saved is lost; to go on, once a "
            "cluster is there: sparring resume RUN for a run, else the same command (with its --name)"
        )

    def answers(self) -> bool:
        """Whether it takes a connection."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            return False
        return True


def head(address: str, *, own: bool) -> Listening:
    """The head of a cluster.

    Args:
        own: whether this process started it, so that nobody will start it again.
    """
    if own:
        return Listening(address, "Ray's head process on this machine", OWN)
    patience = OTHERS * float(os.environ.get(RAYS_OWN, "60"))
    return Listening(address, f"the head of the Ray cluster at {address}", patience)


def raylet(address: str) -> Listening:
    """Ray's process on this machine, through which a process speaks with all others."""
    return Listening(address, "Ray's own process on this machine (raylet)", OWN)


@contextmanager
def watched(needed: Sequence[Needed]) -> Iterator[None]:
    """Notice inside the block that one is gone. Outside of the main thread, in which nothing can be raised, it does nothing.

    Raises:
        Infrastructure: one is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left, gone = threading.Event(), list[Needed]()
    before = signal.signal(SIGNAL, _raise)
    watch = threading.Thread(target=_watch, args=(needed, left, gone), name="head watch", daemon=True)
    watch.start()
    try:
        yield
    except BaseException as error:  # Ray's compiled calls make a SystemError of what a signal raises in them
        if not gone:
            raise
        raise Infrastructure(gone[0].sentence) from error
    finally:
        signal.signal(SIGNAL, before)  # first: nothing is to be raised while the block is left
        left.set()
        watch.join()
        _lost.clear()  # another connection may be made


def _raise(number: int, frame: FrameType | None) -> None:
    if lost():
        raise _Lost


def _watch(needed: Sequence[Needed], left: threading.Event, gone: list[Needed]) -> None:
    # Since when: not since the last answer, which is long ago in a process that was stopped itself.
    silent: dict[int, float] = {}
    while not gone:
        if left.wait(1.0):
            return
        for i, one in enumerate(needed):
            asked = time.monotonic()
            if one.answers():
                silent.pop(i, None)
            elif time.monotonic() - silent.setdefault(i, asked) > one.patience:
                gone.append(one)
    _lost.set()
    signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
    if not left.wait(UNWINDING):
        print(f"sparring: {gone[0].sentence}", file=sys.stderr, flush=True)
        os._exit(Infrastructure.code)
