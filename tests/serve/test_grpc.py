"""The gRPC service: its calls, their errors as statuses, and messages that are those of the protocol's own description."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from sparring.agents import model_folder, rollout
from sparring.serve.grpc_door import listening
from sparring.serve.grpc_messages import FIELDS, MESSAGES, SERVICE
from sparring.serve.settings import Limits, Settings
from sparring.serve.tokens import Tokens
from tests.serve.live import free_port
from tests.serve.local import Local
from tests.serve.made import pixels, published

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    published(made / "digits")
    published(made / "digits", seed=1)
    published(made / "pair", members=2)
    return made


def with_service(folder: Path, work: Callable[[Ask], Awaitable[Any]], **options: Any) -> tuple[Any, str]:
    """What ``work`` finds who may ask, and the counts afterwards."""

    async def run() -> tuple[Any, str]:
        settings = Settings(models_dir=str(folder), grpc_port=free_port(), limits=Limits(images=16), **options)
        backend = Local(settings)
        async with (
            listening(backend, settings, Tokens(settings.token_file)),
            grpc.aio.insecure_channel(f"127.0.0.1:{settings.grpc_port}") as channel,
        ):

            async def ask(call: str, token: str | None = None, canary: str | None = None, **fields: Any) -> Any:
                asked = channel.unary_unary(
                    f"/{SERVICE}/{call}",
                    request_serializer=MESSAGES[f"{call}Request"].SerializeToString,
                    response_deserializer=MESSAGES[f"{call}Response"].FromString,
                )
                metadata = [("authorization", f"Bearer {token}")] if token is not None else []
                metadata += [("x-canary", canary)] if canary is not None else []
                return await asked(MESSAGES[f"{call}Request"](**fields), metadata=metadata, timeout=60)

            found = await work(ask)
        return found, (await backend.metrics()).decode()

    return asyncio.run(run())


def tensor(x: np.ndarray, datatype: str = "FP32", **contents: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": datatype, "shape": list(x.shape), **contents}


def logits(answer: Any) -> np.ndarray:
    index = [t.name for t in answer.outputs].index("logits")
    return np.frombuffer(answer.raw_output_contents[index], "<f4").reshape(answer.outputs[index].shape)


def test_a_canary_by_metadata(tmp_path: Path) -> None:
    for seed in (0, 1):
        published(tmp_path / "digits", seed=seed)
    rollout.save(tmp_path / "digits", rollout.Rollout(version=1, canary=2, share=0.5))
    x = pixels(1)
    asked: dict[str, Any] = {
        "model_name": "digits",
        "inputs": [tensor(x)],
        "raw_input_contents": [x.astype("<f4").tobytes()],
    }

    async def work(ask: Ask) -> list[str]:
        return [(await ask("ModelInfer", canary=c, **asked)).model_version for c in ("always", "never") * 6]

    assert with_service(tmp_path, work)[0] == ["2", "1"] * 6


def test_every_call(folder: Path) -> None:
    x = pixels(3)
    raw = x.astype("<f4").tobytes()

    async def work(ask: Ask) -> dict[str, Any]:
        return {
            "live": (await ask("ServerLive")).live,
            "ready": (await ask("ServerReady")).ready,
            "model": [(await ask("ModelReady", name=n)).ready for n in ("digits", "none")],
            "server": (await ask("ServerMetadata")).name,
            "metadata": await ask("ModelMetadata", name="digits"),
            "newest": await ask("ModelInfer", model_name="digits", id="mine", inputs=[tensor(x)], raw_input_contents=[raw]),
            "first": await ask("ModelInfer", model_name="digits", model_version="1", inputs=[tensor(x)], raw_input_contents=[raw]),
            "listed": await ask(
                "ModelInfer", model_name="digits", inputs=[tensor(x, contents={"fp32_contents": x.ravel().tolist()})]
            ),
            "bytes": await ask(
                "ModelInfer", model_name="digits", inputs=[tensor(x, "UINT8")], raw_input_contents=[np.round(x * 255).astype("u1").tobytes()]
            ),
            "pair": await ask(
                "ModelInfer", model_name="pair", inputs=[tensor(x)], outputs=[{"name": "disagreement"}], raw_input_contents=[raw]
            ),
        }  # fmt: skip

    found, metrics = with_service(folder, work)
    assert (found["live"], found["ready"], found["model"], found["server"]) == (True, True, [True, False], "sparring")
    assert list(found["metadata"].versions) == ["1", "2"]
    assert list(found["metadata"].inputs[0].shape) == [-1, 1, 8, 8]
    with torch.inference_mode():
        right = {v: model_folder.load(folder / "digits" / v)(torch.from_numpy(x)).numpy() for v in ("1", "2")}
    assert (found["newest"].model_version, found["newest"].id, found["newest"].model_name) == ("2", "mine", "digits")
    for name in ("newest", "listed", "bytes"):
        assert np.array_equal(logits(found[name]), right["2"])
    assert np.array_equal(logits(found["first"]), right["1"])
    assert [t.name for t in found["pair"].outputs] == ["disagreement"]
    assert len(found["pair"].raw_output_contents[0]) == 12
    assert re.search(
        rf'sparring_requests_total\{{method="gRPC",route="/{SERVICE}/ModelInfer",status="200"\}} 5', metrics
    )
    assert "sparring_open_requests 0" in metrics


INFER: dict[str, Any] = {
    "model_name": "digits",
    "inputs": [tensor(pixels())],
    "raw_input_contents": [pixels().astype("<f4").tobytes()],
}
WRONG: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "no such model": ({"model_name": "x"}, grpc.StatusCode.NOT_FOUND, "no such model; served: digits, pair"),
    "no such version": ({"model_version": "9"}, grpc.StatusCode.NOT_FOUND, "no such version of digits; served: 1, 2"),
    "no number": ({"model_version": "x"}, grpc.StatusCode.NOT_FOUND, "versions are whole numbers"),
    "no inputs": (
        {"inputs": [], "raw_input_contents": []},
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected one entry in inputs",
    ),
    "raws of nothing": ({"inputs": []}, grpc.StatusCode.INVALID_ARGUMENT, "0 inputs and 1 raw_input_contents"),
    "too few bytes": ({"raw_input_contents": [b"x"]}, grpc.StatusCode.INVALID_ARGUMENT, "FP32 of [1, 1, 8, 8] has 256"),
    "another type": ({"inputs": [tensor(pixels(), "INT8")]}, grpc.StatusCode.INVALID_ARGUMENT, 'datatype "INT8"'),
    "too many": (
        {"inputs": [tensor(pixels(17))]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "17 images in one request; at most 16",
    ),
    "an output that is none": ({"outputs": [{"name": "x"}]}, grpc.StatusCode.INVALID_ARGUMENT, 'output "x" is unknown'),
}


def test_errors_are_statuses(folder: Path) -> None:
    async def work(ask: Ask) -> dict[str, tuple[grpc.StatusCode, str]]:
        found = {}
        for name, (change, _, _) in WRONG.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask("ModelInfer", **{**INFER, **change})
            found[name] = (caught.value.code(), caught.value.details() or "")
        return found

    found, metrics = with_service(folder, work)
    for name, (_, code, words) in WRONG.items():
        assert found[name][0] == code, name
        assert words in found[name][1], name
    assert "sparring_open_requests 0" in metrics
    assert 'status="404"} 3' in metrics


def test_a_token(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)

    async def work(ask: Ask) -> list[Any]:
        found = [(await ask("ServerLive")).live, (await ask("ServerReady")).ready]
        for token in (None, "x", ""):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask("ModelInfer", token, **INFER)
            found.append(caught.value.code())
        return [*found, (await ask("ModelInfer", "secret", **INFER)).model_version]

    found, _ = with_service(folder, work, token_file=str(tmp_path / "token"))
    assert found == [True, True, *[grpc.StatusCode.UNAUTHENTICATED] * 3, "2"]


def test_messages_are_numbered_as_the_protocol_has_them() -> None:
    """What clients of other makers send: fields by their numbers on the wire."""
    assert (
        MESSAGES["ModelInferRequest"](model_name="m", raw_input_contents=[b"x"]).SerializeToString() == b"\n\x01m:\x01x"
    )
    assert MESSAGES["ModelInferResponse"](raw_output_contents=[b"y"]).SerializeToString() == b"2\x01y"
    parameter = MESSAGES["InferParameter"](int64_param=3)
    assert parameter.SerializeToString() == b"\x10\x03"
    parameter.bool_param = True
    assert parameter.WhichOneof("parameter_choice") == "bool_param"
    asked = MESSAGES["ModelInferRequest"]()
    asked.parameters["p"].string_param = "q"
    assert asked.SerializeToString() == b'"\x08\n\x01p\x12\x03\x1a\x01q'
    assert len(MESSAGES) == len(FIELDS)
