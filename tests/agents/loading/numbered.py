"""Images that follow from their numbers, for a loader's processes: no torch."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import numpy as np

BAD, DEADLY = 1_000_001, 1_000_002  # numbers of images that cannot be decoded, or kill who tries


@dataclass(frozen=True)
class Numbered:
    """``notes``: a file in which every image that is made leaves a line."""

    notes: str
    slow: float = 0.0
    shape: tuple[int, int, int] = (8, 8, 3)
    most: int = 20

    @property
    def modules(self) -> tuple[str, ...]:
        return (type(self).__module__,)

    def image(self, t: int, index: int) -> np.ndarray:
        if index == BAD:
            raise ValueError("cat.jpg: damaged image")
        if index == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.slow)
        with open(self.notes, "a") as notes:
            notes.write(f"{t} {index}\n")
        return np.random.default_rng([t, index]).integers(0, 256, self.shape, dtype=np.uint8)
