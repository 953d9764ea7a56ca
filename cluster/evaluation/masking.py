"""Signs that a robustness number comes from hidden gradients and not from robustness (Athalye et al., arXiv 1802.00420;
Carlini et al., arXiv 1902.06705). Each flag names the test that raised it, the value seen and the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.robustness import fitting_threads, judged
from sparring.cluster.evaluation.named_attacks import Block, parse
from sparring.cluster.evaluation.results import Result
from sparring.cluster.evaluation.subjects import device_of, pixels
from sparring.trainers.attacks import NoGradient, gradient
from sparring.trainers.config import Threat
from sparring.trainers.data import Split, evaluation_order
from sparring.trainers.losses import cross_entropy

HUGE = {"linf": 0.5, "l2": 0.5, "l1": 0.25}  # share of the largest possible distance that counts as huge
RANDOM = 1e-4  # difference of the logits of two equal calls
ZERO_GRADIENTS = 0.02  # share of examples whose gradient no attack can use
SHORT = 1e-12  # l2 length of a gradient that APGD takes for none: pyautoattack 0.2 adds this constant to it before it divides
ZERO_PIXELS = 0.05  # share of pixels whose gradient is zero where they are, and not a little inside the box
INSIDE = 1e-3  # how far inside
LOGITS = (
    60.0  # median distance of the two largest logits: beyond about 88, float32 gradients of the cross entropy vanish
)
POINTS = 0.04  # share of examples by which a weaker test may beat a stronger one
CLOSE = 1.5  # median distance of the two largest logits below which they count as close
SOFTENED, CHANCE = (
    0.0195,
    0.0391,
)  # points by which pgd-20 may say more than margin-pgd-20: where logits are close; where not
# the same where PGD itself is weak: under l2 much depends on the start, under l1 its steps find little
QUERIES = {"linf": POINTS, "l2": 0.1, "l1": 0.2}  # share that Square may break and PGD not
EFFORT = {"linf": 0.06, "l2": 0.15, "l1": 0.1}  # share that more effort may break
STILL_RIGHT = 0.05  # accuracy above chance that may remain under a huge radius
ENOUGH = 64  # examples below which shares of them say nothing


@dataclass(frozen=True, slots=True)
class Flag:
    """One sign of masking, or what was seen where there is none: then the value is at most the threshold."""

    name: str
    test: str
    value: float
    threshold: float
    meaning: str

    @property
    def raised(self) -> bool:
        """Whether it is a sign; NaN is one."""
        return not self.value <= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Examined:
    """A network and some images; what several checks look at is computed once."""

    def __init__(self, model: nn.Module, block: Block, threat: Threat) -> None:
        self.model, self.block, self.threat = model, block, threat
        self._right: dict[tuple[str, Threat, str | None], Tensor] = {}

    @cached_property
    def logits(self) -> Tensor:
        """[n, K], of the images as they are."""
        with torch.no_grad():
            logits: Tensor = self.model(self.block.x)
        return logits

    @cached_property
    def apart(self) -> float:
        """Median distance of the two largest logits."""
        top = self.logits.topk(2, dim=1).values
        return float((top[:, 0] - top[:, 1]).median())

    @cached_property
    def gradient(self) -> Tensor:
        """[n, C, H, W], of the cross entropy at the images.

        Raises:
            NoGradient: the network is not differentiable at all.
        """
        return self.gradient_at(self.block.x)

    def gradient_at(self, x: Tensor) -> Tensor:
        """[n, C, H, W], of the cross entropy."""
        return gradient(lambda z: cross_entropy(self.model(z), self.block.y), x)

    def right(self, attack: str, under: Threat | None = None, *, draws: str | None = None) -> Tensor:
        """[n] bool: right on the image and after the attack, from its own random starts or those of another."""
        key = attack, under or self.threat, draws
        if key not in self._right:
            adv = parse(attack, under or self.threat, draws=draws)(self.model, self.block, self.model)
            with torch.no_grad():
                after = self.model(adv).argmax(1)
            self._right[key] = (self.logits.argmax(1) == self.block.y) & (after == self.block.y)
        return self._right[key]

    def only(self, after: str, not_after: str) -> float:
        """Share of the examples that one attack leaves right and another breaks."""
        return _share(self.right(after) & ~self.right(not_after))


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
    """All flags that a network raises on the given examples; an honest one has none.

    Args:
        split: the examples; 128 or more, since the thresholds are shares of them.
    """
    return [flag for flag in looked_at(model, split, threat, seed=seed, device=device) if flag.raised]


def looked_at(
    model: nn.Module,
    split: Split,
    threat: Threat,
    *,
    seed: int = 0,
    device: Any = "cpu",
    checks: Sequence[Callable[[Examined], Flag]] = (),
) -> list[Flag]:
    """What every check sees, also below its threshold; where there is no gradient, what those before it saw.

    Args:
        checks: only these; all of ``CHECKS`` when none are named.
    """
    x, y = (a.to(device) for a in pixels(split, 0, len(split)))
    examined, found = Examined(model, Block(x, y, 0, seed), threat), []
    with judged(model):
        for check in checks or CHECKS:
            try:
                found.append(check(examined))
            except NoGradient:
                return [*found, Flag("zero gradients", GRADIENT, 1.0, ZERO_GRADIENTS, "there is none")]
    return found


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


GRADIENT = "input gradient of the cross entropy"


def random_output(e: Examined) -> Flag:
    """Two equal calls, two answers."""
    with torch.no_grad():
        noise = float((e.logits - e.model(e.block.x)).abs().max())
    return Flag(
        "random output", "the same images twice", noise, RANDOM, "attack the mean over many calls: autoattack-rand"
    )


def zero_gradients(e: Examined) -> Flag:
    """Examples without a gradient; under l2 also those whose gradient is shorter than what APGD takes for none."""
    if e.threat.norm == "l2":
        short = torch.linalg.vector_norm(e.gradient.flatten(1), dim=1) < SHORT
        meaning = "AutoAttack's APGD stands still under l2; divide the logits by a constant, which changes no decision"
        return Flag("zero gradients", f"{GRADIENT} below {SHORT:g} in l2", _share(short), ZERO_GRADIENTS, meaning)
    share = _share(e.gradient.flatten(1).abs().amax(1) == 0)
    return Flag("zero gradients", GRADIENT, share, ZERO_GRADIENTS, "gradient attacks see nothing")


def pixels_without_gradient(e: Examined) -> Flag:
    """A clamp to [0, 1] in front of a network has gradient 0 at its own bounds, where images have many of their pixels."""
    x = e.block.x
    inside = e.gradient_at(x.clamp(INSIDE, 1 - INSIDE))
    share = _share((e.gradient == 0) & (inside != 0) & ((x <= 0) | (x >= 1)))
    meaning = "attacks cannot move them: remove the clamp in front of the network, images are in [0, 1] already"
    test = f"{GRADIENT} zero at a pixel of 0 or 1 and not {INSIDE:g} inside"
    return Flag("pixels without gradient", test, share, ZERO_PIXELS, meaning)


def logit_scale(e: Examined) -> Flag:
    """Logits so far apart that the cross entropy has no gradient left in float32."""
    test = "median distance of the two largest logits"
    return Flag("logit scale", test, e.apart, LOGITS, "the cross entropy saturates")


def softened_logits(e: Examined) -> Flag:
    """Logits so close that PGD on the cross entropy goes where it need not: its number is too high, whatever its effort."""
    value = _share(e.right("pgd-20")) - _share(e.right("margin-pgd-20", draws="pgd-20"))
    test = f"pgd-20 minus margin-pgd-20 from the same starts, logits {e.apart:.2g} apart"
    meaning = "attacks on the cross entropy say too much: attack by scaled-pgd-20, margin-pgd-20 or autoattack"
    return Flag("softened logits", test, value, SOFTENED if e.apart < CLOSE else CHANCE, meaning)


def one_step_beats_many(e: Examined) -> Flag:
    """Accuracies in the wrong order."""
    value = _share(e.right("pgd-20")) - _share(e.right("fgsm"))
    return Flag("one step beats many", "pgd-20 minus fgsm", value, POINTS, "iterations lose their way")


def black_box_beats_white_box(e: Examined) -> Flag:
    """Queries find what gradients do not."""
    value = e.only("pgd-20", "square-300")
    test = "right after pgd-20 and wrong after square-300"
    return Flag("black box beats white box", test, value, QUERIES[e.threat.norm], "gradients mislead")


def more_effort_keeps_helping(e: Examined) -> Flag:
    """Ten times the passes find much more."""
    value = e.only("pgd-20", "pgd-100x2")
    test = "right after pgd-20 and wrong after pgd-100x2"
    return Flag("more effort keeps helping", test, value, EFFORT[e.threat.norm], "the attack has not converged")


def robust_to_anything(e: Examined) -> Flag:
    """Accuracy at a radius at which every image can become a grey one."""
    size = e.block.x[0].numel()
    widest = {"linf": 1.0, "l2": size**0.5, "l1": float(size)}[e.threat.norm]
    huge = Threat(e.threat.norm, HUGE[e.threat.norm] * widest)
    limit = 1 / int(e.logits.shape[1]) + STILL_RIGHT
    test = f"accuracy under eps {huge.eps:.3g}"
    return Flag("robust to anything", test, _share(e.right("pgd-20", huge)), limit, "no network can be")


CHECKS = (
    random_output,
    logit_scale,
    zero_gradients,
    pixels_without_gradient,
    softened_logits,
    one_step_beats_many,
    black_box_beats_white_box,
    more_effort_keeps_helping,
    robust_to_anything,
)
