"""A network as attacks and answers run it: the same function to rounding, in less time.

    once          the eval-mode forward is traced, and batch norm is taken out behind every convolution that it can enter
    before a verb w' = w gamma / sqrt(var + e),  b' = b + beta - mean gamma / sqrt(var + e)    (refresh)
    in an attack  one convolution where there were a convolution and a batch norm, forwards and backwards

Trained weights stay where they are: the traced network holds convolutions of its own, channels last, and shares everything else. A network
that cannot be traced (its forward depends on values, or on who is looking) is run as it is; ``of`` tries the traced one on
images before it trusts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparring.agents.networks import Network
from sparring.agents.precision import arithmetic
from sparring.agents.recomputed import in_segments
from sparring.trainers import half
from sparring.trainers.attacks import frozen
from sparring.trainers.config import SpeedConfig
from sparring.trainers.repeated import hooked

PLACES = (((2, 3),), ([2, 3],), ((-2, -1),), ([-2, -1],))  # arguments of a mean over height and width
LOOKED_AT = 2  # images on which a faster form must agree


class Fast(nn.Module):
    """``network`` in eval mode with its batch norm folded; current after :meth:`refresh`.

    Args:
        network: what was traced.
        graph: its traced forward; its result is logits, or (maps, logits).
        dtype: of the convolutions and linear layers of its own; None: that of the network's.
        speed: whether the forward and backward pass are compiled (torch.compile), or blocks computed again.
    """

    def __init__(
        self,
        network: nn.Module,
        graph: fx.GraphModule,
        *,
        dtype: torch.dtype | None = None,
        speed: SpeedConfig = SpeedConfig(),
    ) -> None:
        super().__init__()
        self._pairs: list[tuple[Any, Any, Any]] = [  # own layer, the network's, its batch norm
            (_own(graph, conv, dtype), network.get_submodule(conv), network.get_submodule(bn) if bn else None)
            for conv, bn in _fold(graph, linear=dtype is not None)
        ]
        _pool(graph)
        self._staged = isinstance(next(iter(reversed(graph.graph.nodes))).args[0], tuple)
        self._plain: list[Any] = [network]  # in a list it is no submodule
        graph.delete_all_unused_submodules()
        graph.recompile()
        self._graph = graph
        run = in_segments(graph) if speed.checkpointing else graph
        self._run: Any = torch.compile(run) if speed.compile else run
        self.refresh()

    @classmethod
    def of(cls, network: nn.Module, images: Tensor, speed: SpeedConfig = SpeedConfig()) -> Fast | None:
        """The fast form of ``network``, or None where tracing would change what it computes.

        Args:
            images: a few [B, C, H, W], on which both must agree.
            speed: precision and compilation.
        """
        dtype = torch.bfloat16 if speed.precision == "bf16" else None
        if hooked(network):
            return None
        with frozen(network):
            # where the logits are those of ``features``, tracing that gives both
            name = "features" if type(network).forward is Network.forward else "forward"
            graph = _traced(network, name) or _traced(network, "forward")
            if graph is None:
                return None
            plain = cls(network, graph, speed=replace(speed, compile=False))
            # in 10 bits two ways to the same logits differ by more than rounding
            with torch.no_grad(), arithmetic("fp32"):
                same = torch.allclose(plain(images), network(images), rtol=1e-3, atol=1e-4)
        if not same:
            return None
        if dtype is None and not speed.compile:
            return plain
        with frozen(network):
            again = _traced(network, name) or _traced(network, "forward")
        assert again is not None
        return cls(network, again, dtype=dtype, speed=speed)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the network's weights and batch-norm statistics as they are now."""
        own, made = [], []
        for layer, theirs, bn in self._pairs:
            weight, bias = theirs.weight, theirs.bias
            if bn is not None:
                scale = torch.rsqrt(bn.running_var + bn.eps)
                scale = scale if bn.weight is None else scale * bn.weight
                bias = scale * (-bn.running_mean if bias is None else bias - bn.running_mean)
                bias = bias if bn.bias is None else bias + bn.bias
                weight = weight * scale.view(-1, 1, 1, 1)
            own.append(layer.weight)
            made.append(weight)
            if bias is not None:
                own.append(layer.bias)
                made.append(bias)
        if own:  # a network may have no layer of these
            torch._foreach_copy_(own, made)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> logits [B, K]."""
        out = self._run(x)
        logits: Tensor = out[1] if self._staged else out
        return logits

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Output of every stage, and the logits; by the network itself where its logits are not made from these."""
        if not self._staged:
            maps, logits = self._plain[0].features(x)
        else:
            maps, logits = self._run(x)
        return maps, logits


