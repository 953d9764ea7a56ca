"""A look at both ends of every file, when its index is made: what is plainly whole is taken at its word, only the rest is decoded.

first and last bytes -> plain JPEG, PNG or WebP with its end: nothing more | anything else -> the decoder, which says whether it is bad

So a file that was cut short, is empty, or is no still image is named before a run begins, for microseconds a file. What is bad in its
middle alone is found by ``sparring data check``. Kept in ``CACHE/KEY.checked/glance.json``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain

from sparring.trainers.encoded import checked
from sparring.trainers.encoded.checked import BLOCK, Bad
from sparring.trainers.encoded.images import EncodedDataset, Rows, Stored
from sparring.trainers.files import to_json, write

AT_ONCE = 16  # threads: a disk or a network file system answers each after a while
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xae\x42\x60\x82"
ANIMATED = 0x02  # flag of WebP's extended header


def possible(dataset: EncodedDataset) -> bool:
    """Whether ends of files can be read for little: from a disk, and not out of Parquet, which gives whole row groups."""
    return all(isinstance(s, Stored) and not isinstance(s, Rows) and s.local for s in dataset.splits.values())


def found(dataset: EncodedDataset) -> tuple[Bad, ...]:
    """The images that a look at both ends, and decoding where these leave a doubt, shows to be bad; looked for once."""
    file = checked.beside(dataset) / "glance.json"
    try:
        return tuple(Bad(**bad) for bad in json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    seen: list[Bad] = []
    for split, images in dataset.splits.items():
        assert isinstance(images, Stored)
        seen += [Bad(split, row, images.name(row), reason) for row, reason in _bad(images)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, to_json([asdict(bad) for bad in seen]))
    return tuple(seen)


def _bad(images: Stored) -> Iterator[tuple[int, str]]:
    """Row and reason of each bad image, in order."""
    blocks = [range(start, min(start + BLOCK, len(images))) for start in range(0, len(images), BLOCK)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield from chain.from_iterable(threads.map(lambda rows: _block(copy.copy(images), rows), blocks))


def _block(images: Stored, rows: range) -> list[tuple[int, str]]:
    doubtful = []
    for i in rows:
        try:
            whole = plain(*images.ends(i))
        except OSError:
            whole = False  # whatever it is, the look tells
        if not whole:
            doubtful.append(i)
    return [bad for i in doubtful for bad in checked.look(images, range(i, i + 1))[1]]


def plain(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file is by its first and last bytes a whole, still image of a kind that is taken."""
    if head.startswith(b"\xff\xd8\xff"):
        return tail.endswith(b"\xff\xd9")
    if head.startswith(PNG):
        before = head.partition(b"IDAT")
        deep_colours = head[24:25] == b"\x10" and head[25:26] != b"\0"
        return bool(before[1]) and b"acTL" not in before[0] and not deep_colours and tail.endswith(PNG_END)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        still = head[12:16] in (b"VP8 ", b"VP8L") or (head[12:16] == b"VP8X" and not head[20] & ANIMATED)
        return still and int.from_bytes(head[4:8], "little") + 8 == size
    return False
