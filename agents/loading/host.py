"""The process that hands out the loader's work: answers agents, keeps workers busy, replaces those that die."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import send_handle
from typing import Any

from sparring.agents.loading import memory, worker
from sparring.agents.loading.memory import Memory
from sparring.agents.loading.schedule import Schedule
from sparring.agents.loading.work import Work
from sparring.agents.loading.worker import Rows

HANGS = 120.0  # seconds after which a worker is taken for one that never ends
KILLS = 3  # workers that the same rows may kill
MOST_ROWS = 16  # of a step that one worker gets at a time
Failed = str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a loader is made of."""

    name: str  # that agents find it by
    work: bytes  # pickled: a client of an object store is made after a fork, which it would not survive
    modules: tuple[str, ...]  # that the work needs, imported before a fork, once for all workers
    shape: tuple[int, int, int]  # of an image: height, width, channels
    most: int  # images of a step
    workers: int
    memory: int  # bytes of slots, at most; two are made however large they are
    linger: float = 10.0  # seconds without an agent after which the host ends

    @classmethod
    def of(cls, name: str, work: Work, workers: int, memory: int, linger: float = 10.0) -> Asked:
        """What a work asks for."""
        return cls(name, pickle.dumps(work), work.modules, work.shape, work.most, workers, memory, linger)


def main() -> None:
    """Be a host, as told on stdin; end at once where there is one already."""
    asked: Asked = pickle.load(sys.stdin.buffer)
    os.environ["OMP_NUM_THREADS"] = "1"  # there are as many processes as should work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.bind(f"\0{asked.name}")
        except OSError:
            return  # another was first
        door.listen(64)
        Host(asked, door).run()


class Host:
    """One loader, until no agent has been there for a while."""

    def __init__(self, asked: Asked, door: socket.socket) -> None:
        self._asked, self._door = asked, door
        for module in asked.modules:
            importlib.import_module(module)
        shape = (asked.most, *asked.shape)
        step = shape[0] * shape[1] * shape[2] * shape[3]
        slots = max(2, asked.memory // step)
        self._memory = Memory(memory.made(slots * step), slots, shape, writable=True)
        self._schedule = Schedule(slots)
        self._queue = deque[Rows]()
        self._killed: dict[tuple[int, int], int] = {}  # step and first row -> workers that died of them
        self._agents: dict[Connection, int] = {}
        self._workers: dict[Connection, Any] = {}
        self._busy: dict[Connection, tuple[Rows, float]] = {}  # since when
        self._numbers = iter(range(2**62))
        for _ in range(asked.workers):
            self._start()

    def run(self) -> None:
        """Answer until it is no longer needed."""
        seen = time.monotonic()
        while self._agents or time.monotonic() - seen < self._asked.linger:
            for ready in wait([self._door, *self._agents, *self._workers], timeout=1.0):
                if ready is self._door:
                    self._let_in()
                elif ready in self._agents:
                    self._hear(ready)
                elif ready in self._workers:
                    self._worked(ready)
            if self._agents:
                seen = time.monotonic()
            for told, (_, since) in self._busy.items():
                if time.monotonic() - since > HANGS:
                    self._workers[told].kill()  # and its end is noticed
            self._go_on()

    def _let_in(self) -> None:
        agent = Connection(self._door.accept()[0].detach())
        if user_of(agent) != os.getuid():
            agent.close()
            return
        with contextlib.suppress(OSError):  # it is gone already
            agent.send_bytes(struct.pack("<q", self._memory.slots))
            send_handle(agent, self._memory.file, 0)
            self._agents[agent] = next(self._numbers)

    def _hear(self, agent: Connection) -> None:
        try:
            what, t, wants = agent.recv()
        except (EOFError, OSError):
            self._schedule.leave(self._agents.pop(agent))
            agent.close()
            return
        if what == "want":
            self._schedule.want(self._agents[agent], t, wants)
        else:
            self._schedule.done(self._agents[agent], t)

    def _worked(self, told: Connection) -> None:
        rows, _ = self._busy.pop(told, (None, 0.0))
        try:
            wrong = told.recv()
        except (EOFError, OSError):
            self._replace(told, rows)
            return
        if rows is not None:
            self._filled(rows, wrong)

    def _filled(self, rows: Rows, wrong: Failed | None) -> None:
        slot = self._schedule.slots[rows.slot]
        slot.left -= len(rows.indices)
        slot.wrong = slot.wrong or wrong

    def _replace(self, told: Connection, rows: Rows | None) -> None:
        """A worker has died: another one makes its rows, unless they have killed several."""
        self._workers.pop(told).join()
        told.close()
        self._start()
        if rows is None:
            return
        key = (rows.t, rows.first)
        self._killed[key] = self._killed.get(key, 0) + 1
        if self._killed[key] < KILLS:
            self._queue.appendleft(rows)
        else:
            numbers = f"{rows.indices[0]} to {rows.indices[-1]}" if len(rows.indices) > 1 else f"{rows.indices[0]}"
            self._filled(rows, f"{KILLS} processes died while they decoded training images {numbers}")

    def _start(self) -> None:
        ours, theirs = get_context("fork").Pipe()
        others = [*self._workers, *self._agents, ours, self._door]
        process = get_context("fork").Process(
            target=worker.serve, args=(self._asked.work, self._memory, theirs, others), daemon=True
        )
        process.start()
        theirs.close()
        self._workers[ours] = process

    def _go_on(self) -> None:
        """Answer whoever can be answered, plan what has room, give every idle worker something."""
        for agent, slot in self._schedule.answers():
            self._answer(agent, slot)
        while (planned := self._schedule.next()) is not None:
            slot, t, indices = planned
            size = max(1, min(MOST_ROWS, -(-len(indices) // (2 * len(self._workers)))))
            parts = [(first, indices[first : first + size]) for first in range(0, len(indices), size)]
            self._queue.extend(Rows(slot, t, first, part) for first, part in parts)
        for told in [w for w in self._workers if w not in self._busy]:
            if self._queue:
                rows = self._queue.popleft()
                self._busy[told] = rows, time.monotonic()
                with contextlib.suppress(OSError):  # it has died, which is noticed by itself
                    told.send(rows)

    def _answer(self, reader: int, slot: int) -> None:
        agent = next(a for a, number in self._agents.items() if number == reader)
        wrong = self._schedule.slots[slot].wrong
        with contextlib.suppress(OSError):
            agent.send_bytes(struct.pack("<q", slot if wrong is None else -1) + (wrong or "").encode())


def user_of(connection: Connection) -> int:
    """Who is at the other end."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[1])
