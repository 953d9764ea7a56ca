"""Where every image of a data set lies: an Arrow file per split in the cache, mapped, so that a million images cost no Python object.

    CACHE/KEY/{train,test}.arrow   container (int32), offset, size, label (int64), name (text): 36 bytes and the name for each image
    CACHE/KEY/meta.json            name, classes, containers, sha256 of both files; written last

KEY names the source and what the file system says of its files: names, sizes and times. It is made once, under the cache's lock.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.trainers.datasets import cache
from sparring.trainers.encoded.images import EncodedDataset, Rows, Stored

if TYPE_CHECKING:
    from pyarrow import fs

FORMAT = 1


class Places:
    """Places of images as they are found: compact columns, in the order in which they are added."""

    def __init__(self) -> None:
        self.container, self.offset, self.size, self.label = array("i"), array("q"), array("q"), array("q")
        self.names, self.ends = bytearray(), array("q", [0])

    def add(self, name: str, label: int, *, container: int = -1, offset: int = 0, size: int = 0) -> None:
        """One more image."""
        self.container.append(container)
        self.offset.append(offset)
        self.size.append(size)
        self.label.append(label)
        self.names += name.encode()
        self.ends.append(len(self.names))

    def __len__(self) -> int:
        return len(self.label)

    def write(self, path: Path) -> str:
        """Write the Arrow file; its sha256."""
        import pyarrow as pa

        n = len(self)
        columns = {
            name: pa.Array.from_buffers(kind, n, [None, pa.py_buffer(getattr(self, name))])
            for name, kind in {
                "container": pa.int32(),
                **dict.fromkeys(("offset", "size", "label"), pa.int64()),
            }.items()
        }
        buffers = [None, pa.py_buffer(self.ends), pa.py_buffer(bytes(self.names))]
        columns["name"] = pa.Array.from_buffers(pa.large_string(), n, buffers)
        batch = pa.record_batch(columns)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Found:
    """What looking through a source gave."""

    classes: Sequence[str]
    train: Places
    test: Places
    train_containers: Sequence[str] = ()
    test_containers: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    """What a data set is made of, before it is looked through."""

    fingerprint: object  # names, sizes and times of its files
    find: Callable[[], Found]
    kind: type[Stored] = Stored
    notes: Sequence[str] = ()  # what a user is told when the index is made


def opened(
    source: Source, name: str, there: fs.FileSystem, *, folder: Path, notice: Callable[[str], None]
) -> EncodedDataset:
    """The data set of a source, whose index is made in ``folder`` unless it is there and whole.

    Raises:
        ValueError: what was found cannot be trained on.
    """
    key = cache.key_of("encoded", FORMAT, name, source.fingerprint)

    def fill(working: Path) -> dict[str, object]:
        found = source.find()
        _check(found, name)
        hashes = {split: getattr(found, split).write(working / f"{split}.arrow") for split in ("train", "test")}
        for line in (*source.notes, f"index of {name} made, once: {len(found.train):,} + {len(found.test):,} images"):
            notice(f"data: {line}")
        containers = {"train": list(found.train_containers), "test": list(found.test_containers)}
        known = {"name": name, "kind": source.kind.__name__, "classes": list(found.classes)}
        return {**known, "containers": containers, "stamps": _stamps(there, containers), "sha256": hashes}

    for line in cache.made(folder, key, fill):
        notice(f"cache: {line}; made again")
    return read(folder / key, there)


def read(entry: Path, there: fs.FileSystem) -> EncodedDataset:
    """The data set of an index that is there, without a look at its files."""
    meta = json.loads((entry / "meta.json").read_text())
    kind = {kind.__name__: kind for kind in (Stored, Rows)}[meta["kind"]]

    def images(split: str) -> Stored:
        content = hashlib.sha256(f"{split} {meta['classes']} {meta['sha256'][split]}".encode()).hexdigest()
        return kind(
            entry / f"{split}.arrow", meta["containers"][split], there, content, meta.get("stamps", {}).get(split, ())
        )

    return EncodedDataset(meta["name"], tuple(meta["classes"]), images("train"), images("test"), entry)


def _stamps(there: fs.FileSystem, containers: dict[str, list[str]]) -> dict[str, list[list[int]]]:
    """Size and time of every archive of a store, which all nodes see alike; of local ones, each node's copy has a time of its own."""
    if getattr(there, "base_fs", there).type_name == "local":
        return {}
    infos = {split: there.get_file_info(paths) if paths else [] for split, paths in containers.items()}
    return {split: [[info.size, info.mtime_ns] for info in found] for split, found in infos.items()}


def _check(found: Found, name: str) -> None:
    for split, places in (("train", found.train), ("test", found.test)):
        if not len(places):
            raise ValueError(f"{name}: no image is found for the {split} split")
        low, high, most = min(places.label), max(places.label), len(found.classes)
        if low < 0 or high >= most:
            raise ValueError(
                f"{name}: a label of the {split} split is {low if low < 0 else high}; there are {most} classes, 0 to {most - 1}"
            )
