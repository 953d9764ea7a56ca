"""Columns are the bytes that pyarrow makes of the same values, and nobody imports pandas for them."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sparring.trainers.columns import numbers, tensor, texts
from tests.helpers import CLONE

NUMBERS = [
    np.arange(5, 12),
    np.array([True, False, True] * 5),
    np.array([1.5, np.nan], np.float32),
    np.empty(0, np.int64),
    np.empty(0, bool),
]
TEXTS: list[tuple[list[Any], Any]] = [
    (["a", None, "bé"], pa.string()),
    ([b"\0x", None, b""], pa.binary()),
    ([None, None], pa.string()),
    (["x"] * 9, pa.string()),
    ([], pa.string()),
]


def parquet(column: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([column], ["c"]), file)
    return file.getvalue()


@pytest.mark.parametrize("values", NUMBERS, ids=lambda v: f"{v.dtype}-{len(v)}")
def test_numbers(values: np.ndarray) -> None:
    assert parquet(numbers(values)) == parquet(pa.array(values))
    back = tensor(pq.read_table(io.BytesIO(parquet(numbers(values))))["c"])
    assert back.dtype == torch.from_numpy(values).dtype
    assert np.array_equal(back.numpy(), values, equal_nan=values.dtype.kind == "f")


@pytest.mark.parametrize(("values", "kind"), TEXTS)
def test_texts(values: list[Any], kind: Any) -> None:
    assert parquet(texts(values, kind)) == parquet(pa.array(values, kind))
    assert texts(values, kind).to_pylist() == values


def test_several_chunks() -> None:
    column = pa.chunked_array([numbers(np.arange(3)), numbers(np.arange(0)), numbers(np.arange(4))])
    assert tensor(column).tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_values_are_copied() -> None:
    """A column may lie in a file whose mapping ends."""
    column = numbers(np.arange(3))
    assert tensor(column).data_ptr() != column.buffers()[1].address


def test_a_block_is_written_and_read_without_pandas() -> None:
    program = (
        "import io, sys, sparring, numpy as np, pyarrow as pa, pyarrow.parquet as pq\n"
        "from sparring.trainers.columns import numbers, tensor, texts\n"
        "file = io.BytesIO()\n"
        "columns = [numbers(np.arange(2)), texts(['a', None], pa.string())]\n"
        "pq.write_table(pa.Table.from_arrays(columns, ['n', 't']), file)\n"
        "table = pq.ParquetFile(pa.BufferReader(file.getvalue())).read()\n"
        "tensor(table['n']), table['t'].to_pylist()\n"
        "print('pandas' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=CLONE, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
