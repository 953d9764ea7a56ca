"""One image out of its bytes, or an error that names it; without torch, for processes that only decode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparring.trainers.encoded.images import Encoded


class Undecodable(ValueError):
    """An image cannot be decoded; says which, and why."""


def made(images: Encoded, row: int, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """An image decoded, or an error that names it.

    Raises:
        Undecodable: it cannot be.
    """
    try:
        return decode(images.read(row))
    except (ValueError, OSError) as error:
        raise Undecodable(
            f"{images.name(row)}: {error}. All such images: sparring data check NAME; to leave them out: --data.bad skip"
        ) from error
