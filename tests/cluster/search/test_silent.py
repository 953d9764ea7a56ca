"""Trials that give no sign of life are ended, living ones never."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sparring.cluster.search import silent


class Locks:
    """A search's lock and those of its trials, each touched when told to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._time = folder, 0
        self.ended: list[str] = []
        monkeypatch.setattr(silent, "PULSE", 0.0)
        monkeypatch.setattr(silent, "_end", self.ended.append)
        self.silent = silent.Silent(folder)

    def beat(self, *names: str) -> None:
        self._time += 10
        for name in names:
            path = self._folder / name / "run.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(json.dumps({"host": "h", "pid": name}))
            os.utime(path, (self._time, self._time))

    def rounds(self, count: int, *names: str, running: tuple[int, ...] = (0, 1)) -> None:
        for _ in range(count):
            self.beat(*names)
            for _ in range(3):  # looks come more often than signs
                self.silent.look(set(running))


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locks:
    return Locks(tmp_path, monkeypatch)


def test_the_silent_one_is_ended(locks: Locks) -> None:
    locks.rounds(1, "", "trials/000", "trials/001")
    locks.rounds(silent.BEATS - 1, "", "trials/000")
    assert locks.ended == []
    locks.rounds(1, "", "trials/000")
    assert [json.loads(text)["pid"] for text in locks.ended] == ["trials/001"]
    locks.rounds(silent.BEATS - 1, "", "trials/000")  # another process has as long, whatever the first left there
    assert len(locks.ended) == 1


def test_all_that_are_silent_with_the_disk_are_left_alone(locks: Locks) -> None:
    """Nothing can be touched where the disk takes nothing, by us neither."""
    locks.rounds(1, "", "trials/000", "trials/001")
    locks.rounds(5 * silent.BEATS)
    assert locks.ended == []


def test_one_that_has_ended_or_waits_is_left_alone(locks: Locks) -> None:
    locks.rounds(1, "", "trials/000", "trials/001")
    locks.rounds(5 * silent.BEATS, "", "trials/000", running=(0,))
    locks.rounds(5 * silent.BEATS, "", "trials/000", running=(0, 2))  # which has no lock yet
    assert locks.ended == []
