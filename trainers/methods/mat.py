"""Mutual adversarial training (Liu, Lau, Souri, Feizi, Chellappa: arXiv 2112.05005, IEEE TIFS 17, 2022).

M peers f_1 .. f_M train together, each robust. Every step each peer i crafts its own adversarial example x_i on itself,
the peers exchange the examples and their soft labels p_j(.), and all step at once (Jacobi). a = alpha (0 when M = 1):

    L_i = h * B_i                                                                           own hard label
        + a/(M-1) * sum_{j != i} [ beta     * T^2 KL( sg p_j(x_i) || p_i(x_i) )             own-sample distillation
                                 + (1-beta) * T^2 KL( sg p_j(x_j) || p_i(x_j) ) ]           peer-sample distillation
        + gamma/(M-1) * sum_{j != i} CE(f_i(x_j), y)                                        peer-sample hard label

    h = 1 (hard_weight = one) or 1 - a (convex);  KL averaged over the batch, both sides at temperature T
    B_i = CE(f_i(x_i), y)                                                                   base = at
    B_i = CE(f_i(x), y) + trades_beta * KL( p_i(x) || p_i(x_i) )                            base = trades
    mutual_clean adds a/(M-1) * sum_{j != i} T^2 KL( sg p_j(x) || p_i(x) )
    x_i is crafted on CE from a uniform start, for trades on KL( p_i(x) || p_i(.) ) from x + 0.001 N(0, 1)

Differences from the paper: the paper's equations could not be read; this family is RECONSTRUCTED from its abstracts and
from neighbouring methods (deep mutual learning, ARD, CAT), and contains every plausible reading as a preset. There is no
published code. `hard_weight = one` is the default because the convex form halves the hard labels' learning rate: on short
budgets it cost 4 to 5 points of robust accuracy on digits.
Order: with base = trades or mutual_clean the clean batch, then the own example, then the peers' in role order, each its own forward pass; all teachers answer before anyone's
train-mode pass, since that one would move their batch-norm statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from sparring.trainers.config import Attack, require
from sparring.trainers.losses import accuracy, cross_entropy, kl, kl_from
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits of one peer."""

    own: Tensor  # [B, K] on x_i
    clean: Tensor | None  # [B, K] on x (base = trades, mutual_clean)
    others: dict[str, Tensor]  # j -> [B, K] on x_j


