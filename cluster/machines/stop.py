"""Ctrl-C, SIGTERM and SIGUSR1: the first one asks, the second one ends at once."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from sparring.cluster.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # USR1: what Slurm sends before the time is up


def heed(when: str) -> None:
    """End a wait in which nothing is lost, if a signal asked for it.

    Raises:
        Interrupted: it did.
    """
    if any(s.requested for s in _listening):
        raise Interrupted(
            f"stopped {when}; nothing committed is lost. Continue with: sparring resume RUN, or the same command with --resume-if-exists"
        )


class StopSignal:
    """Inside ``with StopSignal() as stop``, ``stop.requested`` turns true at the first signal."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous = {s: signal.signal(s, self._handle) for s in SIGNALS}
        _listening.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _listening.remove(self)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print(
            f"{signal.Signals(number).name}: finishing this step and saving; once more to stop at once", file=sys.stderr
        )


@contextmanager
def at_most(seconds: float | None) -> Iterator[None]:
    """A time budget: after it this process gets a SIGTERM, which acts as the first Ctrl-C; None is no limit."""
    if seconds is None:
        yield
        return

    def over() -> None:
        print(f"the time budget of {seconds:g} s is used up", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(seconds, over)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def terminate_interrupts() -> Iterator[None]:
    """Inside the block SIGTERM ends a command as Ctrl-C does; work that can finish a step first uses StopSignal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def terminate_as(number: int) -> Iterator[None]:
    """Inside the block SIGTERM is another signal, for which somebody else's code sets a handler; all return at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in SIGNALS}
    signal.signal(signal.SIGTERM, lambda _, frame: signal.raise_signal(number))
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def asked_to_stop() -> Iterator[None]:
    """Inside the block SIGTERM and SIGUSR1 interrupt as Ctrl-C does, where somebody else's code waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, signal.default_int_handler) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminate_held() -> Iterator[None]:
    """Hold SIGTERM back inside the block, in this thread and those it starts, and keep its handler; then let it come.

    Starting Ray takes SIGTERM twice: Python's handler becomes one that raises SystemExit in the middle of its start, and
    its C++ part puts one beneath Python's that aborts the process. Processes started in the block do receive it.
    """
    global _holding
    handler = signal.getsignal(signal.SIGTERM)
    before, outer = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}), _holding
    _holding = True
    try:
        yield
    finally:
        _holding = outer
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_library_threads() -> None:
    """Let numpy and Arrow start their threads now, while SIGTERM is held: it can then never reach one of them.

    The kernel gives a signal to any thread that takes it; one of a library's would take it while Ray's own handlers stand.
    """
    with terminate_held():
        import numpy  # noqa: F401  # starts those of its linear algebra
        import pyarrow as pa

        column = pa.Array.from_buffers(
            pa.int8(), 1, [None, pa.py_buffer(b"0")]
        )  # ``pa.array`` would import pandas: a third of a second
        batch = pa.record_batch([column], names=["x"])
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/x.arrow"
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            with pa.memory_map(path) as source:
                pa.ipc.open_file(source).get_batch(0)


def _release_in_child() -> None:
    if _holding:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


_holding = False
_listening: list[StopSignal] = []
os.register_at_fork(after_in_child=_release_in_child)
