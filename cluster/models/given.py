"""Test images as a caller of the Python API has them: a data set's name, tensors, arrays, a torch Dataset, a DataLoader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sparring.agents.inputs import check_images, labels
from sparring.cluster.models.examples import Examples, Taken, chosen, take
from sparring.trainers.config import DataConfig
from sparring.trainers.data import Split


def taken(data: Any, examples: int | str | None = None) -> Taken:
    """Test images and labels, all or some; the classes of what has no names are numbered by the labels.

    Args:
        data: name of a data set; ``(x, y)``, x [N, C, H, W] in [0, 1] and y [N]; or anything that gives pairs of such images and
            labels, one by one (a Dataset) or in batches (a DataLoader).
        examples: so many, in an order in which every prefix has the classes' proportions, or ``first:N``.

    Raises:
        ValueError: none of these, or images and labels that cannot be meant.
        DataError: the data set cannot be read.
        UsageError: fewer images than asked for.
    """
    some = None if examples is None else Examples.parse(examples)
    if isinstance(data, str):
        return take(DataConfig(name=data), some)
    x, y = data if _is_pair(data) else _gathered(data)
    x = torch.as_tensor(x)
    check_images(x)
    y = labels(y, images=len(x))
    if not len(x):
        raise ValueError("there are no images to evaluate on")
    names = tuple(map(str, range(int(y.max()) + 1)))
    split = Split(x.detach().cpu().permute(0, 2, 3, 1).contiguous(), y.cpu())
    return Taken(chosen(split, some), names)


def _is_pair(data: Any) -> bool:
    """Two arrays of the same length, and not a data set of two examples."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


def _gathered(data: Any) -> tuple[Tensor, Any]:
    """Images and labels of a Dataset, one by one, or of a DataLoader, in batches."""
    one_by_one = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if not one_by_one and not isinstance(data, Iterable):
        raise ValueError(
            f"data is a {type(data).__name__}; expected a data set's name, (x, y), a torch Dataset or a DataLoader"
        )
    pairs = [data[i] for i in range(len(data))] if one_by_one else list(data)
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) >= 2 for pair in pairs):
        raise ValueError(f"{type(data).__name__} gives no pairs of an image and its label")
    first = pairs[0][0]
    if not isinstance(first, Tensor):
        raise ValueError(
            f"{type(data).__name__} gives images as {type(first).__name__}; expected tensors: transform=torchvision.transforms.ToTensor()"
        )
    if first.dim() == 4:
        return torch.cat([pair[0] for pair in pairs]), torch.cat([torch.as_tensor(pair[1]) for pair in pairs])
    return torch.stack([pair[0] for pair in pairs]), torch.stack([torch.as_tensor(pair[1]) for pair in pairs])
