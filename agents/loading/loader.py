"""An agent's end of its node's loader: the images of a step, wherever they are made."""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import numpy as np

from sparring.agents.loading.host import Asked, user_of
from sparring.agents.loading.memory import Memory
from sparring.trainers.batches import MakesSteps
from sparring.trainers.config import LoaderConfig
from sparring.trainers.encoded.decoding import Unanswered, Undecodable

START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from sparring.agents.loading.host import main; main()"
PATIENCE = 60.0  # seconds in which a loader must have begun
AHEAD = 8  # steps that are asked for in advance, as far as there is memory for them


class Loader:
    """Steps of a work, shared with all others of this node that ask for the same.

    Args:
        asked: name, work, processes and memory of the loader.
        indices: of a step, the numbers of its images.
    """

    def __init__(self, asked: Asked, indices: Callable[[int], tuple[int, ...]]) -> None:
        self._asked, self._indices = asked, indices
        self._host: Connection | None = None
        self._memory: Memory | None = None

    @contextmanager
    def step(self, t: int) -> Iterator[np.ndarray]:
        """uint8 [B, H, W, C] of step ``t``, to be copied before the block ends; read-only.

        Raises:
            Undecodable: one of its images cannot be decoded.
            Unanswered: the store that holds them did not answer.
            OSError: no loader can be started here.
        """
        wants = {s: self._indices(s) for s in range(t, t + 1 + AHEAD)}
        slot = self._slot(t, wants)
        assert self._memory is not None
        assert self._host is not None
        try:
            yield self._memory.slot(slot)[: len(wants[t])]
        finally:
            try:
                self._host.send(("done", t, None))
            except OSError:
                self.close()  # it has died; the next step begins another

    def _slot(self, t: int, wants: dict[int, tuple[int, ...]]) -> int:
        while True:
            if self._host is None:
                self._meet()
            assert self._host is not None
            try:
                self._host.send(("want", t, wants))
                told = self._host.recv_bytes()
            except (EOFError, OSError):  # the host has died: what it had under way is made again
                self.close()
                continue
            (slot,) = struct.unpack_from("<q", told)
            if slot < 0:
                raise _wrong(told[8:].decode())
            return int(slot)

    def _meet(self) -> None:
        """Find the host, or begin one.

        Raises:
            OSError: none comes up, or somebody else's has its name.
        """
        deadline, begun = time.monotonic() + PATIENCE, None
        while self._host is None:
            try:
                self._enter(_connected(self._asked.name))
            except PermissionError:
                raise
            except (OSError, EOFError):  # none is there, or it died at this moment
                if begun is not None and begun.poll():
                    raise OSError(f"the loader of images ended with exit code {begun.returncode}") from None
                if begun is None or begun.poll() == 0:  # another was first, and is gone
                    begun = _begin(self._asked)
                if time.monotonic() > deadline:
                    raise OSError(f"the loader of images has not begun within {PATIENCE:g} s") from None
                time.sleep(0.02)

    def _enter(self, host: Connection) -> None:
        """Take the host's memory.

        Raises:
            PermissionError: it is another user's process.
        """
        if user_of(host) != os.getuid():
            host.close()
            raise PermissionError(f"another user's process has the name of this run's loader, {self._asked.name}")
        (slots,) = struct.unpack("<q", host.recv_bytes())
        file = recv_handle(host)
        self._memory = Memory(file, slots, (self._asked.most, *self._asked.shape), writable=False)
        os.close(file)
        self._host = host

    def close(self) -> None:
        """Leave; the host ends when nobody is left."""
        if self._host is not None:
            self._host.close()
            self._host = None


def processes(config: LoaderConfig) -> int:
    """Processes that decode on this node; 0: every agent does so for itself."""
    if config.workers == 0 or not hasattr(os, "memfd_create"):
        return 0
    return config.workers or max(1, len(os.sched_getaffinity(0)) - 1)


def node_loader(config: LoaderConfig, team: str) -> MakesSteps | None:
    """What makes the steps of a run on this node; None where every agent decodes for itself.

    Args:
        team: names those who share it; empty: nobody else does.
    """
    workers = processes(config)
    if workers == 0:
        return None
    name = f"sparring-loader-{os.getuid()}-{team or secrets.token_hex(8)}"
    return lambda crops, numbers: Loader(Asked.of(name, crops, workers, config.memory << 20), numbers)


def _wrong(text: str) -> Exception:
    """The error of a loader's process, out of what it said: its kind comes first unless it is the image's own."""
    kind = f"{Unanswered.__name__}: "
    return Unanswered(text.removeprefix(kind)) if text.startswith(kind) else Undecodable(text)


def _connected(name: str) -> Connection:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(f"\0{name}")
        return Connection(end.detach())


def _begin(asked: Asked) -> subprocess.Popen[bytes]:
    """A host in a process of its own, which outlives the agent that began it as long as others need it."""
    command = [sys.executable, "-c", START, asked.name]  # whoever lists processes sees whose it is
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(asked))
    process.stdin.close()
    return process