def faster(network: nn.Module, images: Tensor) -> nn.Module:
    """The form of a network that attacks run on: the same function to rounding, in less time; itself where there is none.

    Args:
        network: in eval mode.
        images: [B, C, H, W] of the kind that is attacked; on the first of them both must agree.
    """
    folded = None if images.dtype in half.TYPES else Fast.of(network, images[:LOOKED_AT])
    return folded or network


def _traced(network: nn.Module, name: str) -> fx.GraphModule | None:
    tracer = fx.Tracer()
    tracer.traced_func_name = name
    tracer.proxy_buffer_attributes = (
        True  # else what a forward computes from a buffer stays as it was when it was traced
    )
    try:
        with _attributes_kept(network):  # tracing puts constants there too, which the graph takes over
            return fx.GraphModule(network, tracer.trace(network))
    except Exception:  # whatever a user's forward does with what is no tensor: then it is not traced
        return None


@contextmanager
def _attributes_kept(network: nn.Module) -> Iterator[None]:
    """What a forward writes into its modules, a count or its last maps, would be what tracing puts in place of tensors."""
    before = [(module, dict(vars(module))) for module in network.modules()]
    held = [(v, copy(v)) for _, values in before for v in values.values() if type(v) in (list, dict)]
    try:
        yield
    finally:
        for module, values in before:
            vars(module).clear()
            vars(module).update(values)
        for container, content in held:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)


def _fold(graph: fx.GraphModule, *, linear: bool) -> list[tuple[str, str | None]]:
    """Take the batch norms out of ``graph`` that follow a convolution whose result nothing else sees.

    Args:
        linear: also name the linear layers.

    Returns:
        Names of layers that need weights of their own, each with its batch norm: all convolutions, since one whose weights lie
        otherwise than its neighbours' has them copied at every pass.
    """
    calls = [n for n in graph.graph.nodes if n.op == "call_module"]
    times = Counter(str(n.target) for n in calls)
    layers: dict[str, str | None] = {}
    for node in calls:
        name, module = str(node.target), graph.get_submodule(str(node.target))
        if times[name] > 1:
            continue
        if type(module) is nn.Conv2d or (linear and type(module) is nn.Linear):
            layers.setdefault(name, None)
        before = node.all_input_nodes[0]
        if type(module) is nn.BatchNorm2d and module.track_running_stats and before in calls:
            conv = str(before.target)
            if type(graph.get_submodule(conv)) is nn.Conv2d and times[conv] == 1 and len(before.users) == 1:
                layers[conv] = name
                node.replace_all_uses_with(before)
                graph.graph.erase_node(node)
    return list(layers.items())


def _pool(graph: fx.GraphModule) -> None:
    """The mean over an image's places becomes a pooling: its gradient is a tensor of its own, where that of a mean is one value seen
    many times, on which the gradient of the ReLU before it takes twice as long."""
    for node in graph.graph.nodes:
        if node.op == "call_method" and node.target == "mean" and node.args[1:] in PLACES and not node.kwargs:
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.call_function(_pooled, node.args))
            graph.graph.erase_node(node)


def _pooled(maps: Tensor, places: tuple[int, int]) -> Tensor:
    return functional.avg_pool2d(maps, maps.shape[2:]).flatten(1) if maps.dim() == 4 else maps.mean(places)


def _own(graph: fx.GraphModule, name: str, dtype: torch.dtype | None) -> nn.Module:
    """Put a layer with weights of its own, without gradients, in the place of the shared one."""
    shared: Any = graph.get_submodule(name)
    made = deepcopy(shared).requires_grad_(False)
    if made.bias is None:
        made.bias = nn.Parameter(made.weight.new_zeros(len(made.weight)), requires_grad=False)
    parent, _, last = name.rpartition(".")
    setattr(graph.get_submodule(parent), last, made.to(dtype).to(memory_format=torch.channels_last))
    return made  # type: ignore[no-any-return]
