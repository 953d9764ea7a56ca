"""What bodies look like, for ``/openapi.json``: they are read by hand, so that a large one costs little and errors are sentences."""

from __future__ import annotations

from typing import Any

ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": ERROR}}}
    for status, text in {
        400: "The request is not HTTP as it should be.",
        401: "A bearer token is needed.",
        404: "No such model, version or path.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        421: "Asked under another name than this machine's own.",
        422: "The request means nothing; the text says why.",
        500: "A defect of the service.",
        503: "Too many wait, or nothing is ready; Retry-After says when to come again.",
    }.items()
}

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"const": "images"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 4, "maxItems": 4},
        "datatype": {"enum": ["FP32", "FP16", "BF16", "UINT8"]},
        "data": {
            "type": "array",
            "description": "Pixels in [0, 1], of UINT8 from 0 to 255, flat or nested as [B, C, H, W]; else bytes behind the JSON.",
        },
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "maxLength": 128},
        "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"enum": ["logits", "probabilities", "disagreement", "large"]},
                    "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                },
            },
        },
    },
}
_IMAGE = {"type": "string", "description": "A PNG or JPEG file in base64, or a data URL."}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


INFER = _json(_REQUEST)
INFER["requestBody"]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
INFER["responses"] = {
    "200": {
        "description": "Outputs as numbers in JSON, or as bytes behind it (Inference-Header-Content-Length).",
        "content": {"application/json": {}, "application/octet-stream": {}},
    }
}
CLASSIFY = _json({"type": "object", "required": ["image"], "properties": {"image": _IMAGE}})
CLASSIFY["requestBody"]["content"] |= {
    kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")
}
ATTACK = _json(
    {
        "type": "object",
        "required": ["image", "eps"],
        "properties": {
            "image": _IMAGE,
            "eps": {"type": "number", "minimum": 0, "maximum": 1, "description": "Radius in pixels of [0, 1]."},
            "steps": {"type": "integer", "minimum": 1, "default": 10},
            "label": {"type": "integer", "minimum": 0, "description": "The true class; default the predicted one."},
        },
    }
)
