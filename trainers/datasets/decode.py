"""From encoded images to arrays: sizes, colour modes, errors that name the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from sparring.trainers import decoder
from sparring.trainers.datasets.cache import Progress

EVERY = 500  # images between two reports of progress


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Whatever a reader raises on a file that is damaged or of another form becomes a sentence that names the file.

    Raises:
        ValueError: in place of any other error; a sentence that names the file already is left as it is.
    """
    try:
        yield
    except Exception as error:  # BadZipFile, KeyError, StopIteration, MemoryError, ArrowInvalid, UnpicklingError, ...
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        why = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged or of another form: {why.splitlines()[0]}") from error


def image(content: bytes, *, size: int | None = None, name: str = "image") -> np.ndarray:
    """An encoded image as uint8 [H, W, 3], by the one decoder (``trainers/decoder.py``).

    Args:
        size: of the square that is cut out of the middle and scaled; None keeps the image's own size.

    Raises:
        ValueError: not an image that is taken; names it.
    """
    try:
        return decoder.pixels(content, size=None if size is None else (size, size))
    except decoder.Refused as error:
        raise ValueError(f"{name}: {error}") from error


def files(
    rows: Sequence[tuple[str, int]],
    *,
    read: Callable[[str], bytes],
    what: str,
    progress: Progress,
    size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Many encoded images, in order: uint8 [N, H, W, 3] and int64 [N].

    Args:
        rows: name and label of every image.
        read: name -> encoded bytes.

    Raises:
        ValueError: no images, one that cannot be read, or two of different sizes.
    """
    if not rows:
        raise ValueError(f"{what}: no images found")
    out = np.empty(0, np.uint8)
    for i, (name, _) in enumerate(rows):
        one = image(read(name), size=size, name=name)
        if i == 0:
            out = np.empty((len(rows), *one.shape), np.uint8)
        if one.shape != out.shape[1:]:
            seen, first = (f"{s[1]}x{s[0]}" for s in (one.shape, out.shape[1:]))
            raise ValueError(f"{name} has {seen} pixels, {rows[0][0]} has {first}; set data.size to resize")
        out[i] = one
        if i % EVERY == 0 or i + 1 == len(rows):
            progress(what, i + 1, len(rows))
    return out, np.asarray([label for _, label in rows], np.int64)
