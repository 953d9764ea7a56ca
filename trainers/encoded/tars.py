"""Tar archives, read where they lie: shards in WebDataset's convention.

A sample is the members that follow each other under one key: ``KEY.jpg`` (or jpeg, png, webp) and ``KEY.cls``, a whole number, or
``KEY.json`` with "label". The key ends at the FIRST dot of the file's name, as in WebDataset. Neither of the index files that go with
such shards is read: that of ``wids`` counts samples and says no places, that of NVIDIA's ``wds2idx`` holds no labels.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparring.trainers.config import DataConfig
from sparring.trainers.encoded import listing
from sparring.trainers.encoded.index import Found, Places, Source

if TYPE_CHECKING:
    from pyarrow import fs

KINDS = ("jpg", "jpeg", "png", "webp")
NEAR, FAR = (
    2**12,
    2**22,
)  # bytes read at a time for headers: a disk seeks, an object store answers each request after milliseconds
AT_ONCE = 16  # shards of an object store that are looked through

Sample = tuple[str, int, int, int]  # name of the image, offset, size, label


@contextmanager
def archive(there: fs.FileSystem, path: str) -> Iterator[tarfile.TarFile]:
    """A tar archive, for its headers.

    Raises:
        ValueError: damaged, compressed, or not an archive; names it.
    """
    try:
        with (
            there.open_input_file(path) as file,
            io.BufferedReader(file, NEAR if _local(there) else FAR) as buffered,
            tarfile.open(fileobj=buffered, mode="r:") as opened,
        ):
            yield opened
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is damaged, or no plain tar archive ({error}); a compressed one cannot be read in place: unpack it (gunzip)"
        ) from error


def _local(there: Any) -> bool:
    return bool(getattr(there, "base_fs", there).type_name == "local")


def members(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files in an archive, in order.

    Raises:
        ValueError: one whose bytes do not lie together; the archive's own end is missing, at which tarfile says nothing.
    """
    while (member := opened.next()) is not None:
        opened.members = []  # type: ignore[attr-defined]  # tarfile keeps them all: a kilobyte each
        if member.issparse():
            raise ValueError(f"{member.name} is stored as a sparse file; pack the archive again without --sparse")
        if member.isreg():
            yield member
    file: Any = opened.fileobj
    file.seek(opened.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends without the mark of an end: it was cut short, copy it again")


def source(there: fs.FileSystem, config: DataConfig) -> Source:
    """Shards whose names, or whose folders, say train, and test or val; class names from ``classes.txt``, one a line.

    Raises:
        ValueError: no shards of a split, or one that is missing.
    """
    found = listing.shards(there, ".tar")
    test = next((split for split in ("test", "val") if split in found), None)
    if "train" not in found or test is None:
        raise ValueError(
            f"{config.root} holds no shards of both splits: expected NAME-train-000000.tar and NAME-val-000000.tar, or train/*.tar "
            "and val/*.tar (also test, validation); name their folder: --data.root FOLDER"
        )
    named = _class_names(there)

    def find() -> Found:
        train, train_paths = _places(there, found["train"])
        held, held_paths = _places(there, found[test])
        classes = named or tuple(map(str, range(max(train.label, default=-1) + 1)))
        return Found(classes, train, held, train_paths, held_paths)

    return Source((named, listing.stamp(found["train"]), listing.stamp(found[test])), find)


def _class_names(there: fs.FileSystem) -> tuple[str, ...]:
    if not there.get_file_info("classes.txt").is_file:
        return ()
    with there.open_input_file("classes.txt") as file:
        return tuple(line.strip() for line in bytes(file.read()).decode().splitlines() if line.strip())


def _places(there: fs.FileSystem, infos: Sequence[Any]) -> tuple[Places, list[str]]:
    paths, places = [info.path for info in infos], Places()
    with ThreadPoolExecutor(1 if _local(there) else AT_ONCE) as threads:
        for number, samples in enumerate(threads.map(lambda path: _samples(there, path), paths)):
            for name, offset, size, label in samples:
                places.add(name, label, container=number, offset=offset, size=size)
    return places, paths


def _samples(there: fs.FileSystem, path: str) -> list[Sample]:
    """The samples of one shard.

    Raises:
        ValueError: one without a label, or with two images.
    """
    samples: list[Sample] = []
    with archive(there, path) as opened:
        key, image, label = "", None, None
        for member in members(opened):
            own, kind = _key(member.name)
            if own != key:
                samples += _sample(path, image, label)
                key, image, label = own, None, None
            if kind.rpartition(".")[2] in KINDS:
                if image is not None:
                    raise ValueError(
                        f"{path}: {image.name} and {member.name} are one sample with two images, since WebDataset ends a key at the "
                        "first dot of a file's name; name them without dots before the ending"
                    )
                image = member
            elif kind == "cls" or (kind == "json" and label is None):
                label = _label(path, member, lambda m=member: opened.extractfile(m).read())  # type: ignore[misc, union-attr]
        samples += _sample(path, image, label)
    return samples


def _key(name: str) -> tuple[str, str]:
    """``a/img.0001.JPG`` -> ``a/img``, ``0001.jpg``."""
    folder, slash, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _label(path: str, member: tarfile.TarInfo, content: Callable[[], bytes]) -> int | None:
    text = content()
    try:
        if not member.name.lower().endswith(".json"):
            return int(text)
        found = json.loads(text)
        label = found.get("label") if isinstance(found, dict) else None
        return None if label is None else int(label)
    except ValueError as error:
        raise ValueError(
            f"{path}: {member.name} holds {text[:40]!r}; expected a whole number, or JSON with a label"
        ) from error


def _sample(path: str, image: tarfile.TarInfo | None, label: int | None) -> list[Sample]:
    if image is None:
        return []
    if label is None:
        key = _key(image.name)[0]
        raise ValueError(
            f'{path}: {image.name} has no label beside it: expected {key}.cls (a number), or {key}.json with "label"'
        )
    return [(image.name, image.offset_data, image.size, label)]
