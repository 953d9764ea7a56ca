"""Files of weights from elsewhere as a person names them: with a network, and perhaps a file that maps the names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sparring.agents import foreign_weights, networks, timm_weights
from sparring.agents.checkpoint import CheckpointError
from sparring.agents.layouts import Layout
from sparring.cluster.errors import BrokenCheckpoint, DataError, UsageError
from sparring.trainers import datasets
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Dataset


def load(path: Path, network: str, data: DataConfig, mapping: Path | None) -> networks.Network:
    """A network for the images of ``data`` with a file's weights.

    Raises:
        BrokenCheckpoint: the file cannot be read or does not fit.
        DataError: the data set cannot be read.
        UsageError: no such network, or a bad mapping file.
    """
    dataset = _dataset(data)
    with _said_as_ours():
        if timm_weights.is_timms(network) and mapping is None:
            return timm_weights.load(path, networks.configure(network, dataset))
        return foreign_weights.load(path, _plain(network, dataset), layout=_layout(mapping) if mapping else None)


def start(
    path: Path, network: str, data: DataConfig, *, seed: int, role: str
) -> tuple[networks.Network, tuple[str, ...]]:
    """A network of timm's with a file's weights fitted to the images and classes of ``data``, and what is to be said of it; errors
    as :func:`load`."""
    dataset = _dataset(data)
    with _said_as_ours():
        return timm_weights.start(path, networks.configure(network, dataset), seed=seed, role=role)


def unfolded(net: str, network: str | None, data: DataConfig) -> tuple[str, str | None]:
    """The file of weights in a folder as timm writes it, and what it says that they are of, unless that was named; else what was given."""
    folder = Path(net)
    if not timm_weights.is_folder(folder):
        return net, network
    with _said_as_ours():
        _, height, width = _dataset(data).shape
        return str(folder / timm_weights.WEIGHTS), network or timm_weights.network_of(folder, (height, width))


@contextmanager
def _said_as_ours() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise BrokenCheckpoint(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _dataset(data: DataConfig) -> Dataset:
    try:
        return datasets.load(data)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def _plain(spec: str, dataset: Dataset) -> networks.NetworkConfig:
    """A network that takes pixels as they are; the file's layout may say otherwise."""
    channels, height, width = dataset.shape
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
