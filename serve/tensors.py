"""The input tensor of a request, as numbers in JSON or as bytes behind it, into pixels.

Source: the Open Inference Protocol's REST specification and its binary tensor extension
(https://github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md): the bytes of a tensor are its values in
row-major order, little-endian, without padding; ``parameters.binary_data_size`` says how many they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from sparring.serve.invalid import Invalid, kind, short

DTYPES = {"FP32": "<f4", "FP16": "<f2", "BF16": "<u2", "UINT8": "|u1"}  # as numpy reads their bytes
BYTES = np.float32(255)  # a UINT8 pixel is divided by it, as the decoder of files does


def split(body: bytes, head: str | None) -> tuple[bytes, memoryview]:
    """A body's JSON, and the bytes behind it.

    Args:
        head: the header ``Inference-Header-Content-Length``: bytes of JSON; None: all.

    Raises:
        Invalid: there are fewer.
    """
    whole = memoryview(body)
    if head is None:
        return body, whole[len(body) :]
    if int(head) > len(body):
        raise Invalid(f"Inference-Header-Content-Length is {head}, the body has {len(body)} bytes")
    return body[: int(head)], whole[int(head) :]


def images(request: Mapping[str, Any], raw: memoryview, shape: tuple[int, int, int], *, most: int) -> np.ndarray:
    """The images of an inference request: [B, C, H, W] float32 in [0, 1].

    Args:
        raw: the bytes behind the JSON; empty where there are none.
        shape: of the model's images.
        most: images of a request.

    Raises:
        Invalid: anything but one input ``images`` of the model's shape whose data fit it: FP32, FP16 or BF16 in [0, 1], or UINT8.
    """
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Invalid("expected one entry in inputs, the tensor 'images'")
    given = inputs[0]
    if given.get("name") != "images":
        raise Invalid(f"input {short(given.get('name'))} is unknown; the model takes 'images'")
    datatype = given.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise Invalid(f"datatype {short(datatype)} of 'images'; expected {', '.join(map(repr, DTYPES))}")
    wanted: Any = given.get("shape")
    whole = isinstance(wanted, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in wanted)
    if not whole or len(wanted) != 4 or tuple(wanted[1:]) != shape or wanted[0] < 1:
        raise Invalid(f"shape {short(wanted)} of 'images'; expected [B, {', '.join(map(str, shape))}], B at least 1")
    if wanted[0] > most:
        raise Invalid(f"{short(wanted[0])} images in one request; at most {most}")
    size = _binary_size(given)
    if size is None:
        if raw:
            raise Invalid(f"{len(raw)} bytes follow the JSON, and no input says that they are its data")
        return _scaled(_listed(given.get("data"), datatype, (wanted[0], *shape)), datatype)
    return _scaled(_bytes(raw, size, datatype, (wanted[0], *shape)), datatype)


def _binary_size(given: Mapping[str, Any]) -> int | None:
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Invalid("parameters of 'images' is not an object")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Invalid(f"binary_data_size {short(size)} of 'images'; expected a number of bytes")
    if "data" in given:
        raise Invalid("'images' has data in the JSON and says that they follow it as bytes")
    return size


def _bytes(raw: memoryview, size: int, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values as they lie in the body; nothing is copied but BF16, which numpy does not know."""
    dtype = np.dtype(DTYPES[datatype])
    expected = prod(shape) * dtype.itemsize
    if size != expected or len(raw) != size:
        raise Invalid(
            f"binary_data_size {size} of 'images', {len(raw)} bytes after the JSON; {datatype} of {list(shape)} has {expected}"
        )
    values = np.frombuffer(raw, dtype).reshape(shape)
    return (values.astype("<u4") << 16).view("<f4") if datatype == "BF16" else values


def _scaled(values: np.ndarray, datatype: str) -> np.ndarray:
    """To float32 in [0, 1]."""
    if datatype == "UINT8":
        return values.astype(np.float32) / BYTES
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise Invalid("pixels must be finite and lie in [0, 1] (divide bytes by 255, or send them as UINT8)")
    return np.array(values, dtype=np.float32)  # a copy: bytes that came cannot be written to, of which torch warns


def _listed(data: Any, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Every value is looked at before an array is made: numpy would give each as much room as the longest text."""
    if datatype == "BF16":
        raise Invalid("BF16 has no form in JSON; send it as bytes (binary_data_size)")
    if not isinstance(data, list):
        raise Invalid(f"data of 'images' is {kind(data)}; expected a list of numbers, flat or nested")
    expected = f"expected {list(shape)}, or {prod(shape)} numbers"
    nested = bool(data) and isinstance(data[0], list)
    flat = _flat(data, shape) if nested else data
    if flat is None:
        raise Invalid(f"data of 'images' is ragged or of another shape; {expected}")
    if len(flat) != prod(shape):
        raise Invalid(f"data of 'images' has {len(flat)} values; {expected}")
    if not all(type(v) in (int, float) for v in flat):
        raise Invalid("data of 'images' holds values that are not numbers")
    try:
        values = np.array(flat, dtype=np.float64)
    except OverflowError:
        raise Invalid("data of 'images' holds values that are not numbers of 64 bits") from None
    values = values.reshape(shape)
    if datatype == "UINT8" and not (values.min() >= 0 and values.max() <= 255 and (values == values.round()).all()):
        raise Invalid("UINT8 values must be whole numbers from 0 to 255")
    return values if datatype in ("UINT8", "FP32") else _rounded(values, datatype)


def _flat(data: Any, shape: tuple[int, ...]) -> list[Any] | None:
    """The values of lists nested as ``shape`` says; None where they are not."""
    if not isinstance(data, list) or len(data) != shape[0]:
        return None
    if len(shape) == 1:
        return data
    found: list[Any] = []
    for part in data:
        values = _flat(part, shape[1:])
        if values is None:
            return None
        found += values
    return found


def _rounded(values: np.ndarray, datatype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[datatype])
