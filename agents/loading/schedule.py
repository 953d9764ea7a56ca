"""Which step is in which slot, and which is made next: no process, no memory, only the bookkeeping of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Indices = tuple[int, ...]


@dataclass(slots=True)
class Slot:
    """A slot of memory."""

    step: int | None = None
    left: int = 0  # images that are not there yet
    readers: set[int] = field(default_factory=set)  # agents that copy from it now
    wrong: str | None = None  # why the step cannot be made

    @property
    def ready(self) -> bool:
        """Whether the step is all there."""
        return self.step is not None and self.left == 0


@dataclass(slots=True)
class Reader:
    """An agent: what it waits for, and what it will want next."""

    wants: dict[int, Indices] = field(default_factory=dict)  # by step, in the order in which they are wanted
    waits: int | None = None


class Schedule:
    """The state of the slots.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self.slots = [Slot() for _ in range(slots)]
        self.readers: dict[int, Reader] = {}

    def want(self, reader: int, t: int, wants: Mapping[int, Indices]) -> None:
        """A reader waits for step ``t`` and will want the rest."""
        self.readers[reader] = Reader(dict(wants), t)

    def leave(self, reader: int) -> None:
        """A reader is gone."""
        self.readers.pop(reader, None)
        for slot in self.slots:
            slot.readers.discard(reader)

    def done(self, reader: int, t: int) -> None:
        """A reader has copied step ``t``."""
        self.readers[reader].wants.pop(t, None)
        for slot in self.slots:
            if slot.step == t:
                slot.readers.discard(reader)

    def answers(self) -> list[tuple[int, int]]:
        """Readers whose step is there, each with its slot, which is theirs to read from now on."""
        found = []
        for name, reader in self.readers.items():
            for i, slot in enumerate(self.slots):
                if reader.waits is not None and slot.step == reader.waits and slot.ready:
                    reader.waits = None
                    if slot.wrong is None:
                        slot.readers.add(name)
                    found.append((name, i))
        return found

    def next(self) -> tuple[int, int, Indices] | None:
        """Slot, step and images of what is to be made now; it is under way when this returns. None: nothing, or no room."""
        present = {slot.step for slot in self.slots}
        for rank, t, indices in self._ranked():
            if t in present:
                continue
            slot = self._room(rank)
            if slot is None:
                return None
            self.slots[slot] = Slot(t, left=len(indices))
            return slot, t, indices
        return None

    def _ranked(self) -> list[tuple[int, int, Indices]]:
        """All wanted steps, those that somebody waits for first, then by how soon they are wanted."""
        return sorted(
            (rank, t, indices)
            for reader in self.readers.values()
            for rank, (t, indices) in enumerate(reader.wants.items(), 0 if reader.waits is not None else 1)
        )

    def _room(self, rank: int) -> int | None:
        """A slot that may be written: one that nobody wants; else, for a step that somebody waits for, the one wanted last."""
        soon = {t: r for r, t, _ in reversed(self._ranked())}
        free = [(i, s) for i, s in enumerate(self.slots) if not s.readers and (s.ready or s.step is None)]
        unwanted = [i for i, s in free if s.step not in soon]
        if unwanted:
            return unwanted[0]
        later = [(soon[s.step], i) for i, s in free if s.step is not None and soon[s.step] > rank]
        return max(later)[1] if rank == 0 and later else None
