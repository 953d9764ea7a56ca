"""A process that decodes: rows of a step, one after the other, into a slot."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from sparring.agents.loading.memory import Memory
from sparring.agents.loading.work import Work


@dataclass(frozen=True, slots=True)
class Rows:
    """A part of a step: its images ``first``, ``first + 1``, ... are those of these numbers in the data set."""

    slot: int
    t: int
    first: int
    indices: tuple[int, ...]


def serve(pickled: bytes, memory: Memory, told: Connection, others: Sequence[Any]) -> None:
    """Until the host is gone: fill rows, say None, or why they cannot be filled.

    Args:
        pickled: the work.
        others: the host's ends of what a fork has copied; held open here they would hide its death from other workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the agents end, and with them the host
    for other in others:
        other.close()
    work: Work | None = None
    while True:
        try:
            rows: Rows = told.recv()
        except (EOFError, OSError):
            return
        slot = memory.slot(rows.slot)
        try:
            work = work or pickle.loads(pickled)
            assert work is not None
            for i, index in enumerate(rows.indices, rows.first):
                slot[i] = work.image(rows.t, index)
            told.send(None)
        except Exception as error:  # whatever a decoder raises is the image's, and the loader goes on
            told.send(f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
