"""Decoded images on disk: Arrow IPC files that every agent of a node maps into memory, so they exist there once.

    CACHE/KEY/{train,test}.arrow   one record batch: image (fixed-size binary of H*W*C bytes), label (int64)
    CACHE/KEY/meta.json            name, classes, shape, sha256 of both files; written last

KEY names the content: the loader, its options, the decoder's version, and names and sha256 of the source files. A missing,
truncated or altered file is noticed by its sha256 and made anew.

    CACHE/hashes/KEY.json          sha256 of source files beside what the system says of them, so that each is read once
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparring.trainers import decoder
from sparring.trainers.columns import numbers, tensor
from sparring.trainers.data import Dataset, Split

FORMAT = 1
Progress = Callable[[str, int, int], None]  # what, images done, images in all


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Decoded:
    """What a loader returns: images as uint8 [N, H, W, C] and labels as int64 [N]."""

    classes: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def key_of(*parts: object) -> str:
    """Name of a cache entry."""
    return hashlib.sha256(repr((FORMAT, decoder.VERSION, *parts)).encode()).hexdigest()[:24]


def fingerprint(files: list[Path], base: Path, cache: str) -> list[tuple[str, str]]:
    """Name below ``base`` and sha256 of every file: two sources with equal names, sizes and times are two.

    Args:
        cache: folder in which hashes are kept, per file with its place, size, times and inode.
    """
    folder = Path(cache).expanduser() / "hashes"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{hashlib.sha256(str(base.resolve()).encode()).hexdigest()[:24]}.json"
    try:
        known = dict(json.loads(place.read_text()))
    except (OSError, ValueError):
        known = {}
    found: dict[str, list[object]] = {}
    for file in sorted(files):
        seen = file.stat()
        state = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev]
        name = str(file.relative_to(base))
        before = known.get(name)
        found[name] = before if before and before[:-1] == state else [*state, _sha256(file)]
    if any(known.get(name) != entry for name, entry in found.items()):
        working = place.with_name(f"{place.name}.{os.getpid()}")
        working.write_text(json.dumps({**known, **found}))
        working.replace(place)
    return [(name, str(entry[-1])) for name, entry in found.items()]


def ensure(cache: Path, key: str, name: str, decode: Callable[[], Decoded]) -> list[str]:
    """Make the entry unless it is there and whole; what was wrong with a damaged one.

    One process per node decodes; the others wait for it.
    """

    def fill(working: Path) -> dict[str, object]:
        decoded = decode()
        hashes = {split: _write(working / f"{split}.arrow", *getattr(decoded, split)) for split in ("train", "test")}
        shape = list(decoded.train[0].shape[1:])
        return {"format": FORMAT, "name": name, "classes": list(decoded.classes), "shape": shape, "sha256": hashes}

    return made(cache, key, fill)


def made(cache: Path, key: str, fill: Callable[[Path], dict[str, object]]) -> list[str]:
    """Make an entry unless it is there and whole; what was wrong with a damaged one.

    Args:
        fill: writes the files into a folder, and returns what meta.json says, with ``sha256`` of each split's file.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{key}.lock"):
        wrong = problems(cache / key)
        if wrong == []:
            return []
        working = cache / f"{key}.tmp"
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        (working / "meta.json").write_text(json.dumps(fill(working), indent=1))
        shutil.rmtree(cache / key, ignore_errors=True)
        working.rename(cache / key)
    return wrong if wrong != ["absent"] else []


def problems(entry: Path) -> list[str]:
    """What is wrong with an entry: ["absent"], damaged files by name, or [] when it is whole."""
    if not (entry / "meta.json").is_file():
        return ["absent"]
    try:
        expected = json.loads((entry / "meta.json").read_text())["sha256"]
    except (ValueError, KeyError):
        return [f"{entry / 'meta.json'} is damaged"]
    return [f"{entry / f'{s}.arrow'} is damaged" for s, sha in expected.items() if _sha256(entry / f"{s}.arrow") != sha]


def read(entry: Path) -> Dataset:
    """The data set of a whole entry; its pixels stay in the file until they are used."""
    meta = json.loads((entry / "meta.json").read_text())
    shape = tuple(meta["shape"])
    splits = [_read(entry / f"{split}.arrow", shape, meta["sha256"][split]) for split in ("train", "test")]
    return Dataset(meta["name"], tuple(meta["classes"]), *splits)


def pack(entry: Path) -> dict[str, np.ndarray]:
    """The files of an entry as bytes, and what was measured of its images, to travel to a node that lacks it."""
    files = [*sorted(entry.iterdir()), *sorted(entry.parent.glob(f"{entry.name}.*.json"))]
    return {f.name: np.fromfile(f, dtype=np.uint8) for f in files}


def unpack(cache: Path, key: str, files: dict[str, np.ndarray]) -> None:
    """Write an entry that came from another node, unless a whole one is here by now."""
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{key}.lock"):
        if problems(cache / key) == []:
            return
        working = cache / f"{key}.tmp"
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        for name, content in files.items():
            content.tofile((cache if name.startswith(f"{key}.") else working) / name)
        shutil.rmtree(cache / key, ignore_errors=True)
        working.rename(cache / key)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude the other processes of this node; the lock ends with its process."""
    with path.open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _write(path: Path, images: np.ndarray, labels: np.ndarray) -> str:
    import pyarrow as pa

    n, width = len(images), math.prod(images.shape[1:])
    column = pa.Array.from_buffers(pa.binary(width), n, [None, pa.py_buffer(np.ascontiguousarray(images))])
    batch = pa.record_batch([column, numbers(labels.astype(np.int64))], names=["image", "label"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with path.open("rb") as f:
        os.fsync(f.fileno())
    return _sha256(path) or ""


def _read(path: Path, shape: tuple[int, ...], sha: str) -> Split:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        start = source.read_buffer(1).address
        batch = pa.ipc.open_file(source).get_batch(0)
        offset = batch.column("image").buffers()[1].address - start
        labels = tensor(batch.column("label"))
    # copy-on-write: torch wants writable memory, and nobody can alter the file through it
    size = (len(labels), *shape)
    pixels = np.memmap(path, np.uint8, mode="c", offset=offset, shape=size) if len(labels) else np.empty(size, np.uint8)
    return Split(torch.from_numpy(pixels), labels, source=sha)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError:
        return None
