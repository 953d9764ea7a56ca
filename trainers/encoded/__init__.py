"""Data sets whose images stay encoded: an index says where each lies, and its bytes are read when they are asked for.

config -> Source (names, sizes, times of the files) -> index in the cache, made once -> EncodedDataset: train and test, each
``len``, ``labels``, ``read(i) -> bytes``, ``name(i)``, ``sha256``; ``checked.known_bad`` says which images cannot be decoded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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
        there: file system whose root is the data set's folder, such as ``pyarrow.fs.SubTreeFileSystem(base, S3FileSystem())``;
            default: the local folder ``config.root``.
        notice: told that an index is made, or made again since it was damaged, and what in a folder is no class.

    Raises:
        ValueError: unknown name, missing or damaged files.
    """
    folder = Path(config.cache).expanduser().resolve()
    if config.name.startswith("generated"):
        return generated.opened(config.name, folder)
    from pyarrow import fs

    from sparring.trainers.encoded import imagenet, index, listing, parquet, tars

    sources = {"imagenet": imagenet.source, "folder": listing.folder, "tar": tars.source, "parquet": parquet.source}
    if config.name not in sources:
        near = difflib.get_close_matches(config.name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"data.name = {config.name!r} is not read image by image; {hint}allowed: {', '.join(NAMES)}")
    if there is None:
        there = fs.SubTreeFileSystem(str(Path(config.root).expanduser().resolve()), fs.LocalFileSystem())
    if key is not None and (folder / key / "meta.json").is_file():
        return index.read(folder / key, there)
    source = sources[config.name](there, config)
    return index.opened(source, config.name, there, folder=folder, notice=notice)
