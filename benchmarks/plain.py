"""One training step in the style of the papers' published scripts: what Sparring's speed is measured against.

Float32 (or TensorFloat-32 where PyTorch does that by itself), contiguous tensors, one process, networks one after another,
parameters that keep asking for gradients during the attack, a network that is run as often as the scripts run it, SGD as
PyTorch makes it by default. Written from the methods' specifications; nothing here is slower than it has to be in that style.
Images are ready on the device, so reading and augmenting them is not counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
warnings.filterwarnings("ignore", "reduction: 'mean'")  # the mean over all elements is what the scripts take
Networks = Mapping[str, nn.Module]
Step = Callable[[Tensor, Tensor], None]


def pgd(
    model: nn.Module, x: Tensor, start: Tensor, raised: Callable[[Tensor], Tensor], *, backward: bool = False
) -> Tensor:
    """PGD-10 in eval mode on what ``raised`` makes of the logits; ``backward`` asks for all gradients, not the images' alone."""
    model.eval()
    adv = start
    for _ in range(STEPS):
        adv = adv.detach().requires_grad_(True)
        if backward:
            raised(model(adv)).backward()
            gradient = adv.grad
        else:
            gradient = torch.autograd.grad(raised(model(adv)), [adv])[0]
        adv = adv.detach() + STEP * gradient.sign()
        adv = torch.min(torch.max(adv, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    return adv.detach()


def uniform(x: Tensor) -> Tensor:
    """A start anywhere in the ball."""
    return (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)


def gaussian(x: Tensor) -> Tensor:
    """A start close to the image."""
    return x + 0.001 * torch.randn_like(x)


def divergence(logits: Tensor, target: Tensor, *, temperature: float = 1, reduction: str = "batchmean") -> Tensor:
    """KL(target || softmax of the logits), both at a temperature."""
    return F.kl_div(F.log_softmax(logits / temperature, 1), F.softmax(target / temperature, 1), reduction=reduction)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all scripts."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def at(networks: Networks) -> Step:
    """Adversarial training as in the scripts of Rice et al. (arXiv 2002.11569): their attack calls ``backward``, which also computes
    the weights' gradients; all the other scripts ask for that of the images alone."""
    model, optimizer = networks["model"], sgd(networks["model"])

    def step(x: Tensor, y: Tensor) -> None:
        adv = pgd(model, x, uniform(x), lambda z: F.cross_entropy(z, y), backward=True)
        loss = F.cross_entropy(model(adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def trades(networks: Networks) -> Step:
    """TRADES: its script runs the clean images again in every step of the attack, and twice for the loss."""
    model, optimizer = networks["model"], sgd(networks["model"])

    def step(x: Tensor, y: Tensor) -> None:
        adv = pgd(model, x, gaussian(x), lambda z: divergence(z, model(x), reduction="sum"))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + 6 * divergence(model(adv), model(x))
        loss.backward()
        optimizer.step()

    return step


def rslad(networks: Networks) -> Step:
    """RSLAD: the teacher's soft labels guide attack and loss."""
    student, teacher, optimizer = networks["student"], networks["teacher"].eval(), sgd(networks["student"])

    def k(q: Tensor, z: Tensor) -> Tensor:
        return (q * ((q + 1e-5).log() - F.log_softmax(z, 1))).mean()

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            soft = teacher(x)
        adv = pgd(student, x, gaussian(x), lambda z: divergence(z, soft, reduction="sum"))
        optimizer.zero_grad()
        q = F.softmax(soft, 1)
        loss = 5 / 6 * k(q, student(adv)) + 1 / 6 * k(q, student(x))
        loss.backward()
        optimizer.step()

    return step


def mtard(networks: Networks) -> Step:
    """B-MTARD; its bookkeeping of weights and temperatures costs nothing beside the networks, but reads the losses."""
    student, optimizer = networks["student"], sgd(networks["student"])
    clean, robust = networks["clean_teacher"].eval(), networks["robust_teacher"].eval()
    state = {"adv": 0.5, "nat": 0.5}

    def k(q: Tensor, z: Tensor) -> Tensor:
        return (q * ((q + 1e-5).log() - F.log_softmax(z, 1))).mean()

    def step(x: Tensor, y: Tensor) -> None:
        adv = pgd(student, x, gaussian(x), lambda z: F.cross_entropy(z, y))
        with torch.no_grad():
            q_adv = F.softmax(robust(adv), 1)
        z_adv = student(adv)
        z_nat = student(x)
        with torch.no_grad():
            q_nat = F.softmax(clean(x), 1)
        losses = {"adv": k(q_adv, z_adv), "nat": k(q_nat, z_nat)}
        both = sum(v.item() for v in losses.values())
        for name, value in losses.items():
            state[name] -= 0.025 * (state[name] - value.item() / both)
        optimizer.zero_grad()
        (state["adv"] * losses["adv"] + state["nat"] * losses["nat"]).backward()
        optimizer.step()

    return step


def peeraid(networks: Networks) -> Step:
    """PeerAiD: the student runs its own examples twice."""
    peer, student = networks["peer"], networks["student"]
    peers, students = sgd(peer), sgd(student)

    def step(x: Tensor, y: Tensor) -> None:
        peers.zero_grad()
        students.zero_grad()
        peer.eval()
        with torch.no_grad():
            soft = peer(x)
        peer.train()
        adv = pgd(student, x, gaussian(x), lambda z: divergence(z, soft, reduction="sum"))
        zp, target, zs, clean = peer(adv), student(adv), student(adv), student(x)
        loss = F.cross_entropy(zp, y) + 0.1 * divergence(zp, target, reduction="mean")
        loss = loss + 25 * divergence(zs, zp.detach(), temperature=5, reduction="mean")
        loss = loss + 25 * divergence(zs, clean, temperature=5, reduction="mean")
        loss.backward()
        peers.step()
        students.step()

    return step


def mat(networks: Networks) -> Step:
    """MAT of two peers, which has no published code: the same loss in the same style."""
    peers = list(networks.values())
    optimizers = [sgd(p) for p in peers]

    def step(x: Tensor, y: Tensor) -> None:
        adv = [pgd(p, x, uniform(x), lambda z: F.cross_entropy(z, y)) for p in peers]
        soft = []
        for p in peers:
            p.eval()
            with torch.no_grad():
                soft.append([p(a) for a in adv])
            p.train()
        for i, (p, optimizer) in enumerate(zip(peers, optimizers, strict=True)):
            j = 1 - i
            own, other = p(adv[i]), p(adv[j])
            loss = F.cross_entropy(own, y) + 0.15 * (divergence(own, soft[j][i]) + divergence(other, soft[j][j]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


METHODS: dict[str, Callable[[Networks], Step]] = {
    "at": at,
    "trades": trades,
    "rslad": rslad,
    "mtard": mtard,
    "peeraid": peeraid,
    "mat": mat,
}
