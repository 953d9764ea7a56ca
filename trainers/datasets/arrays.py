"""Images that are arrays already: a user's function, and generated images in an .npz file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparring.trainers import user
from sparring.trainers.config import DataConfig
from sparring.trainers.datasets.cache import Decoded, Progress, fingerprint, key_of
from sparring.trainers.datasets.decode import reading


def function(config: DataConfig) -> tuple[object, Callable[[Progress], Decoded]]:
    """``file.py:function``, which returns (train images, train labels, test images, test labels), uint8 NHWC and integers.

    Its arrays are the fingerprint, so it runs once per start and its result is stored once.
    """
    where = f"data.name = {config.name!r}"
    result = user.function(config.name)()
    if not isinstance(result, tuple) or len(result) != 4:
        raise ValueError(
            f"{where} must return (train_images, train_labels, test_images, test_labels), seen {type(result).__name__}"
        )
    a, b, c, d = (np.asarray(array) for array in result)
    check(a, b, where=where, shape=a.shape[1:])
    check(c, d, where=where, shape=a.shape[1:])
    without = sorted(set(d.tolist()) - set(b.tolist()))
    if without:
        raise ValueError(f"{where}: test label {without[0]} has no training image")
    count = int(b.max()) + 1
    missing = sorted(set(range(count)) - set(b.tolist()))
    if missing:
        raise ValueError(
            f"{where}: labels run to {count - 1}, but class {missing[0]} has no training image; count from 0, without gaps"
        )
    classes = tuple(map(str, range(count)))
    decoded = Decoded(classes, (a, b.astype(np.int64)), (c, d.astype(np.int64)))
    return [key_of(array.shape, array.tobytes()) for array in (a, b, c, d)], lambda progress: decoded


def extra(path: Path, shape: tuple[int, ...], classes: int, cache: str) -> tuple[object, Callable[[Progress], Decoded]]:
    """Generated images: an .npz file with ``image`` (uint8 NHWC, of the data set's shape) and ``label`` below ``classes``."""
    if not path.is_file():
        raise ValueError(f"data.extra: {path} does not exist")

    def decode(progress: Progress) -> Decoded:
        with reading(path), np.load(path, allow_pickle=False) as file:
            if "image" not in file or "label" not in file:
                raise ValueError(f"{path} holds {', '.join(file.files)}; expected image (uint8 NHWC) and label")
            images, labels = file["image"], file["label"]
        check(images, labels, where=str(path), shape=shape)
        check_labels(labels, classes, where=str(path))
        return Decoded((), (images, labels.astype(np.int64)), (images[:0], labels[:0].astype(np.int64)))

    return (fingerprint([path], path.parent, cache), shape, classes), decode


def check_labels(labels: np.ndarray, classes: int, *, where: str) -> None:
    """Refuse a label that no class has.

    Raises:
        ValueError: names the first one's row and value.
    """
    beyond = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(beyond):
        row = int(beyond[0])
        raise ValueError(
            f"{where}: row {row} has label {labels[row]}, and {len(beyond)} of {len(labels)} are not among the data set's {classes} "
            f"classes, 0 to {classes - 1}"
        )


def check(images: np.ndarray, labels: np.ndarray, *, where: str, shape: tuple[int, ...]) -> None:
    """Refuse arrays that are not uint8 [N, H, W, C] of the given shape with one label each.

    Raises:
        ValueError: says what was seen and what is expected.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or images.shape[3] > 4:
        image_shape = len(shape) == 3 and shape[2] <= 4
        expected = f"[N, {', '.join(map(str, shape))}]" if image_shape else "[N, H, W, C] with 1 to 4 channels"
        raise ValueError(f"{where}: images are {images.dtype} {list(images.shape)}; expected uint8 {expected}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}; expected {len(images)} whole numbers from 0"
        )
    if len(labels) and labels.min() < 0:
        row = int(np.flatnonzero(labels < 0)[0])
        raise ValueError(f"{where}: row {row} has label {labels[row]}; expected {len(images)} whole numbers from 0")
