"""The configuration of an optimiser and of what stands around it: schedule, averages, weight perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparring.trainers.values import require


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Optimiser and learning-rate schedule of one agent."""

    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    """Optimiser. lamb: timm's (pip install timm), for large batches."""
    lr: float = 0.1
    """Base learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov momentum (sgd)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How slowly the means of the gradient and of its square move (adamw, lamb)."""
    eps: float | None = None
    """Added to the root of the mean square, which divides (adamw, lamb). Default 1e-8, of lamb 1e-6."""
    weight_decay: float = 5e-4
    """Weight decay (sgd: in the gradient; adamw: decoupled; lamb: in the step, before that is scaled to the weights)."""
    decay: Literal["all", "weights"] = "all"
    """What weight decay acts on. all: every parameter. weights: not biases, parameters of norms, others of one dimension, and what a network
    names itself, as timm's do with positions and class tokens."""
    clip: float = 0.0
    """Largest Euclidean length of all gradients of a step together, to which longer ones are cut; 0: none. Typical: 1."""
    layer_decay: float = 1.0
    """Learning rate of a block as a share of that of the block behind it; the head has lr itself. 1: all have. Typical for weights
    that were pretrained: 0.75."""
    schedule: Literal["constant", "linear", "cosine", "multistep", "triangle"] = "linear"
    """linear and cosine go from lr to min_lr over the run; multistep multiplies by gamma at each milestone; triangle rises to lr
    over 40 % of the run, falls to a twentieth of it until 80 %, and to 0 at the end (MSD)."""
    min_lr: float = 0.0
    """Learning rate at which linear and cosine end."""
    milestones: tuple[int, ...] = ()
    """Epochs, counted from 0, at whose start multistep lowers the rate."""
    gamma: float = 0.1
    """Factor of multistep."""
    warmup: float = 0.0
    """Epochs of linear warm-up from 0."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, updated every step; 0: none. Typical: 0.999."""
    swa: bool = False
    """Stochastic weight averaging: the mean of the weights after each epoch, batch norm recomputed on the training images."""
    swa_start: int | None = None
    """First epoch, counted from 0, whose weights enter the mean. Default: the first milestone that the run reaches, else
    three quarters of the run."""
    awp: float = 0.0
    """Adversarial weight perturbation: its size relative to each layer's norm; 0: none. Typical: 0.01."""
    awp_warmup: int = 0
    """Epochs before the perturbation begins."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optim.lr = {self.lr} must be > 0")
        require(0 <= self.momentum < 1, f"optim.momentum = {self.momentum} must lie in [0, 1)")
        ok = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(ok, f"optim.betas = {self.betas} must be two numbers in [0, 1)")
        require(self.eps is None or self.eps > 0, f"optim.eps = {self.eps} must be > 0")
        require(self.weight_decay >= 0, f"optim.weight_decay = {self.weight_decay} must be >= 0")
        require(self.clip >= 0, f"optim.clip = {self.clip} must be >= 0")
        require(0 < self.layer_decay <= 1, f"optim.layer_decay = {self.layer_decay} must lie in (0, 1]")
        require(
            0 <= self.min_lr <= self.lr,
            f"optim.min_lr = {self.min_lr:g} must lie between 0 and optim.lr = {self.lr:g}: it is a rate, no share of one",
        )
        require(self.warmup >= 0, f"optim.warmup = {self.warmup} must be >= 0")
        require(0 <= self.ema < 1, f"optim.ema = {self.ema} must lie in [0, 1)")
        require(self.awp >= 0, f"optim.awp = {self.awp} must be >= 0")
        require(
            list(self.milestones) == sorted(set(self.milestones)), f"optim.milestones = {self.milestones} must increase"
        )
