"""Agents meet again where somebody else came in one's place, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayTaskError

from sparring.agents.meeting import PeerLost
from sparring.cluster.team.introductions import MEETINGS, again


def failing(times: int, cause: Exception) -> Any:
    """What fails so often and then finds them."""
    left = [RayTaskError("meet", "", cause)] * times

    def meet() -> str:
        if left:
            raise left.pop().as_instanceof_cause()
        return "met"

    return meet


def test_a_stranger_costs_a_try() -> None:
    assert again(failing(MEETINGS - 1, PeerLost("somebody else"))) == "met"


@pytest.mark.parametrize(("times", "cause"), [(MEETINGS, PeerLost("somebody else")), (1, ValueError("a defect"))])
def test_not_for_ever_and_not_for_other_reasons(times: int, cause: Exception) -> None:
    with pytest.raises(type(cause)):
        again(failing(times, cause))
