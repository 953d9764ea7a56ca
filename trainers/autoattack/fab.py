"""FAB: the nearest misclassified point, by walking along the decision boundary.

    boundary near x_k      {x : f(x_k) + f'(x_k) (x - x_k) = 0},  f the logit of another class minus the right one
    d1, d2                 shortest ways there within the box, from x_k and from the image x
    x_k+1                  (1 - a) (x_k + 1.05 d1) + a (x + 1.05 d2),  a = min(|d1| / (|d1| + |d2|), 0.1)
    misclassified?  ---->  its distance is remembered; x_k+1 goes back to x + 0.9 (x_k+1 - x)

Source: Croce and Hein, arXiv 1907.02044 (algorithm 1); targets one by one: Croce and Hein, arXiv 2003.01690, section 4.

Differences from the authors' code (pyautoattack 0.2), none in the verdict: an image whose point lies within the radius leaves at once
with all its targets, which share batches; the projections solve the same problems in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from sparring.trainers.attacks import BALLS, spread
from sparring.trainers.autoattack.draws import noise
from sparring.trainers.autoattack.passes import Passes
from sparring.trainers.autoattack.projections import onto_hyperplane
from sparring.trainers.config import Threat

OVERSHOOT = 1.05
BACK = 0.9
HELD = 2**24  # values of a tensor over all pairs of images and targets, at most: 64 MB
TOWARDS = 0.1  # largest share of the way from the image itself
SHORTEST = 1e-8
TINY = 1e-12

DUAL: dict[str, Callable[[Tensor], Tensor]] = {  # [n, K, P] -> [n, K], length of a gradient in the dual norm
    "linf": lambda g: g.abs().sum(2),
    "l2": lambda g: g.norm(dim=2),
    "l1": lambda g: g.abs().amax(2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fab:
    """FAB under a threat."""

    threat: Threat
    targets: int = (
        0  # how many of the classes next in rank, each for itself; 0: at every step the class that looks nearest
    )
    restarts: int = 1  # without targets; all but the first start at random
    steps: int = 100

    def __call__(self, passes: Passes, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """Examples [n, C, H, W] in ball and box: a misclassified one where one was found, else ``x``.

        Args:
            x: [n, C, H, W] float32 in [0, 1], classified as ``y``.
            y: [n] labels.
            rng: on the CPU, as the authors' code draws.
        """
        adv, left = x.clone(), torch.arange(len(x), device=x.device)
        logits = passes.logits(x)
        ranked = logits.argsort(dim=1, descending=True)[:, 1 : self.targets + 1]
        at_once = max(1, HELD // (x[0].numel() * (self.targets or logits.shape[1])))
        if self.targets:
            for image in torch.split(left, at_once):
                pairs = image.repeat(ranked.shape[1])  # all images with their first targets, then with their second
                self._walk(passes, adv, _Walk(pairs, x[pairs], y[pairs], x[pairs], ranked[image].T.flatten()))
            return adv
        for restart in range(self.restarts):
            if not len(left):
                break
            start = self._drawn(x[left], rng) if restart else x[left]
            broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            for image, begun in zip(torch.split(left, at_once), torch.split(start, at_once), strict=True):
                broken |= self._walk(passes, adv, _Walk(image, x[image], y[image], begun, y[image]))
            left = left[~broken[left]]
        return adv

    def _drawn(self, x: Tensor, rng: Generator) -> Tensor:
        """A start at half the radius."""
        drawn = noise(self.threat.norm, x, rng)
        length = spread(BALLS[self.threat.norm].length(drawn), drawn)
        return (x + self.threat.eps * drawn / length * 0.5).clamp(0, 1)

    def _walk(self, passes: Passes, adv: Tensor, s: _Walk) -> Tensor:
        """Put what is found into ``adv``; which images of it have one."""
        length, broken = BALLS[self.threat.norm].length, torch.zeros(len(adv), dtype=torch.bool, device=adv.device)
        for _ in range(self.steps):
            f, w = self._boundary(passes, s)
            s.now = self._step(s, f, w)
            wrong = passes.logits(s.now).argmax(1) != s.y
            away = s.now - s.x
            found = wrong & (length(away) <= self.threat.eps)
            if bool(found.any()):
                adv[s.image[found]], broken[s.image[found]] = s.now[found], True
                staying = ~broken[s.image]
                s, wrong, away = s.rows(staying), wrong[staying], away[staying]
                if not len(s.image):
                    break
            s.now = torch.where(spread(wrong, s.now), s.x + away * BACK, s.now)
        return broken

    def _boundary(self, passes: Passes, s: _Walk) -> tuple[Tensor, Tensor]:
        """Of each row's other class its logit minus the right one, [n], and the gradient of that, [n, P]."""
        if self.targets:
            w, _, f = passes.gradient(s.now, lambda logits, part: _above(logits, s.y[part], s.target[part]))
            return f, w.flatten(1)
        gradients, logits = passes.jacobian(s.now)
        rows = torch.arange(len(s.y), device=s.y.device)
        w = (gradients - gradients[rows, s.y, None]).flatten(2)
        f = logits - logits[rows, s.y, None]
        near = (f.abs() / (TINY + DUAL[self.threat.norm](w))).scatter(1, s.y[:, None], torch.inf)
        k = near.argmin(1)
        return f[rows, k], w[rows, k]

    def _step(self, s: _Walk, f: Tensor, w: Tensor) -> Tensor:
        norm = self.threat.norm
        now, x = s.now.flatten(1), s.x.flatten(1)
        b = (w * now).sum(1) - f
        d1, d2 = onto_hyperplane(torch.cat([now, x]), torch.cat([w, w]), torch.cat([b, b]), norm).chunk(2)
        a1, a2 = (BALLS[norm].length(d).clamp_min(SHORTEST)[:, None] for d in (d1, d2))
        a = (a1 / (a1 + a2)).clamp_max(TOWARDS)
        return ((now + OVERSHOOT * d1) * (1 - a) + (x + OVERSHOOT * d2) * a).clamp(0, 1).view_as(s.x)


@dataclass(slots=True)
class _Walk:
    """Where each image, or each pair of an image and a target, is."""

    image: Tensor  # [n] its number
    x: Tensor  # [n, C, H, W] the clean image
    y: Tensor
    now: Tensor
    target: Tensor

    def rows(self, which: Tensor) -> _Walk:
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})


def _above(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
