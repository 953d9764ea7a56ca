"""Plain values, as YAML and flags give them, checked against the types of a configuration."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from sparring.trainers import user
from sparring.trainers.config import fraction

EXPECTED = "expected a run's config.yaml, or what 'sparring recipes NAME' prints"


def read(path: Path) -> Mapping[str, Any]:
    """The mapping in a file of plain YAML.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ValueError(f"{path} {what}; {EXPECTED}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise ValueError(f"{path} is not plain YAML{line}; {EXPECTED}") from None
    if not isinstance(values, Mapping):
        seen = "nothing" if values is None else type(values).__name__
        raise ValueError(f"{path} must hold a mapping of settings, seen {seen}; {EXPECTED}")
    return values


def parse(kind: Any, value: Any, path: str) -> Any:
    """Check a plain value against a type annotation and convert it.

    Raises:
        ValueError: names the path, the value seen and what is allowed.
    """
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else _parse_dataclass(kind, value, path)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return parse(next(a for a in args if a is not type(None)), value, path)
    if origin is Literal:
        return value if value in args else _refuse(path, value, f"one of {', '.join(map(str, args))}")
    if origin is dict:
        if not isinstance(value, Mapping):
            _refuse(path, value, "a mapping")
        return {parse_key(args[0], k, path): parse(args[1], v, f"{path}.{k}") for k, v in value.items()}
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else _refuse(path, value, "a list")
        return tuple(parse(args[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if kind is float and isinstance(value, str):
        try:
            return fraction(value)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        _refuse(
            path,
            value,
            {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}[kind.__name__],
        )
    return value


def parse_key(kind: Any, key: Any, path: str) -> Any:
    """The key of a mapping: JSON has only texts."""
    if kind is int and not isinstance(key, int):
        return int(key) if str(key).isdigit() else _refuse(path, key, "a step")
    return key


def _parse_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(path, value, "a mapping")
    hints = get_type_hints(kind)
    known = {f.name: hints[f.name] for f in fields(kind)}
    prefix = f"{path}." if path else ""
    for key in value:
        if key not in known:
            unknown(f"{prefix}{key}", key, known)
    return kind(**{k: parse(known[k], v, f"{prefix}{k}") for k, v in value.items()})


def unknown(path: str, key: str, known: Mapping[str, Any]) -> NoReturn:
    """Refuse a key that is not a setting, with the nearest one that is."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{path} is not a setting; {hint}allowed: {', '.join(known)}")


def _refuse(path: str, value: Any, allowed: str) -> NoReturn:
    raise ValueError(f"{path} = {value!r} is not allowed; expected {allowed}")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """``setting: value before -> value after`` for all that differ."""
    old, new = flat(before), flat(after)
    return [f"{k}: {_shown(old.get(k))} -> {_shown(new.get(k))}" for k in {**new, **old} if old.get(k) != new.get(k)]


def _shown(value: Any) -> Any:
    """A user's file as ``own.py:net`` and the beginning of the key that its content gave it."""
    if not isinstance(value, str) or user.shown(value) == value:
        return value
    return f"{user.shown(value)} ({value.split('/')[1][:8]})"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}} -> {"a.b": 1}``."""
    found: dict[str, Any] = {}
    for k, v in values.items():
        found |= flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v}
    return found


def plain(value: Any) -> Any:
    """What YAML can say: lists where there were tuples."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value
