"""One image out of its bytes, or an error that names it; without torch, for processes that only decode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparring.trainers.encoded.images import Changed, Encoded
from sparring.trainers.uris import line


class Undecodable(ValueError):
    """An image cannot be decoded; says which, and why."""


class Unanswered(ConnectionError):
    """The store that holds the images did not answer, which says nothing of them; says which image was wanted."""


def made(images: Encoded, row: int, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """An image decoded, or an error that names it.

    Raises:
        Undecodable: it cannot be, or is another one by now.
        Unanswered: it could not be read now.
    """
    try:
        return decode(images.read(row))
    except Changed as error:
        raise Undecodable(str(error)) from error
    except OSError as error:
        if error.errno is not None:
            raise Undecodable(f"{images.name(row)}: {error}") from error
        raise Unanswered(
            f"{images.name(row)} could not be read: {line(error)}. See that its place answers and takes your keys "
            "(docs/operations.md, Remote storage), and go on with: sparring resume RUN (or repeat another command)"
        ) from error
    except ValueError as error:
        raise Undecodable(
            f"{images.name(row)}: {error}. All such images: sparring data check NAME; to leave them out: --data.bad skip"
        ) from error
