"""Published models, images and requests for the tests of the service."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparring.agents import model_folder, networks
from sparring.agents.networks import Network, NetworkConfig

SHAPE = (1, 8, 8)


def network(*, seed: int = 0, index: int = 0, shape: tuple[int, int, int] = SHAPE) -> Network:
    """A small one with random weights, in eval mode."""
    channels, height, width = shape
    config = NetworkConfig("small_cnn:width=4", channels, height, width, 10, (0.5,) * channels, (0.5,) * channels)
    return networks.build(config, seed, index).eval()


def published(
    folder: Path,
    *,
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    members: int = 1,
    width: float | None = None,
    detector: dict[str, Any] | None = None,
) -> Path:
    """A new version in ``folder`` with random weights; ``width``: a cascade of two members."""
    channels, height, w = shape
    made = [network(seed=seed, index=i, shape=shape) for i in range(members)]
    card: dict[str, Any] = {
        "name": folder.name,
        "networks": [m.config.spec for m in made],
        "decision": model_folder.decision(members, width),
        "parameters": 0,
        "input": {"channels": channels, "height": height, "width": w, "range": [0, 1]},
        "classes": [f"class {i}" for i in range(10)],
        "threats": ["linf:0.15"],
        "evaluations": [] if detector is None else [{"detector": detector, "robust_accuracy": None}],
    }
    return model_folder.create(folder, made, card, width=width)


def pixels(count: int = 1, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """[B, C, H, W] float32 that are whole 255ths, so that a PNG holds them."""
    values = np.random.default_rng(seed).integers(0, 256, (count, *shape))
    return values.astype(np.float32) / np.float32(255)


def png(x: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A file of one image [C, H, W]."""
    values = np.round(x * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(file, kind, **options)
    return file.getvalue()


def infer(x: np.ndarray, **more: Any) -> dict[str, Any]:
    """An inference request of the Open Inference Protocol."""
    tensor = {"name": "images", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return {"inputs": [tensor], **more}
