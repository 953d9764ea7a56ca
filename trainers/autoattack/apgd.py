"""Auto-PGD: projected gradient ascent with momentum that halves its own step when it stops climbing.

    z = P(x_k + step * direction(gradient))                    P: onto ball and box
    x_k+1 = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_k-1))       the first step without the second half
    at checkpoints: fewer than 3 of 4 steps climbed, or neither step nor best value changed since the last one
                    ---> half the step, back to the best point

Source: Croce and Hein, arXiv 2003.01690 (algorithm 1); the l1 step: Croce and Hein, arXiv 2103.01208 (algorithm 2).

Differences from the authors' code (pyautoattack 0.2): an image that is broken leaves at once, instead of climbing on to the last
step, and all restarts' and targets' random starts are drawn as there, so that the verdicts are the same. Taken over: the first
value of a climb is compared with 0, and a constant of 1e-12 stands beside the length of an l2 gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from sparring.trainers.attacks import BALLS, spread
from sparring.trainers.autoattack.draws import noise
from sparring.trainers.autoattack.passes import Passes
from sparring.trainers.autoattack.projections import onto_l1_ball
from sparring.trainers.config import Threat
from sparring.trainers.losses import cross_entropy, dlr, targeted_dlr

TINY = 1e-12
CLIMBED = 0.75  # share of steps that must climb between two checkpoints
RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # l1: multiples of eps, and their share of the steps
SPARSER = 0.95  # l1: the perturbation has lost so much of its support since the last checkpoint
FEW = 0.2  # l1: share of the pixels in the first steps
DENSER = 1.5  # l1: the step's support is the perturbation's by this, and the step shrinks by it
SMALLEST_STEP = 10.0  # l1: of the first one, the step never becomes less than this part


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (logits, labels, targets) -> [n], raised
LOSSES: dict[str, Loss] = {
    "ce": lambda logits, y, target: cross_entropy(logits, y),
    "dlr": lambda logits, y, target: dlr(logits, y),
    "dlr-targeted": targeted_dlr,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Apgd:
    """Auto-PGD under a threat."""

    threat: Threat
    loss: str = "ce"
    restarts: int = 1
    targets: int = 0  # for ``dlr-targeted``: how many of the classes next in rank
    steps: int = 100
    eot: int = 1  # passes over which a gradient is averaged, for networks that answer at random
    radii: bool = False  # l1: begin in larger balls

    def __call__(self, passes: Passes, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """Examples [n, C, H, W] in ball and box: a misclassified one where one was found, else ``x``.

        Args:
            x: [n, C, H, W] float32 in [0, 1], classified as ``y``.
            y: [n] labels.
            rng: on the CPU, as the authors' code draws.
        """
        adv, left = x.clone(), torch.arange(len(x), device=x.device)
        ranked = passes.logits(x).argsort(dim=1, descending=True) if self.targets else y[:, None]
        for rank in range(1, self.targets + 1) if self.targets else [0] * self.restarts:
            if not len(left):
                break
            found, broken = self._once(passes, x[left], y[left], ranked[left, rank], rng)
            adv[left[broken]] = found[broken]
            left = left[~broken]
        return adv

    def _once(self, passes: Passes, x: Tensor, y: Tensor, target: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        norm, eps = self.threat.norm, self.threat.eps
        drawn = noise(norm, x, rng)
        if not self.radii:
            return self._climb(passes, _Climb.begun(x, y, target, _start(norm, x, drawn, eps)), eps, self.steps)
        start = x + onto_l1_ball(x, drawn, RADII[0][0] * eps)
        steps = [-int(-share * self.steps // 1) for _, share in RADII[:-1]]
        steps.append(self.steps - sum(steps))
        for (times, _), count in zip(RADII, steps, strict=True):
            noise(norm, x, rng)  # drawn and not used, as in the authors' code
            start = x + onto_l1_ball(x, start - x, times * eps)
            climb = _Climb.begun(x, y, target, start, support=True)
            start, broken = self._climb(passes, climb, times * eps, count, leaving=times == 1)
        return start, broken

    def _climb(
        self, passes: Passes, s: _Climb, eps: float, steps: int, *, leaving: bool = True
    ) -> tuple[Tensor, Tensor]:
        """From a start to the end. With ``leaving``: the first misclassified point of each image, and which have one; without: the
        points of highest value."""
        norm, first = self.threat.norm, len(s.x)
        adv, broken = s.now.clone(), torch.zeros(first, dtype=torch.bool, device=s.x.device)
        s.step.fill_(eps if norm == "l1" else 2 * eps)
        checks = _checkpoints(norm, steps)
        for i in range(-1, steps):
            if i >= 0:
                s.now, s.before = MOVES[norm](s, eps, 0.75 if i else 1.0), s.now
            s.gradient, logits, value = self._look(passes, s)
            wrong = logits.argmax(1) != s.y
            if leaving and bool(wrong.any()):
                adv[s.row[wrong]], broken[s.row[wrong]] = s.now[wrong], True
                s, value = s.rows(~wrong), value[~wrong]
                if not len(s.row):
                    break
            s.remember(value, first=i < 0)
            if i in checks:
                (_adapt_support if norm == "l1" else _adapt)(s, eps, checks[i])
        if not leaving:
            adv[s.row] = s.best
        return adv, broken

    def _look(self, passes: Passes, s: _Climb) -> tuple[Tensor, Tensor, Tensor]:
        loss, total = LOSSES[self.loss], torch.zeros_like(s.now)
        for _ in range(self.eot):
            gradient, logits, value = passes.gradient(s.now, lambda z, part: loss(z, s.y[part], s.target[part]))
            total += gradient
        return total / self.eot, logits, value


@dataclass(slots=True)
class _Climb:
    """Where each image is; one row per image that still resists."""

    row: Tensor  # [n] its number
    x: Tensor  # the clean image
    y: Tensor
    target: Tensor
    now: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor  # of highest value so far, with its gradient
    best_gradient: Tensor
    best_value: Tensor
    value: Tensor  # of the last step
    rises: Tensor  # steps since the last checkpoint that climbed
    checked: Tensor  # best value at the last checkpoint
    changed: Tensor  # whether it changed the step
    step: Tensor  # [n, 1, 1, 1]
    share: Tensor  # l1: of the pixels in a step
    support: Tensor  # l1: pixels of the perturbation at the last checkpoint

    @classmethod
    def begun(cls, x: Tensor, y: Tensor, target: Tensor, start: Tensor, *, support: bool = False) -> _Climb:
        """At ``start``. With ``support`` a step of l1 moves as many pixels as the start did, by 1.5; else a fifth of all."""
        start = start.clamp(0, 1)
        n, size, zeros = len(x), x[0].numel(), torch.zeros(len(x), device=x.device)
        pixels = _support(start - x) if support else zeros + size
        share = pixels / size / DENSER if support else zeros + FEW
        every, true = torch.arange(n, device=x.device), torch.ones(n, dtype=torch.bool, device=x.device)
        points = {"x": x, "now": start, "before": start, "gradient": start, "best": start, "best_gradient": start}
        values = {"best_value": zeros, "value": zeros, "rises": zeros, "checked": zeros, "changed": true}
        step = torch.ones(n, 1, 1, 1, device=x.device)
        return cls(row=every, y=y, target=target, **points, **values, step=step, share=share, support=pixels)

    def rows(self, which: Tensor) -> _Climb:
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def remember(self, value: Tensor, *, first: bool) -> None:
        if first:
            self.best_gradient, self.best_value, self.checked = self.gradient, value, value
            return
        better = value > self.best_value
        self.best = torch.where(spread(better, self.now), self.now, self.best)
        self.best_gradient = torch.where(spread(better, self.now), self.gradient, self.best_gradient)
        self.best_value = torch.where(better, value, self.best_value)
        self.rises, self.value = self.rises + (value > self.value), value

    def back(self, which: Tensor) -> None:
        """Go on from the best point."""
        self.now = torch.where(spread(which, self.now), self.best, self.now)
        self.gradient = torch.where(spread(which, self.now), self.best_gradient, self.gradient)


def _checkpoints(norm: str, steps: int) -> dict[int, int]:
    """Step -> how many steps since the checkpoint before (section 3.2: 22 % of the steps, then each time 3 % less, at least 6 %)."""
    if norm == "l1":
        every = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(every - 1, steps, every), every)
    found, i, k = dict[int, int](), -1, max(int(0.22 * steps), 1)
    while i + k < steps:
        i += k
        found[i] = k
        k = max(k - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return found


def _adapt(s: _Climb, eps: float, steps: int) -> None:
    stuck = (s.rises <= CLIMBED * steps) | (~s.changed & (s.checked >= s.best_value))
    s.step = torch.where(spread(stuck, s.step), s.step / 2, s.step)
    s.changed, s.checked, s.rises = stuck, s.best_value, torch.zeros_like(s.rises)
    s.back(stuck)


def _adapt_support(s: _Climb, eps: float, steps: int) -> None:
    pixels = _support(s.best - s.x)
    sparser = pixels / s.support < SPARSER
    step = torch.where(spread(sparser, s.step), torch.full_like(s.step, eps), s.step / DENSER)
    s.step, s.share, s.support = step.clamp(eps / SMALLEST_STEP, eps), pixels / s.x[0].numel() / DENSER, pixels
    s.back(sparser)


def _support(d: Tensor) -> Tensor:
    return (d != 0).flatten(1).sum(1).to(d.dtype)


def _start(norm: str, x: Tensor, drawn: Tensor, eps: float) -> Tensor:
    return x + (onto_l1_ball(x, drawn, eps) if norm == "l1" else eps * _unit(norm, drawn))


def _unit(norm: str, d: Tensor) -> Tensor:
    return d / (spread(BALLS[norm].length(d), d) + TINY)


def _inside_linf(z: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.min(torch.max(z, x - eps), x + eps).clamp(0, 1)


def _inside_l2(z: Tensor, x: Tensor, eps: float) -> Tensor:
    d = z - x
    return (x + _unit("l2", d) * spread(BALLS["l2"].length(d).clamp_max(eps), d)).clamp(0, 1)


def _move_linf(s: _Climb, eps: float, a: float) -> Tensor:
    z = _inside_linf(s.now + s.step * s.gradient.sign(), s.x, eps)
    return _inside_linf(s.now + (z - s.now) * a + (s.now - s.before) * (1 - a), s.x, eps)


def _move_l2(s: _Climb, eps: float, a: float) -> Tensor:
    z = _inside_l2(s.now + s.step * _unit("l2", s.gradient), s.x, eps)
    return _inside_l2(s.now + (z - s.now) * a + (s.now - s.before) * (1 - a), s.x, eps)


def _move_l1(s: _Climb, eps: float, a: float) -> Tensor:
    """A step of equal length on the pixels of largest gradient; no momentum."""
    size, n = s.gradient.flatten(1).abs(), s.x[0].numel()
    rank = ((1 - s.share) * n).clamp(0, n - 1).long()
    least = size.sort(dim=1).values.gather(1, rank[:, None])
    sign = s.gradient.flatten(1).sign() * (size >= least)
    move = sign / (sign.abs().sum(1, keepdim=True) + 1e-10)
    return s.x + onto_l1_ball(s.x, s.now + s.step * move.view_as(s.x) - s.x, eps)


MOVES: dict[str, Callable[[_Climb, float, float], Tensor]] = {"linf": _move_linf, "l2": _move_l2, "l1": _move_l1}
