"""What processes of one host share: pipes for words, and how they find each other's open files.

    sender: write the message into a slot, say READY ---> reader: copy it from there, say TAKEN ---> the slot may be written again

No names and no files: each finds the other's pipes and memory through its open files, which the kernel shows to processes of the same
user alone, and all is gone with the processes, however they end. A reader whose sender is gone reads the end of the pipe at once.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sparring.agents.meeting import PeerLost

LAYOUT, READY, TAKEN = range(3)  # what is said
WORD = struct.Struct("<qiii")  # step, value, what is said of it, bytes that follow
Place: TypeAlias = tuple[int, int, int]  # process, the number of an open file there, and the file's own


@dataclass(slots=True)
class Pipe:
    """The way from another agent to this one, before it is taken."""

    end: int
    theirs: int  # the end that the other opens

    @classmethod
    def laid(cls) -> Pipe:
        """A new one."""
        return cls(*os.pipe())


class Link:
    """Words to and from one other agent.

    Args:
        agent: its name.
        pipe: to this agent.
        place: of the pipe to the other.
        timeout: seconds after which it counts as lost.

    Raises:
        OSError: the other's files are out of this process's sight.
    """

    def __init__(self, agent: str, pipe: Pipe, place: Place, *, timeout: float) -> None:
        self._agent, self._pipe, self._timeout = agent, pipe, timeout
        self._out = opened(place, os.O_WRONLY)
        self._poll = select.poll()
        self._poll.register(pipe.end, select.POLLIN)
        self._bytes, self._heard = b"", dict[tuple[int, int, int], bytes]()

    def settle(self) -> None:
        """The other has opened its end: from now on the pipe ends when the other does."""
        os.close(self._pipe.theirs)

    def say(self, what: int, t: int, value: int, body: bytes = b"") -> None:
        """Say something of a value of step ``t``."""
        try:
            os.write(self._out, WORD.pack(t, value, what, len(body)) + body)
        except BrokenPipeError as error:
            raise PeerLost(f"{self._agent} is gone") from error

    def hear(self, what: int, t: int, value: int) -> bytes:
        """Wait until it was said; what is said before it is kept for later.

        Raises:
            PeerLost: the other is gone, or silent for too long.
        """
        ended = time.monotonic() + self._timeout
        while (found := self._heard.pop((what, t, value), None)) is None:
            if not self._poll.poll(1000 * max(0.0, ended - time.monotonic())):
                raise PeerLost(f"{self._agent} said nothing for {self._timeout:g} s")
            new = os.read(self._pipe.end, 2**16)
            if not new:
                raise PeerLost(f"{self._agent} is gone")
            self._bytes += new
            self._sort()
        return found

    def _sort(self) -> None:
        at = 0
        while len(self._bytes) - at >= WORD.size:
            t, value, what, length = WORD.unpack_from(self._bytes, at)
            if len(self._bytes) - at - WORD.size < length:
                break
            at += WORD.size + length
            self._heard[what, t, value] = self._bytes[at - length : at]
        self._bytes = self._bytes[at:]

    def close(self) -> None:
        """Leave; the other reads the end of its pipe."""
        os.close(self._out)
        os.close(self._pipe.end)


def linked(pipes: Mapping[str, Pipe], places: Mapping[str, Place], *, timeout: float) -> dict[str, Link] | None:
    """Links to all agents of this host; None when one is out of sight, as in another container."""
    made: dict[str, Link] = {}
    try:
        for agent, pipe in pipes.items():
            made[agent] = Link(agent, pipe, places[agent], timeout=timeout)
    except OSError:
        for link in made.values():
            link.close()
        for agent, pipe in pipes.items():
            os.close(pipe.theirs)
            if agent not in made:
                os.close(pipe.end)
        return None
    return made


def place_of(file: int) -> Place:
    """Where others of this host find an open file of this process."""
    return os.getpid(), file, os.fstat(file).st_ino


def opened(place: Place, how: int) -> int:
    """Another process's open file, opened by this one.

    Raises:
        OSError: it is out of sight, or another one has its number.
    """
    process, file, number = place
    opened = os.open(f"/proc/{process}/fd/{file}", how | os.O_NONBLOCK)
    if os.fstat(opened).st_ino != number:  # in another container the same process number is somebody else's
        os.close(opened)
        raise OSError(f"file {file} of process {process} is another one")
    os.set_blocking(opened, True)
    return opened
