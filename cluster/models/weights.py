"""Files of weights from elsewhere as a person names them: with a network, and perhaps a file that maps the names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sparring.agents import foreign_weights, networks
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.layouts import Layout
from sparring.cluster.errors import BrokenCheckpoint, DataError, UsageError
from sparring.trainers import datasets
from sparring.trainers.config import DataConfig


def load(path: Path, network: str, data: DataConfig, mapping: Path | None) -> networks.Network:
    """A network for the images of ``data`` with a file's weights.

    Raises:
        BrokenCheckpoint: the file cannot be read or does not fit.
        DataError: the data set cannot be read.
        UsageError: no such network, or a bad mapping file.
    """
    try:
        return foreign_weights.load(path, _plain(network, data), layout=_layout(mapping) if mapping else None)
    except CheckpointError as error:
        raise BrokenCheckpoint(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _plain(spec: str, data: DataConfig) -> networks.NetworkConfig:
    """A network that takes pixels as they are; the file's layout may say otherwise."""
    try:
        channels, height, width = (dataset := datasets.load(data)).shape
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    classes = len(dataset.classes)
    return networks.NetworkConfig(spec, channels, height, width, classes, (0.0,) * channels, (1.0,) * channels)


def _floats(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def _layout(path: Path) -> Layout:
    try:
        values = yaml.safe_load(path.read_text())
        unknown = set(values) - {"keys", "drop", "mean", "std"}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} is unknown")
        layout = Layout(
            keys=tuple((str(k), str(v)) for k, v in dict(values.get("keys", {})).items()),
            drop=values.get("drop"),
            mean=_floats(values.get("mean")),
            std=_floats(values.get("std")),
        )
        for pattern in (*(k for k, _ in layout.keys), layout.drop or ""):
            re.compile(pattern)
        if layout.std is not None and min(layout.std) <= 0:
            raise ValueError(f"std = {list(layout.std)} must be > 0")
        return layout
    except (OSError, yaml.YAMLError, TypeError, ValueError, re.error) as error:
        raise UsageError(
            f"{path} is no mapping of names: {error}. Expected YAML with keys (regular expression: replacement), drop (regular "
            "expression), mean and std (per channel)"
        ) from error
