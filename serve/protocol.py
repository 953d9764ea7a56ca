"""The Open Inference Protocol, version 2, over JSON: requests checked into arrays, answers written from them.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md. One input ``images``
(FP32, [B, C, H, W], pixels in [0, 1]); outputs ``logits`` and ``probabilities`` (FP32, [B, K]), and of an ensemble
``disagreement`` (FP32, [B]).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

PLATFORM = "pytorch"
FEW = 1000  # values of a request that has no tensor


class Invalid(ValueError):
    """A request that means nothing; the text says what was seen and what is allowed."""


class Most(NamedTuple):
    """What a body may hold; some more than its tensor needs, for what stands beside that."""

    values: int = FEW
    lists: int = FEW


def most_of(shape: tuple[int, int, int], images: int) -> Most:
    """Of a request of so many images, flat or nested."""
    channels, height, _ = shape
    return Most(FEW + images * prod(shape), FEW + images * (1 + channels + channels * height))


def parse_json(body: bytes, *, most: Most = Most()) -> dict[str, Any]:
    """An object of standard JSON.

    Args:
        most: of more nothing is made, since a value takes ten times its bytes, and a list thirty times.

    Raises:
        Invalid: not JSON, not an object, holds NaN or Infinity, a key twice or too many values, or is nested too deeply.
    """
    if body.count(b",") > most.values or body.count(b"[") + body.count(b"{") > most.lists:
        raise Invalid(f"the body holds more than {most.values} values or {most.lists} lists; send fewer images")
    try:
        value = json.loads(body, parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError:
        raise Invalid("the body is nested too deeply") from None
    except Invalid:
        raise
    except ValueError as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Invalid(f"the body is {_kind(value)}; expected an object")
    return value


def images(request: Mapping[str, Any], shape: tuple[int, int, int], *, most: int) -> np.ndarray:
    """The images of an inference request: [B, C, H, W] float32 in [0, 1].

    Args:
        shape: of the model's images.
        most: images of a request.

    Raises:
        Invalid: anything but one FP32 input ``images`` of the model's shape whose data fit it.
    """
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Invalid("expected one entry in inputs, the tensor 'images'")
    given = inputs[0]
    if given.get("name") != "images":
        raise Invalid(f"input {_short(given.get('name'))} is unknown; the model takes 'images'")
    if given.get("datatype") != "FP32":
        raise Invalid(f"datatype {_short(given.get('datatype'))} of 'images'; expected 'FP32'")
    wanted: Any = given.get("shape")
    whole = isinstance(wanted, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in wanted)
    if not whole or len(wanted) != 4 or tuple(wanted[1:]) != shape or wanted[0] < 1:
        raise Invalid(f"shape {_short(wanted)} of 'images'; expected [B, {', '.join(map(str, shape))}], B at least 1")
    if wanted[0] > most:
        raise Invalid(f"{_short(wanted[0])} images in one request; at most {most}")
    return _pixels(given.get("data"), (wanted[0], *shape))


def outputs(request: Mapping[str, Any], available: list[str]) -> list[str]:
    """Names of the outputs that a request wants; all when it names none.

    Raises:
        Invalid: an output that the model does not have.
    """
    wanted = request.get("outputs")
    if wanted is None or wanted == []:
        return available
    names = [o.get("name") if isinstance(o, dict) else None for o in wanted] if isinstance(wanted, list) else [None]
    for name in names:
        if name not in available:
            raise Invalid(f"output {_short(name)} is unknown; the model has {', '.join(available)}")
    if len(set(names)) != len(names):
        raise Invalid("an output is named twice")
    return [str(n) for n in names]


def request_id(request: Mapping[str, Any]) -> str | None:
    """The request's own ``id``, which its answer repeats.

    Raises:
        Invalid: it is not a short text.
    """
    given = request.get("id")
    whole = isinstance(given, str) and len(given) <= 128 and not any("\ud800" <= c <= "\udfff" for c in given)
    if given is not None and not whole:
        raise Invalid(f"id {_short(given)}; expected a text of at most 128 characters")
    return given


def answer(name: str, result: Mapping[str, Any], wanted: list[str], *, id: str | None) -> dict[str, Any]:
    """An inference response."""
    tensors = [
        {"name": n, "shape": list(result[n].shape), "datatype": "FP32", "data": result[n].ravel().tolist()}
        for n in wanted
    ]
    own = {"id": id} if id is not None else {}
    return {"model_name": name, "model_version": str(result["version"]), **own, "outputs": tensors}


def metadata(name: str, versions: Mapping[int, Mapping[str, Any]], version: int) -> dict[str, Any]:
    """A model's metadata, as its card tells it."""
    card = versions[version]
    size, classes = card["input"], len(card["classes"])
    return {
        "name": name,
        "versions": [str(v) for v in sorted(versions)],
        "platform": PLATFORM,
        "inputs": [
            {"name": "images", "datatype": "FP32", "shape": [-1, size["channels"], size["height"], size["width"]]}
        ],
        "outputs": [
            {"name": n, "datatype": "FP32", "shape": [-1] if n == "disagreement" else [-1, classes]}
            for n in output_names(card)
        ],
    }


def output_names(card: Mapping[str, Any]) -> list[str]:
    """What a model of this card answers."""
    return ["logits", "probabilities", *(["disagreement"] if len(card["networks"]) > 1 else [])]


def _pixels(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Every value is looked at before an array is made: numpy would give each as much room as the longest text."""
    if not isinstance(data, list):
        raise Invalid(f"data of 'images' is {_kind(data)}; expected a list of numbers, flat or nested")
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
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise Invalid("pixels must be finite and lie in [0, 1] (divide bytes by 255)")
    return values.astype(np.float32).reshape(shape)


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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that is given twice nobody knows which value is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Invalid(f"the key {_short(twice)} is given twice")
    return found


def _refuse(constant: str) -> Any:
    raise Invalid(f"{constant} is not a JSON number; pixels must lie in [0, 1]")


def _kind(value: Any) -> str:
    return {"dict": "an object", "list": "a list", "str": "a text", "NoneType": "null", "bool": "true or false"}.get(
        type(value).__name__, "a number"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
