"""Small pure losses. Logits go in, one value per example comes out, so that every reduction is visible where it is chosen.

All work in log space: gradients stay finite for saturated logits (tested at +-1e4).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.trainers import half
from sparring.trainers.types import Batch

SCALE = 10.0  # distance of the largest and the third largest logit under scaled_cross_entropy
TINY = 1e-12  # beside a distance of logits that may be 0
NO_DISTANCE = 1e-9  # logits so close are equal


def cross_entropy(logits: Tensor, y: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross entropy per example: ``logits [B, K], y [B] -> [B]``.

    Args:
        smoothing: share of every label that is spread evenly over all K classes, in [0, 1) (Szegedy et al., arXiv 1512.00567).
    """
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)


def mixed(value: Callable[[Tensor, Tensor], Tensor], logits: Tensor, batch: Batch) -> Tensor:
    """``value(logits, y)``; of a mixed batch ``lam value(logits, y) + (1 - lam) value(logits, y2)``."""
    first = value(logits, batch.y)
    if batch.y2 is None:
        return first
    return batch.lam * first + (1 - batch.lam) * value(logits, batch.y2)


def kl(target: Tensor, logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(softmax(target / T) || softmax(logits / T)) per example, without the factor T^2.

    The first argument is the teacher. ``.mean()`` of the result is torch's ``batchmean``. Neither side is detached.

    Args:
        target: [B, K] logits of the distribution that is imitated.
        logits: [B, K] logits of the one that imitates.
        temperature: T > 0.

    Returns:
        [B], each >= 0 but for rounding: the sum over nearly equal logits may be some 1e-7 below in float32.
    """
    return kl_from(target, temperature=temperature)(logits)


def kl_from(target: Tensor, *, temperature: float = 1.0) -> Callable[[Tensor], Tensor]:
    """:func:`kl` as a function of its second argument; what the first one gives is computed once, for an attack's many steps."""
    log_q = _log_softmax(target, temperature)
    q = log_q.exp()

    def divergence(logits: Tensor) -> Tensor:
        return (q * (log_q - _log_softmax(logits, temperature))).sum(1)

    return divergence


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(logits if temperature == 1 else logits / temperature, dim=1)


def scaled(weight: float, value: Tensor) -> Tensor:
    """``weight * value``; a weight of 1 costs nothing."""
    return value if weight == 1 else weight * value


def kl_elements(target: Tensor, logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean over all B * K elements of KL(softmax(target / T) || softmax(logits / T)): a scalar, K times below ``batchmean``.

    This is what torch's ``KLDivLoss()`` computes by default and what PeerAiD's published code uses.
    """
    return kl(target, logits, temperature=temperature).mean() / logits.shape[1]


def kl_offset(q: Tensor, logits: Tensor) -> Tensor:
    """Mean over all B * K elements of q (log(q + 1e-5) - log_softmax(logits)): a scalar.

    The form of RSLAD's and MTARD's published code. The offset touches the constant teacher side only, never the gradient;
    the value exceeds the exact mean by at most 1e-5.

    Args:
        q: [B, K] probabilities of the teacher.
        logits: [B, K] of the student.
    """
    return (q * ((q + 1e-5).log() - F.log_softmax(logits, dim=1))).mean()


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, per example: ``[B, K], [B] -> [B]``; positive where misclassified.

    Source: the objective of Carlini and Wagner (arXiv 1608.04644, f_6) without its cap.
    """
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return wrong - right


def scaled_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of the logits at one scale, per example: ``[B, K], [B] -> [B]``; dividing all logits changes nothing.

    The cross entropy of logits that lie close together leads an attack away from the nearest class, that of logits far apart
    has no gradient left. Here the largest and the third largest (of two classes: both) are always ``SCALE`` apart.
    Logits in half precision are compared in float32; equal ones stay as they are.
    Source: the divisor of the DLR loss (Croce and Hein, arXiv 2003.01690, eq. 6), held constant, under the cross entropy.
    """
    logits = logits.float() if logits.dtype in half.TYPES else logits
    top = logits.detach().topk(min(3, logits.shape[1]), dim=1).values
    apart = top[:, :1] - top[:, -1:]
    apart = torch.where(apart > NO_DISTANCE, apart, SCALE)
    return cross_entropy(SCALE * (logits - top[:, :1]) / apart, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, ``[B, K], [B] -> [B]``: how far the largest wrong logit is above the right one, as a share of the
    distance from the largest to the third largest. Needs three classes.

    Source: Croce and Hein, arXiv 2003.01690, eq. 6.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``[B, K], [B], [B] -> [B]``: how far the target's logit is above the right one, as a share of the distance from the largest to
    the mean of the third and fourth. Needs four classes.

    Source: Croce and Hein, arXiv 2003.01690, eq. 7.
    """
    top = logits.topk(4, dim=1).values
    right, wanted = (logits.gather(1, c[:, None]).squeeze(1) for c in (y, target))
    return (wanted - right) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + TINY)


# what PGD raises, by the attack's name
RAISED = {"pgd": cross_entropy, "margin-pgd": margin, "scaled-pgd": scaled_cross_entropy}


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label: a scalar in [0, 1] without gradient."""
    return (logits.detach().argmax(1) == y).mean(dtype=logits.dtype)
