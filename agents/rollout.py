"""Which version of a published model answers: ``models/NAME/rollout.json``, replaced whole, read by every service that serves it.

Without the file the newest version answers. A canary answers a share of the requests that name no version, a shadow is asked about
the same images after the answer has gone, and only counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sparring.trainers.files import to_json, write

FILE = "rollout.json"


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a model's versions are for.

    Args:
        version: that answers; None: the newest.
        before: that answered before it, for the way back.
        canary: that answers a ``share`` of the requests.
        shadow: that is asked beside.

    Raises:
        ValueError: a share outside [0, 1], or without a canary.
    """

    version: int | None = None
    before: int | None = None
    canary: int | None = None
    share: float = 0.0
    shadow: int | None = None

    def __post_init__(self) -> None:
        for name in ("version", "before", "canary", "shadow"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} {value!r}; expected the number of a version")
        if type(self.share) not in (int, float) or not 0 <= self.share <= 1:
            raise ValueError(f"share {self.share!r}; expected a number from 0 to 1")
        if self.share and self.canary is None:
            raise ValueError(f"a share of {self.share:g} of which no canary is named")

    @property
    def named(self) -> set[int]:
        """Versions that are kept in memory, however old they are."""
        return {v for v in (self.version, self.canary, self.shadow) if v is not None}


def read(folder: Path) -> Rollout:
    """Of ``models/NAME``.

    Raises:
        ValueError: the file says something else.
        OSError: it cannot be read.
    """
    try:
        told = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return Rollout()
    if not isinstance(told, dict):
        raise ValueError(f"{folder / FILE} holds no object")
    try:
        return Rollout(**told)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / FILE}: {error}") from None


def save(folder: Path, rollout: Rollout) -> None:
    """Replace it; readers see the old one or the new one."""
    write(folder / FILE, to_json(asdict(rollout)))
