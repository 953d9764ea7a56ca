"""PeerAiD, adversarial distillation from a specialised peer (Jung et al., CVPR 2024, arXiv 2403.06668).

Peer P and student S start from scratch and train together on examples that attack the student only:

    q   = softmax(P(x)), eval mode
    x*  = argmax KL( q || p_S(x*) ) in the ball, started at x + 0.001 N(0, 1), student in eval mode; the label is not used
    L_P = gamma1 CE(P(x*), y)    + gamma2 R^2 <KL( S'(x*) || P(x*) )>_R           S' not detached: it reaches the student
    L_S = lambda1 CE(S(x*), y)   + lambda2 T^2 <KL( sg P(x*) || S(x*) )>_T
                                 + lambda3 T^2 <KL( S(x) || S(x*) )>_T            S(x) not detached
    L   = L_P + L_S, one backward, both step at once (Jacobi);  <.> averages over B * K elements

Forward passes of the student: x* (as the peer's target), x* again, x; of the peer: x*. Both learners evaluate the same L
with what they received as constants; their gradients are those of one backward through both.

Differences from the paper: its poster detaches nothing explicitly and has one temperature; this is the published code,
which has two and averages over B * K, so that its weights look K times larger than those of a batch mean. ``detach_targets``
makes the two student-side targets constants. The peer is not robust by design and is never a product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, cross_entropy, kl_elements, kl_from
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import LEARNER, Adversarial, Answer, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K]: with a graph at their owner, constants at the other."""

    adv: Tensor  # on x*
    target: Tensor | None = None  # the student's first pass on x*
    clean: Tensor | None = None  # the student on x


@dataclass(frozen=True, kw_only=True)
class Peeraid(Method):
    """A student and its specialised peer. Defaults: the published setting for CIFAR-10."""

    gamma1: float = 1.0
    """Weight of the peer's hard labels."""
    gamma2: float = 0.1
    """Weight of the peer's imitation of the student."""
    lambda1: float = 0.0
    """Weight of the student's hard labels."""
    lambda2: float = 1.0
    """Weight of the student's imitation of the peer."""
    lambda3: float = 1.0
    """Weight of the student's agreement with itself on the clean image."""
    peer_temperature: float = 1.0
    """Temperature R of the peer's distillation."""
    temperature: float = 5.0
    """Temperature T of the student's distillation."""
    detach_targets: bool = False
    """Make the student's two target passes constants."""

    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.gamma2": Uniform(0.01, 100, log=True),
        "method.lambda1": Uniform(0, 1),
        "method.lambda2": Uniform(0.1, 50, log=True),
        "method.lambda3": Uniform(0.1, 50, log=True),
        "method.temperature": Uniform(1, 10),
    }
    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}
    DEPLOY: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self) -> None:
        for name in ("gamma1", "gamma2", "lambda1", "lambda2", "lambda3"):
            require(getattr(self, name) >= 0, f"method.{name} = {getattr(self, name)} must be >= 0")
        for name in ("peer_temperature", "temperature"):
            require(getattr(self, name) > 0, f"method.{name} = {getattr(self, name)} must be > 0")

    def roles(self) -> dict[str, Role]:
        return {"peer": LEARNER, "student": LEARNER}

    def step(self, team: Team[Any], t: int) -> None:
        peer, student = team["peer"], team["student"]
        adv = student.craft(t, guide=peer.answer(t))
        zp, zs = peer.predict(t, adv=adv), student.predict(t, adv=adv)  # both before either steps
        peer.learn(t, other=zs)
        student.learn(t, other=zp)

    def objective(self, me: str, model: Model, batch: Batch, guide: Answer) -> Callable[[Tensor], Tensor]:
        divergence = kl_from(guide.logits)
        return lambda x: divergence(model(x))

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial) -> Passes:
        if me == "peer":
            return Passes(adv=model(adv.x))
        target, again = model.twice(adv.x)
        return Passes(target=target, adv=again(), clean=model(batch.x))

    def loss(self, me: str, own: Passes, batch: Batch, *, state: State, when: When, other: Passes) -> Loss:
        p, s = (own, other) if me == "peer" else (other, own)
        assert s.target is not None
        assert s.clean is not None
        target, clean = (s.target.detach(), s.clean.detach()) if self.detach_targets else (s.target, s.clean)
        r, t = self.peer_temperature, self.temperature
        terms = {
            "peer_ce": self.gamma1 * cross_entropy(p.adv, batch.y).mean(),
            "peer_kl": self.gamma2 * r**2 * kl_elements(target, p.adv, temperature=r),
            "student_ce": self.lambda1 * cross_entropy(s.adv, batch.y).mean(),
            "student_kl": self.lambda2 * t**2 * kl_elements(p.adv.detach(), s.adv, temperature=t),
            "student_self": self.lambda3 * t**2 * kl_elements(clean, s.adv, temperature=t),
        }
        return Loss(terms, {"robust_accuracy": accuracy(own.adv, batch.y)})
