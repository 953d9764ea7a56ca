"""Which kernel computes a network's attention: asked of PyTorch where the network is, for env.json.

A choice is never forced. On a CPU it is ``flash``, with the same bytes in every process. On a GPU no run promises more than the same
data and noise; a program that wants one kernel names it: ``with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNELS = {
    0: "math",
    1: "flash",
    2: "efficient",
    3: "cudnn",
    4: "overrideable",
}  # values of torch.nn.attention.SDPBackend


def kernels(network: nn.Module, images: Tensor, *, precision: str = "fp32") -> str:
    """Names of the kernels that an attack's pass uses, comma-separated; empty where no fused attention is called.

    Args:
        network: in eval mode or not; it answers in eval mode, and is left as it was.
        images: a few [B, C, H, W] on the network's device.
    """
    from sparring.trainers.attacks import frozen

    with (
        frozen(network),
        _noted() as seen,
        torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        network(images.detach().requires_grad_())
    return ", ".join(sorted(seen))


@contextmanager
def _noted() -> Iterator[set[str]]:
    seen: set[str] = set()
    real = functional.scaled_dot_product_attention

    class Noting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is real:
                seen.add(_kernel(*args, **(kwargs or {})))
            return function(*args, **(kwargs or {}))

    with Noting():
        yield seen


def _kernel(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> str:
    choose: Any = torch._fused_sdp_choice
    return KERNELS.get(int(choose(query, key, value, *rest, **options)), "other")
