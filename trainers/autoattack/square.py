"""Square Attack: without gradients, one square of pixels after the other is set anew, and kept where the margin shrinks.

    proposal t      a square of side sqrt(p_t H W) at a random place, all images of a block the same
    linf            in each channel all its pixels go to +eps or -eps
    l2, l1          it takes the budget of a second square, in a pattern that is densest in its two halves' centres
    kept            where the right logit's lead over the largest other one is less than before

Source: Andriushchenko et al., arXiv 1912.00049 (algorithms 1 to 3); l1: Croce and Hein, arXiv 2103.01208, section 5.

Differences from the authors' code (pyautoattack 0.2), none in the verdict: what changes no pixel, and what was tried since the image last
changed, is not asked of the network again; images need not be square, nor at least five pixels high.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import sqrt

import torch
from torch import Generator, Tensor

from sparring.trainers.attacks import BALLS, spread
from sparring.trainers.autoattack.draws import place, signs
from sparring.trainers.autoattack.passes import Passes
from sparring.trainers.autoattack.projections import onto_l1_ball
from sparring.trainers.config import Threat
from sparring.trainers.losses import margin

AREA = 0.8  # of the first squares
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # proposals after which the area is halved
TINY = 1e-12
INNER = 1 - 1e-6  # l1: share of the radius that is used, for what rounding adds
MEMORY = 2**16  # places times signs of an image up to which proposals are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """Square Attack under a threat."""

    threat: Threat
    queries: int = 5000

    def __call__(self, passes: Passes, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """Examples [n, C, H, W] in ball and box: a misclassified one where one was found, else ``x``.

        Args:
            x: [n, C, H, W] float32 in [0, 1], classified as ``y``.
            y: [n] labels.
            rng: on the CPU, as the authors' code draws.
        """
        linf = self.threat.norm == "linf"
        adv, start = x.clone(), (_stripes if linf else _tiles)(x, self.threat, rng)
        lead = -margin(passes.logits(start), y)
        s = _Search(torch.arange(len(x), device=x.device), x, y, start, lead)
        proposals: _Signs | _Patterns = (_Signs if linf else _Patterns)(self.threat, rng)
        for t in range(self.queries):
            done = s.lead <= 0
            if bool(done.any()):
                adv[s.image[done]] = s.best[done]
                s = s.rows(~done)
                proposals.rows(~done)
            if not len(s.image):
                return adv
            which, proposed = proposals(s, t)
            if not len(which):
                continue
            lead = -margin(passes.logits(proposed), s.y[which])
            better = lead < s.lead[which]
            kept = which[better]
            s.best[kept], s.lead[kept] = proposed[better], lead[better]
            proposals.kept(kept)
        done = s.lead <= 0
        adv[s.image[done]] = s.best[done]
        return adv


@dataclass(slots=True)
class _Search:
    """The best perturbed image so far, of each that still resists."""

    image: Tensor  # [n] its number
    x: Tensor  # [n, C, H, W]
    y: Tensor
    best: Tensor
    lead: Tensor  # right logit minus the largest other one

    def rows(self, which: Tensor) -> _Search:
        return _Search(self.image[which], self.x[which], self.y[which], self.best[which], self.lead[which])


def side(t: int, size: tuple[int, int], *, least: int, odd: bool) -> int:
    """Of proposal ``t``'s square on images of (height, width)."""
    area = AREA / 2 ** sum(t > after for after in HALVED)
    s = max(round(sqrt(area * size[0] * size[1])), least)
    return min(s + (odd and s % 2 == 0), *size)


def _stripes(x: Tensor, threat: Threat, rng: Generator) -> Tensor:
    n, c, _, w = x.shape
    return (x + threat.eps * signs((n, c, 1, w), rng).to(x)).clamp(0, 1)


class _Signs:
    """Proposals of linf: a square whose pixels go to +eps or -eps, channel by channel.

    It remembers which were refused since an image last changed: they would be refused again.
    """

    def __init__(self, threat: Threat, rng: Generator) -> None:
        self._eps, self._rng = threat.eps, rng
        self._side, self._tried = 0, torch.zeros(0, 0, dtype=torch.bool)

    def __call__(self, s: _Search, t: int) -> tuple[Tensor, Tensor]:
        """Of which images the network must be asked, [m], and what, [m, C, H, W]."""
        c, h, w = s.x.shape[1:]
        a = side(t, (h, w), least=1, odd=False)
        top, left, sign = place(h - a, self._rng), place(w - a, self._rng), signs((c, 1, 1), self._rng)
        there = (..., slice(top, top + a), slice(left, left + a))
        moved = s.best[there] + 2 * self._eps * sign.to(s.x)
        square = torch.min(torch.max(moved, s.x[there] - self._eps), s.x[there] + self._eps).clamp(0, 1)
        new = (square != s.best[there]).flatten(1).any(1)
        count = (h - a + 1) * (w - a + 1) * 2**c
        if count <= MEMORY:
            form = sum(2**k for k, positive in enumerate((sign > 0).flatten().tolist()) if positive)
            new &= self._untried(a, count, (top * (w - a + 1) + left) * 2**c + form, like=new)
        which = new.nonzero().squeeze(1)
        proposed = s.best[which]
        proposed[there] = square[which]
        return which, proposed

    def _untried(self, a: int, count: int, which: int, *, like: Tensor) -> Tensor:
        if a != self._side:
            self._side, self._tried = a, torch.zeros(len(like), count, dtype=torch.bool, device=like.device)
        new = ~self._tried[:, which]
        self._tried[:, which] = True
        return new

    def rows(self, which: Tensor) -> None:
        """Only these images go on."""
        if self._side:
            self._tried = self._tried[which]

    def kept(self, which: Tensor) -> None:
        """These images have changed."""
        if self._side:
            self._tried[which] = False


