"""Tensors as bytes behind the JSON, and what each data type stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from sparring.agents import model_folder
from tests.serve.made import pixels, published
from tests.serve.test_web import client

HEAD = "inference-header-content-length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    published(made / "digits")
    published(made / "pair", members=2)
    return made


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[TestClient]:
    with client(folder) as made:
        yield made


def as_bytes(
    raw: bytes, datatype: str, shape: list[int], *, size: int | None = None, **more: Any
) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": "images",
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw) if size is None else size},
    }
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return head + raw, {HEAD: str(len(head))}


def outputs(answer: Any) -> dict[str, np.ndarray]:
    """Of a binary answer."""
    head = int(answer.headers[HEAD])
    told, raw = json.loads(answer.content[:head]), answer.content[head:]
    found = {}
    for tensor in told["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        found[tensor["name"]] = np.frombuffer(raw[:size], "<f4").reshape(tensor["shape"])
        raw = raw[size:]
    assert raw == b""
    return found


def bfloat16(x: np.ndarray) -> bytes:
    return torch.from_numpy(x).bfloat16().view(torch.int16).numpy().astype("<i2").tobytes()


def test_logits_to_the_bit(http: TestClient, folder: Path) -> None:
    """Bytes in, bytes out: what the network itself says."""
    x = pixels(5)
    body, headers = as_bytes(x.astype("<f4").tobytes(), "FP32", [5, 1, 8, 8], parameters={"binary_data_output": True})
    answer = http.post("/v2/models/digits/infer", content=body, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    found = outputs(answer)
    with torch.inference_mode():
        logits = model_folder.load(folder / "digits" / "1")(torch.from_numpy(x))
    assert np.array_equal(found["logits"], logits.numpy())
    assert np.array_equal(found["probabilities"], logits.softmax(1).numpy())


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "UINT8"])
def test_what_a_data_type_stands_for(datatype: str, http: TestClient) -> None:
    """Halves are pixels in [0, 1]; a UINT8 is divided by 255 in float32, as a file's bytes are."""
    x = pixels(2)
    raw = {"FP16": x.astype("<f2").tobytes(), "BF16": bfloat16(x), "UINT8": np.round(x * 255).astype("u1").tobytes()}
    same = {"FP16": x.astype("<f2").astype("<f4"), "BF16": torch.from_numpy(x).bfloat16().float().numpy(), "UINT8": x}
    answers = []
    for content, kind in ((raw[datatype], datatype), (same[datatype].tobytes(), "FP32")):
        body, headers = as_bytes(content, kind, [2, 1, 8, 8])
        answers.append(http.post("/v2/models/digits/infer", content=body, headers=headers).json()["outputs"])
    assert answers[0] == answers[1]
    if datatype != "BF16":
        data = np.round(x * 255).astype(int) if datatype == "UINT8" else x
        tensor = {"name": "images", "shape": [2, 1, 8, 8], "datatype": datatype, "data": data.ravel().tolist()}
        assert http.post("/v2/models/digits/infer", json={"inputs": [tensor]}).json()["outputs"] == answers[0]


def test_each_output_in_the_form_that_is_asked_for(http: TestClient) -> None:
    wanted = [{"name": "logits"}, {"name": "disagreement", "parameters": {"binary_data": True}}]
    body, headers = as_bytes(pixels(3).astype("<f4").tobytes(), "FP32", [3, 1, 8, 8], outputs=wanted, id="mine")
    answer = http.post("/v2/models/pair/infer", content=body, headers=headers)
    head = int(answer.headers[HEAD])
    told = json.loads(answer.content[:head])
    assert told["id"] == "mine"
    assert len(told["outputs"][0]["data"]) == 30
    assert told["outputs"][1] == {
        "name": "disagreement",
        "shape": [3],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 12},
    }
    assert len(answer.content) == head + 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 1}, "binary_data_size 1 of 'images', 256 bytes after the JSON; FP32 of [1, 1, 8, 8] has 256"),
        ({"raw": b"x" * 100}, "100 bytes after the JSON"),
        ({"raw": np.full(64, 2, "<f4").tobytes()}, "lie in [0, 1]"),
        ({"raw": np.full(64, np.nan, "<f4").tobytes()}, "must be finite"),
        ({"datatype": "FP16"}, "FP16 of [1, 1, 8, 8] has 128"),
        ({"head": "9999"}, "Inference-Header-Content-Length is 9999, the body has"),
        ({"shape": [1, 1, 8, 2**40]}, "expected [B, 1, 8, 8]"),
    ],
)
def test_bytes_that_are_no_tensor(change: dict[str, Any], words: str, http: TestClient) -> None:
    asked = {"raw": pixels().astype("<f4").tobytes(), "datatype": "FP32", "shape": [1, 1, 8, 8], "size": None, **change}
    head = asked.pop("head", None)
    body, headers = as_bytes(**asked)
    answer = http.post("/v2/models/digits/infer", content=body, headers={HEAD: head} if head else headers)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_bytes_that_nobody_announced(http: TestClient) -> None:
    head = json.dumps(
        {"inputs": [{"name": "images", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}]}
    ).encode()
    answer = http.post("/v2/models/digits/infer", content=head + b"xyz", headers={HEAD: str(len(head))})
    assert answer.json() == {"error": "3 bytes follow the JSON, and no input says that they are its data"}
    answer = http.post("/v2/models/digits/infer", content=head, headers={HEAD: "x"})
    assert answer.status_code == 400
