"""Columns of Arrow files from numpy arrays and lists, and back, without pandas.

``pyarrow.array`` and ``to_numpy`` do the same, but import pandas to ask whether they were given a series: a third of a second to a whole
one in every process that reads or writes one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor


def numbers(values: np.ndarray) -> Any:
    """A column of numbers or truth values, [n] without missing ones."""
    kind = pa.from_numpy_dtype(values.dtype)
    held = np.packbits(values, bitorder="little") if values.dtype == bool else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(held)])


def texts(values: Sequence[str | bytes | None], kind: Any) -> Any:
    """A column of ``pa.string()`` or ``pa.binary()``; None is a missing value."""
    held = [v.encode() if isinstance(v, str) else v or b"" for v in values]
    ends = np.cumsum([0, *map(len, held)], dtype=np.int64)
    if ends[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"a column holds {ends[-1]} bytes; at most {np.iinfo(np.int32).max} fit")
    there = np.packbits(np.array([v is not None for v in values], bool), bitorder="little")
    missing = pa.py_buffer(there) if None in values else None
    return pa.Array.from_buffers(
        kind, len(held), [missing, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(held))]
    )


def tensor(column: Any) -> Tensor:
    """Values of a column of numbers or truth values, copied, [n]; none may be missing."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    truth = pa.types.is_boolean(column.type)
    each = [torch.utils.dlpack.from_dlpack(c.cast(pa.uint8()) if truth else c) for c in chunks if len(c)]
    if not each:
        return torch.from_numpy(np.empty(0, column.type.to_pandas_dtype()))
    return torch.cat(each).bool() if truth else torch.cat(each)
