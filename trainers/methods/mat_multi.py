"""MAT against several norms: specialists and a generalist (Liu et al., arXiv 2112.05005, IEEE TIFS 17, 2022).

One specialist s_p per norm p in P and a generalist g train together. Each crafts on itself: x_p on s_p, x_gp on g under p.

    L_s_p = h_s CE(s_p(x_p), y) + a_s T^2 KL( sg g(x_p) || s_p(x_p) )                              a_s = feedback
    L_g   = h H + a/|P| sum_p [ (1-b) T^2 KL( sg s_p(x_p) || g(x_p) ) + b T^2 KL( sg s_p(x_gp) || g(x_gp) ) ]

    H = 1/|P| sum_p CE(g(x_gp), y)                    select = avg
    H = CE(g(x'), y), x' the x_gp of highest CE       select = max
    H = CE(g(x'), y), x' from multi steepest descent  select = msd
    h = 1 (hard_weight = one) or 1 - a (convex), h_s likewise with a_s;  a = alpha, b = own_share

Specialists are ``online``, or ``frozen``: trained before, each with --agents.P.init. The generalist is the product.
Forward passes of the generalist: for its own examples first, then the specialists' in the order of ``threats``.

Differences from the paper: its equations could not be read; that there are a specialist per norm and a generalist that
learns from them is the paper's, every formula is RECONSTRUCTED. b = 0 by default: a specialist is dependable on its own
norm and on examples that it crafted. Specialists never teach each other, because each is weak outside its norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from sparring.trainers.config import NORM_NAMES, Attack, Msd, require
from sparring.trainers.losses import accuracy, cross_entropy, kl
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.methods.max import worst
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import FROZEN, LEARNER, Adversarial, Answer, Batch, Loss, Message, Role, State, Team, When

G = "generalist"


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K]."""

    hard: dict[str, Tensor]  # the learner's own examples: by norm, or one under "worst"
    soft: dict[str, Tensor]  # the generalist on the specialists' examples, by norm


