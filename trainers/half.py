"""Images in half precision: from float32 to the nearest value that is not further from the image."""

from __future__ import annotations

import torch
from torch import Tensor

TYPES = (torch.float16, torch.bfloat16)


def towards(adv: Tensor, x: Tensor) -> Tensor:
    """``adv`` (float32, in [0, 1]) in the type of ``x``, no pixel of it further from ``x`` than it was."""
    near = adv.to(x.dtype)
    off = near.float() - x.float()
    beyond = off.abs() > (adv - x.float()).abs()
    back = (near.view(torch.int16) - off.sign().to(torch.int16)).view(
        x.dtype
    )  # the next value down or up: all are >= 0
    return torch.where(beyond, back, near)