def _tiles(x: Tensor, threat: Threat, rng: Generator) -> Tensor:
    """Squares of a fifth of the height side by side, each with a pattern of its own sign per image and channel."""
    n, c, h, w = x.shape
    a, d = max(h // 5, 1), torch.zeros_like(x)
    start = (h - 5 * (h // 5)) // 2 if h >= 5 else 0
    for top in range(start, start + h // a * a, a):
        for left in range(start, start + w // a * a, a):
            pattern = _pattern(a, threat.norm, rng).to(x) * signs((n, c, 1, 1), rng).to(x)
            there = d[:, :, top : top + a, left : left + a]
            there += pattern[:, :, : there.shape[2], : there.shape[3]]
    return _onto(x, d, threat)


class _Patterns:
    """Proposals of l2 and l1: a square takes over the budget of a second one and what is left of eps, in a pattern."""

    def __init__(self, threat: Threat, rng: Generator) -> None:
        self._threat, self._rng = threat, rng

    def __call__(self, s: _Search, t: int) -> tuple[Tensor, Tensor]:
        """All images, [n], and what the network is asked, [n, C, H, W]."""
        n, c, h, w = s.x.shape
        norm, eps = self._threat.norm, self._threat.eps
        a = side(t, (h, w), least=3, odd=True)
        takes, gives = (
            (..., slice(top, top + a), slice(left, left + a))
            for top, left in ((place(h - a, self._rng), place(w - a, self._rng)) for _ in range(2))
        )
        d = s.best - s.x
        both = torch.zeros(h, w, device=d.device)
        both[gives] = both[takes] = 1
        budget, spent = _length(d * both, norm), spread(BALLS[norm].length(d), d)  # [n, c, 1, 1], [n, 1, 1, 1]
        fresh = _pattern(a, norm, self._rng).to(d) * signs((n, c, 1, 1), self._rng).to(d)
        fresh = fresh + d[takes] / (TINY + _length(d[takes], norm))
        fresh = fresh / (TINY + _length(fresh, norm))
        if norm == "l2":
            fresh = fresh * ((eps**2 - spent**2).clamp_min(0) / c + budget**2).sqrt()
        else:
            fresh = fresh * ((eps - spent).clamp_min(0) / c + budget) * c
        d[gives] = 0
        d[takes] = fresh
        return torch.arange(n, device=d.device), _onto(s.x, d, self._threat)

    def rows(self, which: Tensor) -> None:
        """Nothing is remembered."""

    def kept(self, which: Tensor) -> None:
        """Nothing is remembered."""


def _onto(x: Tensor, d: Tensor, threat: Threat) -> Tensor:
    if threat.norm == "l1":
        return x + onto_l1_ball(x, d, threat.eps * INNER)
    return (x + threat.eps * d / (spread(BALLS["l2"].length(d), d) + TINY)).clamp(0, 1)


def _length(d: Tensor, norm: str) -> Tensor:
    """[n, c, 1, 1] of each channel."""
    total = d.abs().sum((-2, -1), keepdim=True) if norm == "l1" else (d**2).sum((-2, -1), keepdim=True).sqrt()
    return total


def _pattern(a: int, norm: str, rng: Generator) -> Tensor:
    """[a, a] of length 1: one half positive, one negative, lying or standing."""
    d = _halves(a, norm)
    return d.T if float(torch.rand(1, generator=rng)) > 0.5 else d


@cache
def _halves(a: int, norm: str) -> Tensor:
    d = torch.cat([_rings(a // 2, a, norm), -_rings(a - a // 2, a, norm)])
    return d / (d.abs().sum() if norm == "l1" else d.norm())


def _rings(h: int, w: int, norm: str) -> Tensor:
    """[h, w] of length 1: centred rectangles on each other, the k-th weighs 1 / k^2 (l1: 1 / k^4)."""
    d, top, left = torch.zeros(h, w), h // 2, w // 2
    for k in range(max(h // 2 + 1, w // 2 + 1)):
        d[max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1] += 1.0 / (k + 1) ** (4 if norm == "l1" else 2)
    return d / (d.abs().sum() if norm == "l1" else d.norm())
