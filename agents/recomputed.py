"""Passes that keep less: inside a block nothing is kept for the backward pass, which computes it again (gradient checkpointing).

training   timm's own, block by block; whatever the second pass does to batch norm is taken back     (switched, unmoved)
attacks    the traced network, cut where its blocks are                                              (in_segments)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from sparring.agents.networks import Network
from sparring.agents.networks.foreign import Foreign

INPLACE = ("iadd", "isub", "imul", "itruediv")  # of the operator module
BLOCK = re.compile(
    r"(?:.*?\.\d+){1,2}(?=\.|$)"
)  # model.blocks.3, model.stages.1.blocks.0: one module of a list, perhaps in another


def switch(network: nn.Module, on: bool) -> None:
    """Let training passes of ``network`` keep what its blocks get, and no more.

    Raises:
        ValueError: it has no blocks that can.
    """
    inner: Any = network.model if isinstance(network, Foreign) else network
    if not hasattr(inner, "set_grad_checkpointing"):
        raise refusal(network.config.spec if isinstance(network, Network) else type(network).__name__)
    try:
        inner.set_grad_checkpointing(on)
    except AssertionError as error:  # timm's answer where an architecture has it not
        raise ValueError(f"checkpointing: timm has it not for this network: {error}") from error


def refusal(network: str) -> ValueError:
    """Of a network that keeps everything."""
    return ValueError(
        f"checkpointing: network {network} has no blocks that can be computed again; networks of timm's have (--network timm:NAME). "
        "Use --micro-batch where a batch does not fit in memory"
    )


@contextmanager
def as_a_whole(network: nn.Module, *, checkpointing: bool) -> Iterator[None]:
    """Passes inside the block keep everything: a second pass would move batch norm twice."""
    if not checkpointing:
        yield
        return
    switch(network, False)
    try:
        yield
    finally:
        switch(network, True)


@contextmanager
def unmoved(network: nn.Module, *, checkpointing: bool) -> Iterator[None]:
    """Around a backward pass: batch norm's statistics are those of the first pass, however often it is made again."""
    before = [(b, b.clone()) for b in network.buffers()] if checkpointing else []
    yield
    for b, old in before:
        b.data.copy_(old)  # .data: other graphs hold them too, and do not use them


def in_segments(graph: fx.GraphModule) -> fx.GraphModule:
    """The same, one submodule per block; only what goes into a block is kept for the backward pass."""
    from torch.fx.passes.split_module import split_module

    paths = [_path(node) for node in graph.graph.nodes]
    blocks = {found[0] for path in paths if (found := BLOCK.match(path)) and len(found[0]) < len(path)}
    number, last = -1, ""
    numbers: dict[fx.Node, int] = {}
    named: dict[int, str] = {}
    for node, path in zip(graph.graph.nodes, paths, strict=True):
        found = BLOCK.match(path)
        block = found[0] if found and found[0] in blocks else ""
        if number < 0 or (block != last and not _in_place(graph, node)):
            number, last = number + 1, block
        numbers[node], named[number] = number, last
    whole: fx.GraphModule = split_module(graph, graph, lambda node: numbers[node])
    for i, path in named.items():
        name = f"submod_{i}"
        if path and hasattr(whole, name):
            setattr(whole, name, Segment(whole.get_submodule(name)))
    return whole


def _path(node: fx.Node) -> str:
    """Of the innermost module that a node is a part of."""
    stack = list(node.meta.get("nn_module_stack", {}))
    return str(stack[-1]) if stack else ""


def _in_place(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node changes what it is given: that cannot be what a block is computed from again."""
    if node.op == "call_module":
        return bool(getattr(graph.get_submodule(str(node.target)), "inplace", False))
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return (
        bool(node.kwargs.get("inplace"))
        or name in INPLACE
        or (str(name).endswith("_") and not str(name).endswith("__"))
    )


class Segment(nn.Module):
    """A part of a network in eval mode that is computed again for the backward pass."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *given: Any) -> Any:
        """What the part answers."""
        if not torch.is_grad_enabled():
            return self.part(*given)
        return checkpoint(self.part, *given, use_reentrant=False, preserve_rng_state=False)
