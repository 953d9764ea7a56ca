"""Parquet files as the Hugging Face Hub lays data sets out: a struct column ``image`` of bytes and path, and ``label``.

Labels and names are read once into the index, the images stay. Parquet reads whole row groups: an image at random costs its group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparring.trainers.config import DataConfig
from sparring.trainers.datasets import decode
from sparring.trainers.datasets.cifar import class_names
from sparring.trainers.encoded import listing
from sparring.trainers.encoded.images import IMAGES, Rows
from sparring.trainers.encoded.index import Found, Places, Source

if TYPE_CHECKING:
    from pyarrow import fs

LABELS = ("label", "labels", "fine_label")


def source(there: fs.FileSystem, config: DataConfig) -> Source:
    """``train-*.parquet`` and ``test-*`` or ``validation-*``, in the folder or one further down (``data/``).

    Where the labels of ``test`` are all -1, as for competitions, ``validation`` is the test split.

    Raises:
        ValueError: no files of a split, or one that is missing.
    """
    found = listing.shards(there, ".parquet")
    held = [split for split in ("test", "val") if split in found]
    if "train" not in found or not held:
        raise ValueError(
            f"{config.root} holds no Parquet files of both splits: expected train-*.parquet, and test-*.parquet or "
            "validation-*.parquet, there or in data/; name their folder: --data.root FOLDER"
        )

    def find() -> Found:
        train, classes = _places(there, found["train"])
        for split in held:
            test, _ = _places(there, found[split])
            if set(test.label) != {-1}:
                break
        paths = [[info.path for info in found[name]] for name in ("train", split)]
        return Found(classes or tuple(map(str, range(max(train.label, default=-1) + 1))), train, test, *paths)

    return Source([(split, listing.stamp(found[split])) for split in ("train", *held)], find, Rows)


def _places(there: fs.FileSystem, infos: list[Any]) -> tuple[Places, tuple[str, ...]]:
    """Rows of all files, and the names of classes where the first file says them."""
    import pyarrow.parquet as pq

    places, classes = Places(), ()
    for container, info in enumerate(infos):
        with decode.reading(info.path), there.open_input_file(info.path) as opened:
            file = pq.ParquetFile(opened)
            columns = file.schema_arrow.names
            image, label = (next((c for c in known if c in columns), None) for known in (IMAGES, LABELS))
            if image is None or label is None:
                raise ValueError(f"{info.path} has columns {', '.join(columns)}; expected image and label")
            classes = classes or class_names(file.schema_arrow.metadata, label)  # type: ignore[assignment]
            leaves = [file.schema.column(i).path for i in range(len(file.schema))]
            named = f"{image}.path" in leaves
            table = file.read(columns=[label, *([f"{image}.path"] if named else [])])
            numbers = table.column(label).to_pylist()
            names = table.select([image]).flatten().column(0).to_pylist() if named else [None] * len(numbers)
            for row, (number, name) in enumerate(zip(numbers, names, strict=True)):
                if not isinstance(number, int):
                    raise ValueError(f"{info.path}: row {row} has label {number!r}; expected a whole number")
                places.add(f"row {row}" + (f" ({name})" if name else ""), number, container=container, offset=row)
    return places, classes
