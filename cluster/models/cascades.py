"""Two published networks as one: whether they go together, and the card that they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.agents import model_folder
from sparring.cluster.errors import UsageError
from sparring.trainers.trusting import HUB

OF_EACH = ("training", "threats", "held_out", "evaluations", "teachers", "license", HUB)


def check_pair(*parts: tuple[Sequence[Any], Mapping[str, Any]]) -> None:
    """Refuse networks that cannot answer in each other's place.

    Args:
        parts: of each its networks and card.

    Raises:
        UsageError: an ensemble, or networks for other images or classes.
    """
    (first, one), (second, other) = parts
    if len(first) > 1 or len(second) > 1:
        raise UsageError("a cascade is of two single networks; name one agent of an ensemble: RUN@AGENT")
    for key, what in (("classes", "classes"), ("input", "images"), ("data", "test images")):
        if _told(one, key) != _told(other, key):
            raise UsageError(f"the two networks are for other {what}: {_told(one, key)} and {_told(other, key)}")


def _told(card: Mapping[str, Any], key: str) -> Any:
    return card["data"]["sha256"] if key == "data" else card[key]


def card(first: Mapping[str, Any], second: Mapping[str, Any], width: float) -> dict[str, Any]:
    """The card of two networks as one: what was measured of each alone says nothing of both."""
    return {
        **first,
        "networks": [*first["networks"], *second["networks"]],
        "parameters": first["parameters"] + second["parameters"],
        "weights": None,
        "decision": model_folder.decision(2, width),
        "members": [{k: one[k] for k in OF_EACH if k in one} for one in (first, second)],
        "license": first.get("license") if first.get("license") == second.get("license") else None,
        **(
            {HUB: first.get(HUB) or second.get(HUB)} if HUB in first or HUB in second else {}
        ),  # else its code would be ours
        "held_out": {},
        "evaluations": [],
    }
