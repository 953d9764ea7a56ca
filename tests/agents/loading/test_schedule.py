"""What is made next, and where: against any order in which agents ask, copy and leave."""

from __future__ import annotations

import random

import pytest

from sparring.agents.loading.schedule import Schedule


@pytest.mark.parametrize("seed", range(8))
def test_no_slot_is_written_while_it_is_read_and_everybody_is_served(seed: int) -> None:
    draw = random.Random(seed)
    readers, ahead = draw.randint(1, 4), draw.randint(0, 6)
    schedule = Schedule(draw.randint(2, 6))
    at, reading, served = dict.fromkeys(range(readers), 0), dict[int, int](), dict.fromkeys(range(readers), 0)
    making: list[int] = []
    for _ in range(3000):
        name = draw.randrange(readers)
        if name in reading:
            if draw.random() < 0.5:
                schedule.done(name, at[name])
                del reading[name]
                at[name] = max(0, at[name] + (1 if draw.random() < 0.95 else -draw.randint(1, 5)))
        elif name not in schedule.readers or schedule.readers[name].waits is None:
            schedule.want(name, at[name], {t: (t,) for t in range(at[name], at[name] + ahead + 1)})
        elif draw.random() < 0.01:
            schedule.leave(name)
        while (planned := schedule.next()) is not None:
            slot, t, indices = planned
            assert slot not in reading.values()
            assert slot not in making
            assert indices == (t,)
            making.append(slot)
        if making and draw.random() < 0.7:
            schedule.slots[making.pop(draw.randrange(len(making)))].left = 0
        for who, slot in schedule.answers():
            assert schedule.slots[slot].step == at[who]
            reading[who] = slot
            served[who] += 1
    assert min(served.values()) > 20


def test_in_lockstep_every_step_is_made_once() -> None:
    schedule, made = Schedule(3), []
    for t in range(20):
        for name in (0, 1):
            schedule.want(name, t, {s: (s,) for s in range(t, t + 9)})
            while (planned := schedule.next()) is not None:
                made.append(planned[1])
                schedule.slots[planned[0]].left = 0
            assert (name, t) in [(who, schedule.slots[slot].step) for who, slot in schedule.answers()]
            schedule.done(name, t)
    assert made == sorted(set(made))
    assert set(range(20)) <= set(made)
