"""What is said of requests that mean nothing."""

from __future__ import annotations

import json
from typing import Any


class Invalid(ValueError):
    """A request that means nothing; the text says what was seen and what is allowed."""


def kind(value: Any) -> str:
    """A JSON value's kind, in words."""
    return {"dict": "an object", "list": "a list", "str": "a text", "NoneType": "null", "bool": "true or false"}.get(
        type(value).__name__, "a number"
    )


def short(value: Any) -> str:
    """A JSON value as it is shown in a sentence."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
