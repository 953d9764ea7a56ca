"""Messages on their way: packing, private copies, flat names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparring.agents.exchange import detach, flatten, nbytes, nest, pack, unpack
from sparring.trainers.types import Adversarial, Answer, Message


@dataclass(frozen=True, slots=True)
class Rich(Message):
    """Every kind of field that a message may have."""

    a: Tensor
    none: Tensor | None
    several: tuple[Tensor, ...]
    named: dict[str, Tensor]


def test_round_trip_of_everything() -> None:
    message = {"x": Rich(torch.ones(2), None, (torch.zeros(3), torch.arange(2)), {"k": torch.rand(2, 2)})}
    packed = pack(message)
    assert isinstance(packed["x"].a, np.ndarray)
    back = unpack(packed)["x"]
    assert back.none is None
    for a, b in zip(
        [back.a, *back.several, back.named["k"]],
        [torch.ones(2), torch.zeros(3), torch.arange(2), message["x"].named["k"]],
        strict=True,
    ):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert nbytes(message) == 4 * 2 + 4 * 3 + 8 * 2 + 4 * 4


def test_bfloat16_keeps_its_bits() -> None:
    x = torch.randn(50).bfloat16()
    back = unpack(pack(Answer(x))).logits
    assert back.dtype == torch.bfloat16
    assert torch.equal(back, x)


def test_a_receiver_owns_its_copy() -> None:
    """An array out of the object store is memory that all readers share; torch would write through its read-only flag."""
    shared = pack(Adversarial(torch.zeros(3)))
    shared.x.flags.writeable = False
    mine, yours = unpack(shared), unpack(shared)
    mine.x.add_(1)
    assert shared.x.sum() == 0
    assert yours.x.sum() == 0


def test_a_message_shares_no_memory_with_its_sender() -> None:
    x = torch.zeros(3)
    packed = pack(Answer(x))
    x.add_(1)
    assert packed.logits.sum() == 0


def test_detach_makes_a_constant() -> None:
    x = torch.ones(2, requires_grad=True)
    assert not detach(Answer(x * 2)).logits.requires_grad


def test_flat_names() -> None:
    nested = {"adv": {"peer0": 1, "peer1": 2}, "soft": {"a": {"b": 3}}, "plain": 4}
    flat = flatten(nested)
    assert flat == {"adv.peer0": 1, "adv.peer1": 2, "soft.a.b": 3, "plain": 4}
    assert nest(flat) == nested
