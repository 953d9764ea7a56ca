"""A GPU that computes nothing: tensors on the device ``meta``, and a mode that sees every operator.

operator --> Watch --> both devices among its tensors?      raises Mixed, where meta itself would let it pass (linear, convolution, index)
                   --> its result read by the CPU?           a wait, noted with the place in our code that asked; ones come back
                   --> a kernel, no view?                    a launch, inside a network's own layers or outside of them
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparring.trainers import rng
from tests.helpers import CLONE

GPU = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
MARK = 0x5EED  # seed of generators of the stand-in: torch makes none for it
ITEM = aten._local_scalar_dense.default
COPIES = (aten._to_copy.default, aten.copy_.default)
READS = (ITEM, aten.allclose.default, aten.equal.default, aten.is_nonzero.default)
ONE = (1, 1.0)
SIZED = (  # their results' sizes depend on values, so a GPU is waited for
    *(aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default),
    aten.repeat_interleave.Tensor,
)
FUSED = (aten._fused_sgd_.default, aten._fused_adamw_.default)  # which meta does not know; they write in place
INDEX = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
FREE = re.compile(  # no kernel: they look at what is there in another way, or make room
    "(detach|squeeze|unsqueeze)_?|alias|view|_unsafe_view|_reshape_alias|view_as_real|lift_fresh|t|transpose|permute|expand|slice|select"
    "|as_strided|split|split_with_sizes|unbind|chunk|diagonal|unfold|narrow|flatten|(new_)?empty|empty_like|(new_)?empty_strided"
    "|is_same_size|sym_size|record_stream|resolve_conj|resolve_neg|set_data"
)


class Mixed(RuntimeError):
    """An operator was given tensors of both devices."""


class Waits(RuntimeError):
    """An operator's result has a size that only the device knows."""


class Watch(TorchDispatchMode):
    """What operators do to the device.

    Attributes:
        waits: times that the CPU read what the device had computed, by the place in our code that asked.
        uploads: copies to the device, by place.
        launches: kernels, "layers" of a network and "outside" of them.
        names: kernels outside the layers by operator, for a person who looks for those that could go.
    """

    LAYERS: ClassVar[str] = "layers"
    OUTSIDE: ClassVar[str] = "outside"

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.uploads = Counter[str](), Counter[str]()
        self.launches, self.names = Counter[str](), Counter[str]()
        self._inside = 0  # calls of networks under way
        self._spans: list[tuple[int, int]] = []  # of autograd's numbers, given out within a network's forward pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        instead = self._instead(func, args, kwargs)
        if instead is not None:
            return instead[0]
        made = func(*args, **kwargs) if func not in FUSED else None
        there = [x for x in tree_leaves((args, kwargs, made)) if isinstance(x, Tensor) and x.device == GPU]
        if there and not FREE.fullmatch(func.__name__.partition(".")[0]):
            where = self.LAYERS if self._in_a_network() else self.OUTSIDE
            self.launches[where] += 1
            if where == self.OUTSIDE:
                self.names[func.__name__] += 1
        return made

    def _instead(self, func: Any, args: Any, kwargs: Any) -> tuple[Any] | None:
        """What is there in the place of a result that would leave the device, or that meta cannot make; None: the operator is carried out."""
        seen = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self._draws(func, kwargs, seen)
        there = [x for x in seen if x.device == GPU]
        if func in COPIES:
            return self._copied(func, args, kwargs)
        if not there:
            return None
        if func in READS:
            self.waits[place()] += 1
            return (True if func is not ITEM or there[0].dtype == torch.bool else ONE[there[0].is_floating_point()],)
        masks = [x for x in seen if x.dtype == torch.bool] if func in INDEX else []
        if func in SIZED or masks:
            raise Waits(f"{func} in {place()}")
        if any(x.device == CPU and x.dim() > 0 for x in seen) or (seen[0].device == CPU and func._schema.is_mutable):
            raise Mixed(f"{func} in {place()}: {[(str(x.device), tuple(x.shape)) for x in seen]}")
        return (there[0],) if func is aten.exponential_.default else None  # meta's own takes no generator

    def _copied(self, func: Any, args: Any, kwargs: Any) -> tuple[Any] | None:
        """Copies from one device to the other."""
        into = func is COPIES[1]
        to = args[0].device if into else torch.device(kwargs.get("device") or args[0].device)
        source = args[1].device if into else args[0].device
        if source == CPU and to == GPU:
            self.uploads[place()] += 1
        if source == GPU and to == CPU:
            self.waits[place()] += 1
            dtype = kwargs.get("dtype") or args[0].dtype
            return (args[0].fill_(1) if into else torch.ones(args[0].shape, dtype=dtype),)
        return None

    def _draws(self, func: Any, kwargs: dict[str, Any], seen: list[Tensor]) -> None:
        """Refuse a generator of the other device."""
        drawn = kwargs.get("generator")
        device = seen[0].device if seen else torch.device(kwargs.get("device") or CPU)
        if drawn is not None and (drawn.initial_seed() == MARK) != (device == GPU):
            raise Mixed(f"{func} in {place()}: a generator of another device than {device}")

    def _in_a_network(self) -> bool:
        node = torch._C._current_autograd_node()
        if node is None:
            return self._inside > 0 or place().startswith("agents/networks/")  # features, which is no module's forward
        number = node._sequence_nr()
        return self._inside > 0 or any(first <= number < last for first, last in self._spans)

    def __enter__(self) -> Watch:
        self._hooks = [
            hooks.register_module_forward_pre_hook(self._enters),
            hooks.register_module_forward_hook(self._leaves, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *about: object) -> None:
        super().__exit__(*about)
        for hook in self._hooks:
            hook.remove()

    def _enters(self, module: nn.Module, args: Any) -> None:
        if self._inside == 0:
            self._first = torch.autograd._get_sequence_nr()
        self._inside += 1

    def _leaves(self, module: nn.Module, args: Any, out: Any) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._spans.append((self._first, torch.autograd._get_sequence_nr()))


@contextmanager
def generators_on_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every draw is of one function, which gives generators of the stand-in where its device is asked for."""
    real, host = rng.generator, rng.on_cpu

    def stand_in(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
        return torch.Generator().manual_seed(MARK) if torch.device(device) == GPU else real(*key, device=device)

    def on_cpu(drawn: torch.Generator) -> torch.Generator:
        return torch.Generator().manual_seed(0) if drawn.initial_seed() == MARK else drawn

    for module in [m for name, m in sys.modules.items() if name.startswith("sparring.")]:
        if getattr(module, "generator", None) is real:
            monkeypatch.setattr(module, "generator", stand_in)
        if getattr(module, "on_cpu", None) is host:
            monkeypatch.setattr(module, "on_cpu", on_cpu)
    yield


def place() -> str:
    """The innermost function of ours that is running: ``agents/agent.py _values``."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(CLONE) and file.relative_to(CLONE).parts[0] in ("agents", "trainers"):
            return f"{file.relative_to(CLONE)} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"
