"""What the ingress knows of the served models: their cards, by name and version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparring.serve.invalid import Invalid

CANARY = "x-canary"  # header


class NotFound(Exception):
    """No such model or version."""


class NotFiniteError(Exception):
    """A model answers NaN or infinite numbers."""


def version_of(text: str | None) -> int | None:
    """A version in a path; None stays None.

    Raises:
        NotFound: it is no number.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NotFound("versions are whole numbers")
    return int(text)


def canary_of(header: str | None) -> bool | None:
    """Whether a request asks for a model's canary, or for never getting it.

    Raises:
        Invalid: the header says something else.
    """
    if header is None:
        return None
    if header not in ("always", "never"):
        raise Invalid(f"the header {CANARY} is {header[:40]!r}; expected always or never")
    return header == "always"


def card_of(models: Mapping[str, Mapping[str, Any]], name: str, version: int | None) -> tuple[int, dict[str, Any]]:
    """Number and card of a version; when None of the one that answers then.

    Raises:
        NotFound: it is not served; says what is.
    """
    versions = models.get(name, {}).get("versions", {})
    if not versions:
        raise NotFound(
            f"no such model; served: {', '.join(sorted(n for n in models if models[n]['versions'])) or 'none'}"
        )
    number = default(models[name]) if version is None else version
    if number not in versions:
        raise NotFound(f"no such version of {name}; served: {', '.join(map(str, sorted(versions)))}")
    return number, dict(versions[number])


def default(model: Mapping[str, Any]) -> int:
    """The version that answers where a request names none."""
    found = model.get("default")
    return max(model["versions"]) if found is None else int(found)


def shape_of(card: Mapping[str, Any]) -> tuple[int, int, int]:
    """Channels, height, width of a model's images."""
    size = card["input"]
    return size["channels"], size["height"], size["width"]


def middle_of(card: Mapping[str, Any]) -> float:
    """What share of an image's middle the model was evaluated on, in (0, 1]; cards from before there was a choice say nothing: all.

    Raises:
        ValueError: the card says something else.
    """
    share = card.get("preparation", {}).get("middle", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"card.json says that {share!r} of an image's middle is seen; expected a number in (0, 1]")
    return float(share)


def robustness(card: Mapping[str, Any]) -> dict[str, Any] | None:
    """The measurement on the most images in a card, under the threat that the network was trained for where that was measured; None:
    never measured."""
    measured = [e for e in card["evaluations"] if e["robust_accuracy"] is not None]
    best = max(measured, key=lambda e: e["n"], default=None)
    if best is None:
        return None
    kept = {k: best[k] for k in ("clean_accuracy", "robust_accuracy", "ci95", "n", "attacks", "flags")}
    own = next((t for t in card["threats"] if t in best["threats"]), None)
    if own is None:
        return {**kept, "threats": list(best["threats"])}
    seen = best["threats"][own]
    return {**kept, "robust_accuracy": seen["robust_accuracy"], "ci95": seen["ci95"], "threats": [own]}


def line(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """One model in the list."""
    known: dict[str, Any] = {"name": name, "versions": sorted(model["versions"]), "refused": model["refused"]}
    if model["versions"]:
        card = model["versions"][default(model)]
        known |= {"default": default(model), "rollout": model.get("rollout", {})}
        known |= {"classes": card["classes"], "input": card["input"], "threats": card["threats"]}
        known |= {"networks": card["networks"], "robustness": robustness(card) or "not measured"}
    return known
