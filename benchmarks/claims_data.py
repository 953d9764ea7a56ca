"""CIFAR-10 in a form that two cores train: 16x16 pixels, means of 2x2; under the folder CIFAR10 (default data/cifar10)."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch.nn import functional as F

from sparring.trainers import datasets
from sparring.trainers.config import DataConfig


def small() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images [50000, 16, 16, 3] uint8 and labels, test images and labels."""
    root = os.environ.get("CIFAR10", "data/cifar10")
    whole = datasets.load(DataConfig(name="cifar10", root=root, download=False))
    made = []
    for split in (whole.train, whole.test):
        pixels = torch.as_tensor(np.asarray(split.images)).permute(0, 3, 1, 2).float()
        made += [F.avg_pool2d(pixels, 2).round().byte().permute(0, 2, 3, 1).numpy(), np.asarray(split.labels)]
    return made[0], made[1], made[2], made[3]
