"""Images as they are stored, by number: their bytes are read when they are asked for and decoded by whoever asked.

Nothing here needs torch, so that a process that only reads and decodes stays small. A split that is pickled opens its files anew
where it arrives; one that a fork copied does so too. One thread at a time reads through a split.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyarrow import fs

OPEN = 64  # containers that a process holds open: far below the 1,024 files that systems allow one
HEAD, TAIL = 256, 12  # bytes by which an image that is whole is known: a PNG's data begins, its last chunk ends
IMAGES = ("image", "img")  # names of Parquet columns that hold them
ROW_GROUPS = 2  # of Parquet that a process keeps, decompressed: 11 MB each with 100 photographs


class Changed(ValueError):
    """What is stored is no longer what was indexed."""

    @classmethod
    def since(cls, what: str) -> Changed:
        """Says what changed, and what can be done."""
        return cls(
            f"{what}: it changed since this run began. A run keeps the images that it began with: put the file back and go on with "
            "sparring resume RUN, or begin a new run"
        )


class Encoded(ABC):
    """One split: N encoded images with their labels."""

    sha256: str  # names the content: what every image is called, how large it is, in which order, with which labels; equal on all machines

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """int64 [N], not to be written to."""

    @abstractmethod
    def read(self, i: int) -> bytes:
        """The file of image ``i``, exactly as it was stored.

        Raises:
            OSError: it cannot be read.
            ValueError: what is there is not what was indexed.
        """

    @abstractmethod
    def name(self, i: int) -> str:
        """What to call image ``i`` in an error."""

    def file(self, i: int) -> str:
        """The name of the file of image ``i``, with the folders that it lies in, whatever holds it."""
        return self.name(i)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class EncodedDataset:
    """Class names, training and test images."""

    name: str
    classes: tuple[str, ...]
    train: Encoded
    test: Encoded
    place: Path  # CACHE/KEY: the index, beside which stands what a check found

    @property
    def splits(self) -> dict[str, Encoded]:
        """By name."""
        return {"train": self.train, "test": self.test}


class Kept:
    """What was made last, by key, in this process; the longest unused goes first."""

    def __init__(self, make: Callable[[Any], Any], most: int) -> None:
        self._make, self._most, self._process = make, most, os.getpid()
        self._held: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value of a key, made if it is not kept."""
        if self._process != os.getpid():  # a fork: an open file's place would be shared with the parent
            self._held, self._process = OrderedDict(), os.getpid()
        if key not in self._held:
            self._held[key] = self._make(key)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


class Stored(Encoded):
    """Images in files of their own, or at known places in containers such as tar archives.

    Args:
        index: Arrow file with container, offset, size, label and name; container -1 is the file ``name`` itself.
        containers: paths in ``there``.
        there: file system whose root is the data set's folder.
        stamps: size and time of each container when it was indexed; empty: nobody looks whether it changed.
    """

    def __init__(
        self,
        index: Path,
        containers: Sequence[str],
        there: fs.FileSystem,
        sha256: str,
        stamps: Sequence[Sequence[int]] = (),
    ) -> None:
        self._made_from = (index, tuple(containers), there, sha256, tuple(stamps))
        self._index, self.containers, self._there, self.sha256, self._stamps = self._made_from
        self._files = Kept(self._opened, OPEN)
        self._mapped: dict[str, Any] | None = None

    def __reduce__(self) -> Any:
        return type(self), self._made_from

    @property
    def _columns(self) -> dict[str, Any]:
        if self._mapped is None:
            import pyarrow as pa

            batch = pa.ipc.open_file(pa.memory_map(str(self._index))).get_batch(0)
            kinds = {"container": np.int32, "offset": np.int64, "size": np.int64, "label": np.int64}
            numbers = {
                name: np.frombuffer(batch.column(name).buffers()[1], kind, len(batch)) for name, kind in kinds.items()
            }
            self._mapped = {**numbers, "name": batch.column("name")}
        return self._mapped

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self._columns["label"])

    def at(self, i: int) -> tuple[int, int, int]:
        """Container, offset and size of image ``i``."""
        columns = self._columns
        return int(columns["container"][i]), int(columns["offset"][i]), int(columns["size"][i])

    def _container(self, number: int) -> Any:
        path = self.containers[number]
        if self._stamps:
            info = self._there.get_file_info(path)
            if [info.size, info.mtime_ns] != list(self._stamps[number]):
                raise Changed.since(path)
        return self._there.open_input_file(path)

    def _opened(self, number: int) -> Any:
        return self._container(number)

    def read(self, i: int) -> bytes:
        container, offset, size = self.at(i)
        if container < 0:
            with self._there.open_input_file(self.file(i)) as file:
                content = bytes(file.read())
        else:
            content = bytes(self._files.get(container).read_at(size, offset))
        if len(content) != size:
            raise Changed.since(f"{self.name(i)} has {len(content)} bytes; {size} were indexed")
        return content

    @property
    def local(self) -> bool:
        """Whether they lie on a disk, or what the system shows as one."""
        return bool(getattr(self._there, "base_fs", self._there).type_name == "local")

    def ends(self, i: int) -> tuple[bytes, bytes, int]:
        """The first and last bytes of image ``i``, and how many there are."""
        container, offset, size = self.at(i)
        if container >= 0:
            file = self._files.get(container)
            return (
                file.read_at(min(HEAD, size), offset),
                file.read_at(min(TAIL, size), offset + max(0, size - TAIL)),
                size,
            )
        with self._there.open_input_file(self.file(i)) as file:
            return file.read_at(HEAD, 0), file.read_at(TAIL, max(0, size - TAIL)), size

    def file(self, i: int) -> str:
        return str(self._columns["name"][int(i)].as_py())

    def name(self, i: int) -> str:
        container = self.at(i)[0]
        return self.file(i) if container < 0 else f"{self.containers[container]}: {self.file(i)}"


class Rows(Stored):
    """Images in a column of Parquet files: ``offset`` is the row in its file, and one row costs its whole row group."""

    def __init__(self, *made_from: Any) -> None:
        super().__init__(*made_from)
        self._groups = Kept(self._group, ROW_GROUPS)

    def _opened(self, container: int) -> tuple[Any, str, np.ndarray]:
        """A file, its column of images, and the first row of every group."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self._container(container))
        counts = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        column = next(c for c in IMAGES if c in file.schema_arrow.names)
        nested = str(file.schema_arrow.field(column).type).startswith("struct")
        return file, f"{column}.bytes" if nested else column, np.cumsum([0, *counts])

    def _group(self, key: tuple[int, int]) -> Any:
        file, column, _ = self._files.get(key[0])
        table = file.read_row_group(key[1], columns=[column], use_threads=False)
        return (table.flatten() if "." in column else table).column(0)

    def read(self, i: int) -> bytes:
        container, row, _ = self.at(i)
        starts = self._files.get(container)[2]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        content = self._groups.get((container, group))[row - int(starts[group])].as_py()
        if content is None:
            raise ValueError(f"{self.name(i)} holds no bytes of an image")
        return bytes(content)