@dataclass(frozen=True, kw_only=True)
class MatMulti(Method):
    """Mutual adversarial training of specialists and a generalist."""

    threats: tuple[str, ...] = NORM_NAMES
    """Norms p; each has its attack, --attacks.P, and its specialist, named P."""
    alpha: float = 0.3
    """Weight a of what the generalist learns from the specialists."""
    own_share: float = 0.0
    """Share b of the generalist's own examples in it."""
    feedback: float = 0.0
    """Weight a_s of what the specialists learn from the generalist."""
    temperature: float = 1.0
    """Temperature T of both sides of the KL."""
    hard_weight: Literal["one", "convex"] = "one"
    """Weight of the hard labels: 1, or 1 - alpha."""
    specialists: Literal["online", "frozen"] = "online"
    """Trained together with the generalist, or before it."""
    select: Literal["avg", "max", "msd"] = "avg"
    """Which of the generalist's own examples its hard labels see."""

    DEPLOY: ClassVar[tuple[str, ...]] = (G,)
    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.alpha": Uniform(0, 1),
        "method.temperature": Uniform(1, 10),
        "method.own_share": Uniform(0, 1),
    }

    def __post_init__(self) -> None:
        known = bool(self.threats) and set(self.threats) <= set(NORM_NAMES)
        require(known, f"method.threats = {self.threats} is not allowed; choose from {', '.join(NORM_NAMES)}")
        for name in ("alpha", "own_share", "feedback"):
            require(0 <= getattr(self, name) <= 1, f"method.{name} = {getattr(self, name)} must lie in [0, 1]")
        require(self.temperature > 0, f"method.temperature = {self.temperature} must be > 0")
        require(
            self.feedback == 0 or self.specialists == "online", "method.feedback needs specialists that learn: online"
        )

    def norms(self) -> tuple[str, ...]:
        return self.threats

    def roles(self) -> dict[str, Role]:
        kind = LEARNER if self.specialists == "online" else FROZEN
        return {**dict.fromkeys(self.threats, kind), G: LEARNER}

    @property
    def _teaching(self) -> bool:
        return self.alpha > 0

    @property
    def _own(self) -> tuple[str, ...]:
        """Attacks that the generalist carries out on itself."""
        if self.select != "msd":
            return self.threats
        return (*self.threats, "msd") if self._teaching and self.own_share > 0 else ("msd",)

    def step(self, team: Team[Any], t: int) -> None:
        g, online = team[G], self.specialists == "online"
        on_theirs, on_own = self._teaching and self.own_share < 1, self._teaching and self.own_share > 0
        mine: dict[str, Any] = {}
        if online or on_theirs:
            mine = {p: team[p].craft(t, attack=p) for p in self.threats}
        own = {p: g.craft(t, attack=p) for p in self._own}
        said = g.answer(t, own) if self.select == "max" else {}
        soft = {}
        for p in self.threats if self._teaching else ():
            asked = {"mine": mine[p]} if on_theirs else {}
            if on_own:
                asked["own"] = own[p]
            soft[p] = team[p].answer(t, asked)
        back = {p: {"back": g.answer(t, mine[p])} for p in self.threats} if self.feedback > 0 else {}
        for p in self.threats if online else ():
            team[p].learn(t, mine=mine[p], **back.get(p, {}))
        g.learn(t, on_self=own, mine=mine if on_theirs else {}, said=said, soft=soft)

    def attack(
        self, me: str, name: str, attacks: Mapping[str, Attack], *, state: State, when: When, rng: Generator
    ) -> Attack | Msd:
        each = tuple(attacks[p] for p in self.threats)
        return Msd(each, max(a.iterations for a in each)) if name == "msd" else attacks[name]

    def forward(self, me: str, model: Model, batch: Batch, mine: Any = None, **seen: Any) -> Passes:
        if me != G:
            return Passes({me: model(mine.x)}, {})
        own: Mapping[str, Adversarial] = seen["on_self"]
        if self.select == "avg":
            hard = {p: model(own[p].x) for p in self.threats}
        else:
            x = own["msd"].x if self.select == "msd" else worst(batch.y, own, seen["said"])
            hard = {"worst": model(x)}
            if self._teaching and self.own_share > 0:
                hard |= {p: model(own[p].x) for p in self.threats}
        return Passes(hard, {p: model(a.x) for p, a in (mine or {}).items()})

    def loss(
        self,
        me: str,
        own: Passes,
        batch: Batch,
        *,
        state: State,
        when: When,
        soft: Mapping[str, Mapping[str, Answer]] | None = None,
        back: Answer | None = None,
        **seen: Any,
    ) -> Loss:
        weight = self.alpha if me == G else self.feedback
        chosen = [own.hard["worst"]] if "worst" in own.hard else list(own.hard.values())
        hard = torch.stack([cross_entropy(z, batch.y).mean() for z in chosen]).mean()
        terms = {"hard": hard if self.hard_weight == "one" else (1 - weight) * hard}
        w, b = self.alpha / len(self.threats), self.own_share
        for p, answers in (soft or {}).items():
            if b < 1:
                terms[f"from_{p}"] = w * (1 - b) * self._soft(answers["mine"], own.soft[p])
            if b > 0:
                terms[f"on_own_{p}"] = w * b * self._soft(answers["own"], own.hard[p])
        if back is not None:
            terms["feedback"] = self.feedback * self._soft(back, own.hard[me])
        right = torch.stack([z.argmax(1) == batch.y for z in chosen]).all(0).to(batch.x.dtype).mean()
        stats = {f"{p}_accuracy": accuracy(z, batch.y) for p, z in own.hard.items()} if len(own.hard) > 1 else {}
        return Loss(terms, stats | {"robust_accuracy": right})

    def _soft(self, teacher: Answer, student: Tensor) -> Tensor:
        t = self.temperature
        return t**2 * kl(teacher.logits, student, temperature=t).mean()
