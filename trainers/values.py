"""Numbers as people write them, and the refusal of those that are not allowed. Importing this module costs no torch."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def fraction(text: str) -> float:
    """A number written as ``0.3`` or ``8/255``.

    Raises:
        ValueError: neither form.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number; write for example 0.03 or 8/255") from None


def number(value: float | str) -> float:
    """A number, or one written as text: ``8 / 255`` and ``"8/255"``."""
    return fraction(value) if isinstance(value, str) else float(value)
