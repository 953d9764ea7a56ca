"""Data sets whose images stay encoded: an index says where each lies, and its bytes are read when they are asked for.

config -> Source (names, sizes, times of the files) -> index in the cache, made once -> EncodedDataset: train and test, each
``len``, ``labels``, ``read(i) -> bytes``, ``name(i)``, ``sha256``; ``checked.known_bad`` says which images cannot be decoded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.trainers import uris
from sparring.trainers.encoded import generated
from sparring.trainers.encoded.images import Encoded as Encoded
from sparring.trainers.encoded.images import EncodedDataset as EncodedDataset

if TYPE_CHECKING:
    from pyarrow import fs

    from sparring.trainers.config import DataConfig

NAMES = ("imagenet", "folder", "tar", "parquet", "generated:N")


def is_name(name: str) -> bool:
    """Whether a data set of this name can stay encoded."""
    return name in NAMES or name.startswith("generated:")


def opened(
    config: DataConfig,
    *,
    key: str | None = None,
    there: fs.FileSystem | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> EncodedDataset:
    """The images that a configuration names, as they are stored.

    The files' names, sizes and times are looked at; where they are as they were, the index is mapped and no archive is opened.

    Args:
        key: of an index that another process of the run has made: where this machine has it, the files are not looked at again.
        there: file system whose root is the data set's folder; default: that of ``config.root``, a folder or a URI.
        notice: told that an index is made, or made again since it was damaged, and what in a folder is no class.

    Raises:
        ValueError: unknown name, missing or damaged files.
        OSError: a store did not answer.
    """
    folder = Path(config.cache).expanduser().resolve()
    if config.name.startswith("generated"):
        return generated.opened(config.name, folder)
    from sparring.trainers.encoded import imagenet, index, listing, parquet, tars

    sources = {"imagenet": imagenet.source, "folder": listing.folder, "tar": tars.source, "parquet": parquet.source}
    if config.name not in sources:
        near = difflib.get_close_matches(config.name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"data.name = {config.name!r} is not read image by image; {hint}allowed: {', '.join(NAMES)}")
    there = there or _file_system(config.root)
    if key is not None and (folder / key / "meta.json").is_file():
        return index.read(folder / key, there)
    uri = uris.uri_of(config.root)
    if uri is not None and not there.get_file_info("").type:
        raise ValueError(
            f"{uri} is not there: there is no such bucket, or nothing under that prefix. Look at what it holds, such as with "
            "aws s3 ls, and name its folder: --data.root URI"
        )
    source = sources[config.name](there, config)
    return index.opened(source, config.name, there, folder=folder, notice=notice)


def _file_system(root: str) -> fs.FileSystem:
    """A file system whose root is a data set's folder, by path or by URI.

    Raises:
        ValueError: no file system of that kind, or a URI that holds a key.
    """
    from pyarrow import fs

    uri = uris.uri_of(root)
    if uri is None:
        return fs.SubTreeFileSystem(uris.absolute(root), fs.LocalFileSystem())
    try:
        there, base = uris.opened(uri)
    except ValueError as error:
        raise ValueError(
            f"data.root = {uri!r} is not a place to read from: {error}. Expected a folder, or a URI such as s3://bucket/images"
        ) from error
    return fs.SubTreeFileSystem(base, there)
