"""What is to be loaded, as any process can make it: plain values and numpy."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Work(Protocol):
    """Images by their numbers; pickled into the loader's processes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels of what :meth:`image` returns."""

    @property
    def most(self) -> int:
        """Images of a step, at most."""

    @property
    def modules(self) -> tuple[str, ...]:
        """What :meth:`image` needs, imported once for all processes before they begin."""

    def image(self, t: int, index: int) -> np.ndarray:
        """Image ``index`` as step ``t`` sees it: uint8 [H, W, C], a pure function of both.

        Raises:
            ValueError: it cannot be decoded; names it.
        """
