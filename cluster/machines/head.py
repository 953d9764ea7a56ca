"""Watches over the cluster's head while this process is connected to it.

    thread: connect to the head's port, once a second ---no answer for some time---> exception in the main thread ---> Infrastructure

Nothing of Ray can go on without its head's control service (GCS), and calls to it wait. Ray itself (2.60) ends a process whose calls have
waited for a minute (``RAY_gcs_rpc_server_reconnect_timeout_s``), with exit code 1 and a line of its own. A head that keeps its state in Redis
may come back before that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sparring.cluster.errors import Infrastructure

OWN = 5.0  # seconds without an answer after which a head on this machine that nobody else began is gone
OTHERS = 2 / 3  # of Ray's own patience: so long another cluster's head may take to come back
UNWINDING = 12.0  # seconds for the process to leave what it was doing; then it ends itself
RAYS_OWN = "RAY_gcs_rpc_server_reconnect_timeout_s"
SIGNAL = signal.SIGURG  # it does nothing where nobody listens

_lost = threading.Event()


class _HeadLost(BaseException):
    """Raised in the main thread, whatever it does: no error of an agent, so nothing tries to mend it."""


def lost() -> bool:
    """Whether the head is gone: what would ask it waits in vain."""
    return _lost.is_set()


def patience(own: bool) -> float:
    """Seconds without an answer after which the head counts as gone."""
    return OWN if own else OTHERS * float(os.environ.get(RAYS_OWN, "60"))


@contextmanager
def watched(address: str, *, own: bool) -> Iterator[None]:
    """Notice inside the block that the head is gone. Outside of the main thread, in which nothing can be raised, it does nothing.

    Args:
        address: ``host:port`` of the head.
        own: whether this process started it, so that nobody will start it again.

    Raises:
        Infrastructure: it is.
    """
    _lost.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left = threading.Event()
    before = signal.signal(SIGNAL, _raise)
    watch = threading.Thread(target=_watch, args=(address, own, left), name="head watch", daemon=True)
    watch.start()
    try:
        yield
    except _HeadLost as gone:
        raise Infrastructure(sentence(address, own)) from gone
    finally:
        left.set()
        signal.signal(SIGNAL, before)


def sentence(address: str, own: bool) -> str:
    """What a user is told."""
    whose = "Ray's head process on this machine" if own else f"the head of the Ray cluster at {address}"
    waited = f"did not answer for {patience(own):.0f} s and counts as lost"
    again = "the same command" if own else "the same command, once the cluster is there again"
    return f"{whose} {waited}. Nothing that was saved is lost; to go on: sparring resume RUN for a run, else {again} (with its --name)"


def _raise(number: int, frame: FrameType | None) -> None:
    if lost():
        raise _HeadLost


def _watch(address: str, own: bool, left: threading.Event) -> None:
    last = time.monotonic()
    while not left.wait(1.0):
        if _answers(address):
            last = time.monotonic()
        elif time.monotonic() - last > patience(own):
            break
    else:
        return
    _lost.set()
    signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
    if not left.wait(UNWINDING):
        print(f"sparring: {sentence(address, own)}", file=sys.stderr, flush=True)
        os._exit(Infrastructure.code)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
