"""How float32 is multiplied while a figure is made: set for a block, and given back as it was.

torch's settings hold for the whole process and every thread of it. So all blocks that are open at a time share one record of the
settings before the first of them, which come back when the last is left; in between the newest open block decides.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_lock = Lock()
_open: list[list[str]] = []  # one entry per open block, each a list of its precision, so that equal ones are told apart
_before: list[tuple[dict[Any, bool], list[tuple[Any, str]]]] = []  # the settings before the first of them


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Inside the block float32 is multiplied as such, or with ``tf32`` by an NVIDIA GPU in TensorFloat-32 (10 bits of mantissa).

    torch has two names for these settings: ``allow_tf32``, which raises when a user has set the newer ``fp32_precision`` otherwise,
    and the newer one, after which the older raises where somebody reads it. So the older is set where it can be read, and what it
    does not reach operator by operator. An operator without a setting of its own has its backend's, and gets it back as that.
    """
    mine = [precision]
    with _lock:
        if not _open:
            _before.append((_older(), [(operator, operator.fp32_precision) for operator in _operators()]))
        _open.append(mine)
        _set(precision)
    try:
        yield
    finally:
        with _lock:
            _open[:] = [other for other in _open if other is not mine]
            if _open:
                _set(_open[-1][0])
            else:
                _give_back(*_before.pop())


def slow_bfloat16() -> bool:
    """Whether networks would run here on an x86 CPU that has to imitate bfloat16."""
    if torch.cuda.is_available() or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not torch.cpu._is_avx512_bf16_supported()


def _operators() -> tuple[Any, ...]:
    """Those of a GPU, then those of a CPU."""
    backends: Any = torch.backends
    return (
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
    )


def _older() -> dict[Any, bool]:
    """``allow_tf32`` by backend; empty when a user's newer settings have put it out of use."""
    places: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    try:
        return {place: place.allow_tf32 for place in places}
    except RuntimeError:
        return {}


def _set(precision: str) -> None:
    older, _ = _before[0]
    for place in older:
        place.allow_tf32 = precision == "tf32"
    gpu = _operators()[:3]
    for operator in _operators():
        wanted = "tf32" if precision == "tf32" and operator in gpu else "ieee"
        if operator.fp32_precision != wanted:
            operator.fp32_precision = wanted


def _give_back(older: dict[Any, bool], operators: list[tuple[Any, str]]) -> None:
    for place, allowed in older.items():
        place.allow_tf32 = allowed
    for operator, value in operators:
        if operator.fp32_precision != value:
            operator.fp32_precision = "none"
        if operator.fp32_precision != value:
            operator.fp32_precision = value
