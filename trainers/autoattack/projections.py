"""Projections that the attacks need, each solved for all images at once.

onto the l1 ball and the box     d_i = sign(v_i) min(room_i, max(|v_i| - s, 0)),  s >= 0 the smallest with sum |d_i| <= eps
onto a hyperplane in the box     the smallest d in the norm with w (t + d) = b and t + d in [0, 1]
"""

from __future__ import annotations

import torch
from torch import Tensor


def onto_l1_ball(x: Tensor, v: Tensor, eps: float) -> Tensor:
    """The point of {|d|_1 <= eps, x + d in [0, 1]} that is nearest to ``v`` in the l2 norm.

    sum_i min(room_i, max(|v_i| - s, 0)) falls with s, linearly between the 2 n values of s at which some d_i leaves its bound
    or reaches 0: sorted, they give the sum at each of them, and s lies between two.

    Args:
        x: [n, C, H, W] in [0, 1].
        v: [n, C, H, W] any perturbation.
        eps: radius > 0.

    Source: Croce and Hein, Mind the box, arXiv 2103.01208.
    """
    size = v.flatten(1).abs()
    room = torch.where(v > 0, 1 - x, x).flatten(1).clamp_min(0)
    leaves, ends = (size - room).clamp_min(0), size
    at, order = torch.cat([leaves, ends], 1).sort(dim=1)
    slope = torch.where(order < size.shape[1], 1.0, -1.0).to(at.dtype).cumsum(1)  # how many fall, after each
    fallen = (slope[:, :-1] * at.diff(dim=1)).cumsum(1)
    whole = torch.minimum(size, room).sum(1, keepdim=True)
    excess = (whole - eps).clamp_min(0)  # by how much the sum must fall; it does not before the first leaves
    i = torch.searchsorted(fallen, excess).clamp_max(fallen.shape[1] - 1)
    before = torch.where(i > 0, fallen.gather(1, (i - 1).clamp_min(0)), torch.zeros_like(excess))
    s = at.gather(1, i) + (excess - before) / slope.gather(1, i).clamp_min(1)
    s = torch.where(excess > 0, s, torch.zeros_like(s))
    d = torch.minimum((size - s).clamp_min(0), room)
    d = d * (eps / d.sum(1, keepdim=True)).clamp_max(1)  # what sums over many pixels have lost to rounding
    return (v.flatten(1).sign() * d).view_as(v)


def onto_hyperplane(t: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """The smallest d in the norm with w (t + d) = b and t + d in [0, 1]; where the box does not reach so far, its nearest corner.

    Towards the plane every pixel may move by its ``room``, and moving all the way brings |w| room. With c still to go, linf moves all
    pixels alike, l2 in proportion to |w|, l1 those of largest |w| first.

    Args:
        t: [n, P] points in the box.
        w: [n, P] normals.
        b: [n] offsets.
        norm: ``linf``, ``l2`` or ``l1``.

    Source: Croce and Hein, FAB, arXiv 1907.02044, section 3.1.
    """
    c = (w * t).sum(1, keepdim=True) - b[:, None]
    down = torch.where(c >= 0, w, -w)  # walking against it brings the sum closer to b
    size = w.abs()
    room = torch.where(down > 0, t, 1 - t)
    if norm == "l1":
        moved = _largest_first(size, room, c.abs())
    else:
        speed = size if norm == "l2" else torch.ones_like(size)
        stops = torch.where(speed > 0, room / speed, torch.inf)
        time = _time(size * speed, size * room, stops, c.abs())
        moved = torch.where(stops > time, time * speed, room)
    return -down.sign() * moved


def _time(gain: Tensor, whole: Tensor, stops: Tensor, c: Tensor) -> Tensor:
    """[n, 1] the T at which pixels that bring ``gain`` T each until they stop, and ``whole`` from then on, bring c; infinite where none.

    The sum grows and is concave in T, so Newton's method from 0 arrives from below, in as many steps as there are changes in the
    set of pixels that have stopped.
    """
    now = torch.zeros_like(c)
    while True:
        moving = stops > now
        rest = c - torch.where(moving, 0, whole).sum(1, keepdim=True)
        new = torch.maximum(rest / torch.where(moving, gain, 0).sum(1, keepdim=True), now)
        new = torch.where(rest > 0, new, now)  # 0 / 0 where all have stopped and nothing is left
        if torch.equal(new, now):
            return new
        now = new


def _largest_first(size: Tensor, room: Tensor, c: Tensor) -> Tensor:
    """[n, P] by how much each pixel moves when those of largest ``size`` go first, until c is reached."""
    order = size.argsort(dim=1, descending=True)
    whole = (size * room).gather(1, order)
    rest = (c - (whole.cumsum(1) - whole)).clamp_min(0)  # left to go when a pixel's turn comes
    sizes = size.gather(1, order)
    moved = torch.where(sizes > 0, torch.minimum(room.gather(1, order), rest / sizes.clamp_min(1e-30)), 0)
    return torch.zeros_like(moved).scatter(1, order, moved)
