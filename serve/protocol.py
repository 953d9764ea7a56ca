"""The Open Inference Protocol, version 2: what a request asks for, and what its answer tells.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md. One input ``images``
([B, C, H, W], ``tensors.py``); outputs ``logits`` and ``probabilities`` (FP32, [B, K]), and of an ensemble ``disagreement``, of a cascade ``large``
(FP32, [B]), as numbers in JSON or as bytes behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from sparring.serve.invalid import Invalid, kind, short

PLATFORM = "pytorch"
PER_IMAGE = ("disagreement", "large")  # outputs of one number for each image
SERVER = {"name": "sparring", "version": "1", "extensions": ["binary_tensor_data"]}
FEW = 1000  # values of a request that has no tensor


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
        raise Invalid(f"the body is {kind(value)}; expected an object")
    return value


def outputs(request: Mapping[str, Any], available: list[str]) -> dict[str, bool]:
    """The outputs that a request wants, and whether as bytes; all when it names none.

    Raises:
        Invalid: an output that the model does not have.
    """
    wanted, default = request.get("outputs"), _flag(request, "binary_data_output", default=False)
    if wanted is None or wanted == []:
        return dict.fromkeys(available, default)
    names = [o.get("name") if isinstance(o, dict) else None for o in wanted] if isinstance(wanted, list) else [None]
    for name in names:
        if name not in available:
            raise Invalid(f"output {short(name)} is unknown; the model has {', '.join(available)}")
    if len(set(names)) != len(names):
        raise Invalid("an output is named twice")
    return {str(o["name"]): _flag(o, "binary_data", default=default) for o in wanted}


def _flag(holder: Mapping[str, Any], key: str, *, default: bool) -> bool:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Invalid("parameters is not an object")
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise Invalid(f"{key} is {short(value)}; expected true or false")
    return value


def request_id(request: Mapping[str, Any]) -> str | None:
    """The request's own ``id``, which its answer repeats.

    Raises:
        Invalid: it is not a short text.
    """
    given = request.get("id")
    whole = isinstance(given, str) and len(given) <= 128 and not any("\ud800" <= c <= "\udfff" for c in given)
    if given is not None and not whole:
        raise Invalid(f"id {short(given)}; expected a text of at most 128 characters")
    return given


def answer(
    name: str, result: Mapping[str, Any], wanted: Mapping[str, bool], *, id: str | None
) -> tuple[dict[str, Any], list[bytes]]:
    """An inference response, and the bytes that follow it."""
    tensors: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for output, as_bytes in wanted.items():
        values = result[output]
        tensor = {"name": output, "shape": list(values.shape), "datatype": "FP32"}
        if as_bytes:
            behind.append(values.astype("<f4", copy=False).tobytes())
            tensors.append({**tensor, "parameters": {"binary_data_size": len(behind[-1])}})
        else:
            tensors.append({**tensor, "data": values.ravel().tolist()})
    own = {"id": id} if id is not None else {}
    return {"model_name": name, "model_version": str(result["version"]), **own, "outputs": tensors}, behind


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
            {"name": n, "datatype": "FP32", "shape": [-1] if n in PER_IMAGE else [-1, classes]}
            for n in output_names(card)
        ],
    }


def output_names(card: Mapping[str, Any]) -> list[str]:
    """What a model of this card answers."""
    if len(card["networks"]) == 1:
        return ["logits", "probabilities"]
    rule = (card.get("decision") or {}).get("rule")
    return ["logits", "probabilities", "large" if rule == "cascade" else "disagreement"]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that is given twice nobody knows which value is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Invalid(f"the key {short(twice)} is given twice")
    return found


def _refuse(constant: str) -> Any:
    raise Invalid(f"{constant} is not a JSON number; pixels must lie in [0, 1]")
