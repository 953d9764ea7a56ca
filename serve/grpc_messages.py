"""The messages of the Open Inference Protocol's gRPC service, version 2.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto. They are described here
and made by protobuf itself, in a pool of their own, so that clients of other makers that are loaded in the same process, which describe
the same names, are in nobody's way.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
_PARAMETERS = ("parameters", "map InferParameter")
_TENSOR = (("name", "string"), ("datatype", "string"), ("shape", "repeated int64"))
_FULL_TENSOR = (*_TENSOR, _PARAMETERS, ("contents", "InferTensorContents"))

# message -> its fields, numbered from 1 in this order; the messages within it
FIELDS: dict[str, tuple[tuple[str, str], ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": (("live", "bool"),),
    "ServerReadyRequest": (),
    "ServerReadyResponse": (("ready", "bool"),),
    "ModelReadyRequest": (("name", "string"), ("version", "string")),
    "ModelReadyResponse": (("ready", "bool"),),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (("name", "string"), ("version", "string"), ("extensions", "repeated string")),
    "ModelMetadataRequest": (("name", "string"), ("version", "string")),
    "ModelMetadataResponse": (
        ("name", "string"),
        ("versions", "repeated string"),
        ("platform", "string"),
        ("inputs", "repeated ModelMetadataResponse.TensorMetadata"),
        ("outputs", "repeated ModelMetadataResponse.TensorMetadata"),
    ),
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelInferRequest": (
        ("model_name", "string"),
        ("model_version", "string"),
        ("id", "string"),
        _PARAMETERS,
        ("inputs", "repeated ModelInferRequest.InferInputTensor"),
        ("outputs", "repeated ModelInferRequest.InferRequestedOutputTensor"),
        ("raw_input_contents", "repeated bytes"),
    ),
    "ModelInferRequest.InferInputTensor": _FULL_TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": (("name", "string"), _PARAMETERS),
    "ModelInferResponse": (
        ("model_name", "string"),
        ("model_version", "string"),
        ("id", "string"),
        _PARAMETERS,
        ("outputs", "repeated ModelInferResponse.InferOutputTensor"),
        ("raw_output_contents", "repeated bytes"),
    ),
    "ModelInferResponse.InferOutputTensor": _FULL_TENSOR,
    "InferParameter": (
        ("bool_param", "one bool"),
        ("int64_param", "one int64"),
        ("string_param", "one string"),
        ("double_param", "one double"),
        ("uint64_param", "one uint64"),
    ),
    "InferTensorContents": (
        ("bool_contents", "repeated bool"),
        ("int_contents", "repeated int32"),
        ("int64_contents", "repeated int64"),
        ("uint_contents", "repeated uint32"),
        ("uint64_contents", "repeated uint64"),
        ("fp32_contents", "repeated float"),
        ("fp64_contents", "repeated double"),
        ("bytes_contents", "repeated bytes"),
    ),
}


def _made() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="sparring/open_inference.proto", package=PACKAGE, syntax="proto3")
    described: dict[str, Any] = {}
    for name, fields in FIELDS.items():
        outer, _, inner = name.rpartition(".")
        message = (described[outer].nested_type if outer else file.message_type).add(name=inner)
        described[name] = message
        for number, (field, kind) in enumerate(fields, 1):
            _add(message, name, field, kind, number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in FIELDS}


def _add(message: Any, within: str, name: str, kind: str, number: int) -> None:
    """A field of ``message``: ``int64``, ``repeated int64``, ``map Message`` from text, ``one int64`` of a choice."""
    kinds, labels = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FieldDescriptorProto.Label
    rule, _, of = kind.rpartition(" ")
    field = message.field.add(
        name=name,
        number=number,
        label=labels.Value("LABEL_REPEATED" if rule in ("repeated", "map") else "LABEL_OPTIONAL"),
    )
    if rule == "map":
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add(entry, "", "key", "string", 1)
        _add(entry, "", "value", of, 2)
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{within}.{entry.name}"
    elif of[0].isupper():
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{of}"
    else:
        field.type = kinds.Type.Value(f"TYPE_{of.upper()}")
    if rule == "one":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


MESSAGES = _made()