@dataclass(frozen=True, kw_only=True)
class Mat(Method):
    """Mutual adversarial training of M peers under one threat model."""

    peers: int = 2
    """Number of peers M; with 1 there is nobody to learn from, and it is adversarial training."""
    preset: Literal["mat", "own_sample", "peer_sample", "mat_hard"] = "mat"
    """Sets beta and gamma: mat (.5, 0), own_sample (1, 0), peer_sample (0, 0), mat_hard (.5, .5)."""
    alpha: float = 0.3
    """Weight of the mutual terms."""
    beta: float | None = None
    """Share of own-sample distillation; default from the preset."""
    gamma: float | None = None
    """Weight of peers' examples with hard labels; default from the preset."""
    temperature: float = 1.0
    """Temperature T of both sides of the KL."""
    hard_weight: Literal["one", "convex"] = "one"
    """Weight of the own hard-label term: 1, or 1 - alpha."""
    base: Literal["at", "trades"] = "at"
    """Loss of the own hard-label term."""
    trades_beta: float = 6.0
    """Weight of the KL in the base loss trades."""
    mutual_clean: bool = False
    """Also imitate the peers on the clean images (base trades)."""
    teacher_bn: Literal["eval", "train"] = "eval"
    """Mode of batch norm while a peer answers; train also moves its statistics."""

    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.alpha": Uniform(0.05, 1),
        "method.beta": Uniform(0, 1),
        "method.temperature": Uniform(1, 10),
    }
    PRESETS: ClassVar[dict[str, tuple[float, float]]] = {
        "mat": (0.5, 0.0),
        "own_sample": (1.0, 0.0),
        "peer_sample": (0.0, 0.0),
        "mat_hard": (0.5, 0.5),
    }

    def __post_init__(self) -> None:
        require(self.peers >= 1, f"method.peers = {self.peers} must be >= 1")
        require(0 <= self.alpha <= 1, f"method.alpha = {self.alpha} must lie in [0, 1]")
        require(0 <= self.own_share <= 1, f"method.beta = {self.beta} must lie in [0, 1]")
        require(self.extra_weight >= 0, f"method.gamma = {self.gamma} must be >= 0")
        require(self.temperature > 0, f"method.temperature = {self.temperature} must be > 0")

    @property
    def own_share(self) -> float:
        """beta, the preset's unless given."""
        return self.PRESETS[self.preset][0] if self.beta is None else self.beta

    @property
    def extra_weight(self) -> float:
        """gamma, the preset's unless given."""
        return self.PRESETS[self.preset][1] if self.gamma is None else self.gamma

    @property
    def mutual_weight(self) -> float:
        """alpha, or 0 when there is nobody to learn from."""
        return self.alpha if self.peers > 1 else 0.0

    def roles(self) -> dict[str, Role]:
        return {f"peer{i}": LEARNER for i in range(self.peers)}

    def check(self, attacks: Mapping[str, Attack]) -> None:
        if self.base == "trades" and attacks["train"].initial == "none":
            raise ValueError(
                "method.base = trades needs a random start: the KL has no gradient at x; set attack.start gaussian"
            )

    def step(self, team: Team[Any], t: int) -> None:
        peers = list(self.roles())
        clean = {j: team[j].answer(t) for j in peers} if self.mutual_clean and self.mutual_weight > 0 else {}
        adv = {i: team[i].craft(t) for i in peers}
        soft = {j: team[j].answer(t, {i: adv[i] for i in self._asked(j)}) for j in peers if self._asked(j)}
        for i in peers:
            theirs = {j: clean[j] for j in clean if j != i}
            team[i].learn(t, adv=adv, soft={j: soft[j] for j in soft if j != i}, clean=theirs)

    def _asked(self, j: str) -> list[str]:
        """Whose examples peer j is asked about: the others' for own-sample, its own for peer-sample distillation."""
        if self.mutual_weight == 0:
            return []
        return [i for i in self.roles() if (i != j and self.own_share > 0) or (i == j and self.own_share < 1)]

    def attack(
        self, me: str, name: str, attacks: Mapping[str, Attack], *, state: State, when: When, rng: Generator
    ) -> Attack:
        chosen = attacks[name]
        return replace(chosen, start="gaussian") if self.base == "trades" and chosen.start is None else chosen

    def objective(self, me: str, model: Model, batch: Batch) -> Callable[[Tensor], Tensor]:
        if self.base == "at":
            return lambda x: cross_entropy(model(x), batch.y)
        with torch.no_grad():
            clean = model(batch.x)
        divergence = kl_from(clean)
        return lambda x: divergence(model(x))

    def answer_mode(self, me: str) -> Literal["eval", "train"]:
        return self.teacher_bn

    def forward(
        self,
        me: str,
        model: Model,
        batch: Batch,
        adv: Mapping[str, Adversarial],
        soft: Mapping[str, Mapping[str, Answer]] | None = None,
        clean: Mapping[str, Answer] | None = None,
    ) -> Passes:
        wanted = (self.mutual_weight > 0 and self.own_share < 1) or self.extra_weight > 0
        first = model(batch.x) if self.base == "trades" or clean else None
        own = model(adv[me].x)
        return Passes(own, first, {j: model(adv[j].x) for j in adv if j != me} if wanted else {})

    def loss(
        self,
        me: str,
        own: Passes,
        batch: Batch,
        *,
        state: State,
        when: When,
        adv: Mapping[str, Adversarial],
        soft: Mapping[str, Mapping[str, Answer]] | None = None,
        clean: Mapping[str, Answer] | None = None,
    ) -> Loss:
        a, beta, gamma, temperature = self.mutual_weight, self.own_share, self.extra_weight, self.temperature
        w = 1 / max(self.peers - 1, 1)
        hard = cross_entropy(own.own, batch.y).mean()
        if self.base == "trades":
            assert own.clean is not None
            hard = cross_entropy(own.clean, batch.y).mean() + self.trades_beta * kl(own.clean, own.own).mean()
        terms = {"hard": hard if self.hard_weight == "one" else (1 - a) * hard}
        for j, answers in (soft or {}).items():
            if beta > 0:
                _add(terms, "own_sample", a * w * beta * _soft(answers[me].logits, own.own, temperature))
            if beta < 1:
                _add(terms, "peer_sample", a * w * (1 - beta) * _soft(answers[j].logits, own.others[j], temperature))
        for answer in (clean or {}).values():
            assert own.clean is not None
            _add(terms, "mutual_clean", a * w * _soft(answer.logits, own.clean, temperature))
        if gamma > 0:
            for z in own.others.values():
                _add(terms, "peer_hard", gamma * w * cross_entropy(z, batch.y).mean())
        return Loss(terms, {"robust_accuracy": accuracy(own.own, batch.y)})


def _soft(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    return temperature**2 * kl(teacher, student, temperature=temperature).mean()


def _add(terms: dict[str, Tensor], name: str, value: Tensor) -> None:
    terms[name] = terms[name] + value if name in terms else value
