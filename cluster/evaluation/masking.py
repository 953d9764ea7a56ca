"""Signs that a robustness number comes from hidden gradients and not from robustness (Athalye et al., arXiv 1802.00420;
Carlini et al., arXiv 1902.06705). Each flag names the test that raised it, the value seen and the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.robustness import fitting_threads, judged
from sparring.cluster.evaluation.named_attacks import Block, parse
from sparring.cluster.evaluation.results import Result
from sparring.cluster.evaluation.subjects import device_of, pixels
from sparring.trainers.attacks import gradient
from sparring.trainers.config import Threat
from sparring.trainers.data import Split, evaluation_order
from sparring.trainers.losses import cross_entropy

HUGE = {"linf": 0.5, "l2": 0.5, "l1": 0.25}  # share of the largest possible distance that counts as huge
ZERO_GRADIENTS = 0.02  # share of examples without any gradient
POINTS = 0.04  # share of examples by which a weaker test may beat a stronger one, or more effort may help
STILL_RIGHT = 0.05  # accuracy above chance that may remain under a huge radius
LOGITS = (
    60.0  # median distance of the two largest logits: beyond about 88, float32 gradients of the cross entropy vanish
)
ENOUGH = 64  # examples below which shares of them say nothing
RANDOM = 1e-4  # difference of the logits of two equal calls


@dataclass(frozen=True, slots=True)
class Flag:
    """One sign of masking."""

    name: str
    test: str
    value: float
    threshold: float
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def flagged(result: Result, model: nn.Module, split: Split, threat: Threat, *, seed: int, masking: int) -> Result:
    """The result with signs of masked gradients, looked for on so many examples; too few say nothing."""
    if min(masking, len(split)) < ENOUGH:
        return result
    some = split[evaluation_order(split.all_labels())[: min(masking, len(split))]]
    device = device_of(model)
    with fitting_threads(model):
        found = examine(model, some, threat, seed=seed, device=device)
    return replace(result, flags=tuple(f.to_dict() for f in found))


def examine(model: nn.Module, split: Split, threat: Threat, *, seed: int = 0, device: Any = "cpu") -> list[Flag]:
    """All flags of a network on the given examples; an honest one has none.

    Args:
        split: the examples; 128 or more, since the thresholds are shares of them.
    """
    x, y = (a.to(device) for a in pixels(split, 0, len(split)))
    block = Block(x, y, 0, seed)
    flags: list[Flag] = []

    def check(name: str, test: str, value: float, threshold: float, meaning: str) -> None:
        if not value <= threshold:  # also when NaN
            flags.append(Flag(name, test, value, threshold, meaning))

    with judged(model):
        with torch.no_grad():
            first, second = model(x), model(x)
        noise = float((first - second).abs().max())
        check(
            "random output", "the same images twice", noise, RANDOM, "attack the mean over many calls: autoattack-rand"
        )
        try:
            g = gradient(lambda z: cross_entropy(model(z), y), x)
        except ValueError:  # not differentiable at all
            check("zero gradients", "input gradient of the cross entropy", 1.0, ZERO_GRADIENTS, "there is none")
            return flags
        share = float((g.flatten(1).abs().amax(1) == 0).double().mean())
        check(
            "zero gradients",
            "input gradient of the cross entropy",
            share,
            ZERO_GRADIENTS,
            "gradient attacks see nothing",
        )
        top = first.topk(2, dim=1).values
        apart = float((top[:, 0] - top[:, 1]).median())
        check("logit scale", "median distance of the two largest logits", apart, LOGITS, "the cross entropy saturates")
        _compare(model, block, threat, first.argmax(1) == y, int(first.shape[1]), check)
    return flags


def _compare(
    model: nn.Module,
    block: Block,
    threat: Threat,
    clean: Tensor,
    classes: int,
    check: Callable[[str, str, float, float, str], None],
) -> None:
    """Accuracies that must not come in the wrong order."""

    def right(name: str, under: Threat = threat) -> Tensor:
        adv = parse(name, under)(model, block)
        with torch.no_grad():
            still: Tensor = clean & (model(adv).argmax(1) == block.y)
        return still

    def share(hits: Tensor) -> float:
        return float(hits.double().mean())

    one, many = right("fgsm"), right("pgd-20")
    check("one step beats many", "pgd-20 minus fgsm", share(many) - share(one), POINTS, "iterations lose their way")
    box = right("square-300")
    check(
        "black box beats white box",
        "right after pgd-20 and wrong after square-300",
        share(many & ~box),
        POINTS,
        "gradients mislead",
    )
    more = right("pgd-100x2")
    gain = share(many) - share(many & more)
    check(
        "more effort keeps helping",
        "right after pgd-20 and wrong after pgd-100x2",
        gain,
        POINTS,
        "the attack has not converged",
    )
    size = block.x[0].numel()
    widest = {"linf": 1.0, "l2": size**0.5, "l1": float(size)}[threat.norm]
    huge = right("pgd-20", Threat(threat.norm, HUGE[threat.norm] * widest))
    limit = 1 / classes + STILL_RIGHT
    check(
        "robust to anything",
        f"accuracy under eps {HUGE[threat.norm] * widest:.3g}",
        share(huge),
        limit,
        "no network can be",
    )
