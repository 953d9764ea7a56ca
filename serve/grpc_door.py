"""The Open Inference Protocol over gRPC: the same models, tensors and limits as over HTTP, on a port of its own.

    client -> grpc.aio -> token, count -> tensors -> Server

Several predictors of one machine share the port: the kernel hands connections out among them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

from sparring.serve import protocol, tensors
from sparring.serve.backend import Backend, Busy
from sparring.serve.catalogue import CANARY, NotFiniteError, NotFound, canary_of, card_of, shape_of, version_of
from sparring.serve.grpc_messages import MESSAGES, SERVICE
from sparring.serve.invalid import Invalid
from sparring.serve.settings import Settings
from sparring.serve.tokens import Tokens

log = logging.getLogger("sparring.serve")
GRACE = 20.0  # seconds that calls in flight have when the service stops
BESIDE = 64 * 2**10  # bytes of a message beside its tensor
STATUS = {  # what HTTP would say, for the counts
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.INTERNAL: 500,
}
ERRORS: dict[type[Exception], grpc.StatusCode] = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NotFiniteError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Busy: grpc.StatusCode.UNAVAILABLE,
    TimeoutError: grpc.StatusCode.UNAVAILABLE,
}
Call = Callable[[Any, Mapping[str, str]], Awaitable[Any]]  # request, metadata


@asynccontextmanager
async def listening(backend: Backend, settings: Settings, tokens: Tokens) -> AsyncIterator[None]:
    """Calls are answered for the time of the block, where the settings name a port.

    Raises:
        RuntimeError: the port cannot be listened on.
    """
    if settings.grpc_port is None:
        yield
        return
    most = settings.limits.body_bytes + BESIDE
    options = [
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 1),
    ]
    server = grpc.aio.server(options=options)
    door = Door(backend, settings, tokens)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, door.handlers()),))
    host = f"[{settings.grpc_host}]" if ":" in settings.grpc_host else settings.grpc_host
    server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(GRACE)


class Door:
    """The service's calls."""

    def __init__(self, backend: Backend, settings: Settings, tokens: Tokens) -> None:
        self._backend, self._settings, self._tokens = backend, settings, tokens

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """By name of the call."""
        calls: dict[str, Call] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }
        return {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, call),
                request_deserializer=MESSAGES[f"{name}Request"].FromString,
                response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
            )
            for name, call in calls.items()
        }

    def _guarded(self, name: str, call: Call) -> Callable[[Any, Any], Awaitable[Any]]:
        """With token, time, counts, and errors as sentences."""

        async def answered(request: Any, context: Any) -> Any:
            if name == "ServerLive":
                return await call(request, {})
            started, stopping, code = time.monotonic(), not self._backend.came("gRPC"), grpc.StatusCode.INTERNAL
            try:
                if stopping:
                    raise Busy("the service is stopping")
                if name not in ("ServerReady",) and not self._may(context):
                    code = grpc.StatusCode.UNAUTHENTICATED
                    await context.abort(code, "a bearer token is needed: authorization: Bearer TOKEN")
                async with asyncio.timeout(self._settings.limits.seconds):
                    answer = await call(request, _metadata(context))
                code = grpc.StatusCode.OK
                return answer
            except tuple(ERRORS) as error:
                code = next(c for kind, c in ERRORS.items() if isinstance(error, kind))
                await context.abort(code, str(error) or f"no answer within {self._settings.limits.seconds:g} s")
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("call %s", name)
                await context.abort(grpc.StatusCode.INTERNAL, "internal error")
            finally:
                route = f"/{SERVICE}/{name}"
                self._backend.noted("gRPC", route, STATUS[code], time.monotonic() - started)

        return answered

    def _may(self, context: Any) -> bool:
        if not self._tokens.needed:
            return True
        kind, _, token = _metadata(context).get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._tokens.fit(token.strip().encode())

    async def server_live(self, request: Any, metadata: Mapping[str, str]) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def server_ready(self, request: Any, metadata: Mapping[str, str]) -> Any:
        models = self._backend.models()
        missing = [name for name in self._settings.models if not models.get(name, {}).get("versions")]
        return MESSAGES["ServerReadyResponse"](ready=not missing and any(m["versions"] for m in models.values()))

    async def server_metadata(self, request: Any, metadata: Mapping[str, str]) -> Any:
        return MESSAGES["ServerMetadataResponse"](**protocol.SERVER)

    async def model_ready(self, request: Any, metadata: Mapping[str, str]) -> Any:
        try:
            card_of(self._backend.models(), request.name, version_of(request.version or None))
        except NotFound:
            return MESSAGES["ModelReadyResponse"](ready=False)
        return MESSAGES["ModelReadyResponse"](ready=True)

    async def model_metadata(self, request: Any, metadata: Mapping[str, str]) -> Any:
        models = self._backend.models()
        number, _ = card_of(models, request.name, version_of(request.version or None))
        return MESSAGES["ModelMetadataResponse"](
            **protocol.metadata(request.name, models[request.name]["versions"], number)
        )

    async def model_infer(self, request: Any, metadata: Mapping[str, str]) -> Any:
        version = version_of(request.model_version or None)
        _, card = card_of(self._backend.models(), request.model_name, version)
        asked, raw = _asked(request)
        wanted = protocol.outputs(asked, protocol.output_names(card))
        x = tensors.images(asked, raw, shape_of(card), most=self._settings.limits.images)
        canary = canary_of(metadata.get(CANARY))
        result = await self._backend.predict(request.model_name, version, x, canary=canary)
        told, behind = protocol.answer(request.model_name, result, dict.fromkeys(wanted, True), id=request.id or None)
        for tensor in told["outputs"]:
            del tensor["parameters"]  # which tells JSON how many bytes follow
        return MESSAGES["ModelInferResponse"](**told, raw_output_contents=behind)


def _metadata(context: Any) -> dict[str, str]:
    """What HTTP calls headers."""
    return {str(key): str(value) for key, value in context.invocation_metadata() or ()}


def _asked(request: Any) -> tuple[dict[str, Any], memoryview]:
    """The request as it would stand in JSON, and the bytes that would follow."""
    raws = list(request.raw_input_contents)
    if raws and len(raws) != len(request.inputs):
        raise Invalid(f"{len(request.inputs)} inputs and {len(raws)} raw_input_contents; expected as many, or none")
    inputs: list[dict[str, Any]] = []
    for i, tensor in enumerate(request.inputs):
        given: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if raws:
            given["parameters"] = {"binary_data_size": len(raws[i])}
        else:
            held = tensor.contents.uint_contents if tensor.datatype == "UINT8" else tensor.contents.fp32_contents
            given["data"] = list(held)
        inputs.append(given)
    outputs = [{"name": output.name} for output in request.outputs]
    return {"inputs": inputs, "outputs": outputs}, memoryview(raws[0] if len(raws) == 1 else b"")
