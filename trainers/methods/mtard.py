"""MTARD and B-MTARD, multi-teacher adversarial robustness distillation (Zhao et al., ECCV 2022 and TPAMI 2024).

A student S learns clean images from a clean teacher N and adversarial ones from a robust teacher R.

    x'    = PGD on CE(S(x), y), started at x + 0.001 N(0, 1), student in eval mode; no teacher is asked
    q_adv = softmax(R(x') / tau_adv),  q_nat = softmax(N(x) / tau_nat)                           no T^2, student at 1
    L_adv = c k(q_adv, S(x')),  L_nat = c k(q_nat, S(x)),  k = mean over B * K of q (log(q + 1e-5) - log p)
    loss  = w_adv L_adv + w_nat L_nat

Weights (both variants): with a = (L_adv / L_adv(0))^beta, b likewise (beta = 1), the first batch's losses kept for the run,
    w_adv <- w_adv - r_w (w_adv - a / (a + b)),  w_nat <- w_nat - r_w (w_nat - b / (a + b)),  used in the same step.
Temperatures (``balanced``, Entropy-Based Balance): with E = mean over B * K of q log(q + 1e-5) of each teacher,
    tau_adv <- clip(tau_adv - r_tau sign(E_adv / E_nat - 1), 1, 10),  tau_nat with the ratio turned;  used in the next step.
r_w and r_tau fall together with the learning rate. ``eccv`` keeps both temperatures at 1. c = K / 10 (``scale``).

Forward passes: x' first, then x, each on its own. All state is in float64 and saved with the student.

Differences from the paper: the papers' full texts could not be read; this is the published code, checked against arrays
recorded from it. Its entropies are negative means with an offset; when a teacher is almost one-hot, E turns positive and
both temperatures rise. ``edges = faithful`` keeps that and its division by a zero loss; ``safe`` compares true entropies
and leaves state unchanged where the code would divide by zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sparring.trainers.config import require
from sparring.trainers.losses import accuracy, kl_offset
from sparring.trainers.methods.base import Method, Model
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import FROZEN, LEARNER, Adversarial, Answer, Batch, Loss, Message, Role, State, Team, When


@dataclass(frozen=True, slots=True)
class Passes(Message):
    """Train-mode logits [B, K] of the student."""

    adv: Tensor
    nat: Tensor


@dataclass(frozen=True, kw_only=True)
class Mtard(Method):
    """A student between a clean and a robust teacher."""

    variant: Literal["eccv", "balanced"] = "balanced"
    """eccv: temperatures stay 1 (MTARD). balanced: they follow the teachers' entropies (B-MTARD)."""
    weight_rate: float = 0.025
    """Rate r_w of the loss weights."""
    exponent: float = 1.0
    """Exponent beta of both relative losses in the weights."""
    temperature_rate: float = 0.001
    """Rate r_tau of the temperatures."""
    temperature: float = 1.0
    """Both temperatures at the start."""
    temperature_max: float = 10.0
    """Upper bound of the temperatures; the lower one is 1."""
    scale: float | None = None
    """Factor c of both losses; default K / 10."""
    edges: Literal["faithful", "safe"] = "faithful"
    """What happens with one-hot teachers and zero losses."""

    SEARCH: ClassVar[Mapping[str, Space]] = {
        "method.weight_rate": Uniform(0.001, 0.5, log=True),
        "method.temperature_rate": Uniform(0.0001, 0.1, log=True),
        "method.temperature": Uniform(1, 5),
    }
    ATTACK: ClassVar[Mapping[str, Any]] = {"start": "gaussian"}
    DEPLOY: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self) -> None:
        require(0 <= self.weight_rate <= 1, f"method.weight_rate = {self.weight_rate} must lie in [0, 1]")
        require(self.temperature_rate >= 0, f"method.temperature_rate = {self.temperature_rate} must be >= 0")
        require(
            1 <= self.temperature <= self.temperature_max,
            f"method.temperature = {self.temperature} must lie in [1, {self.temperature_max:g}]",
        )
        require(self.scale is None or self.scale > 0, f"method.scale = {self.scale} must be > 0")

    def roles(self) -> dict[str, Role]:
        return {"student": LEARNER, "clean_teacher": FROZEN, "robust_teacher": FROZEN}

    def start_state(self, me: str) -> State:
        return {"w_adv": 0.5, "w_nat": 0.5, "tau_adv": self.temperature, "tau_nat": self.temperature, "first": None}

    def step(self, team: Team[Any], t: int) -> None:
        clean = team["clean_teacher"].answer(t)  # while the student attacks
        adv = team["student"].craft(t)
        robust = team["robust_teacher"].answer(t, adv)
        team["student"].learn(t, adv=adv, clean=clean, robust=robust)

    def forward(self, me: str, model: Model, batch: Batch, adv: Adversarial, **teachers: Answer) -> Passes:
        return Passes(adv=model(adv.x), nat=model(batch.x))

    def loss(
        self,
        me: str,
        own: Passes,
        batch: Batch,
        *,
        state: State,
        when: When,
        adv: Adversarial,
        clean: Answer,
        robust: Answer,
    ) -> Loss:
        c = own.adv.shape[1] / 10 if self.scale is None else self.scale
        s: dict[str, Any] = state
        qa, qn = (robust.logits / s["tau_adv"]).softmax(1), (clean.logits / s["tau_nat"]).softmax(1)
        terms = {"adv": c * kl_offset(qa, own.adv), "nat": c * kl_offset(qn, own.nat)}
        stats = {"E_adv": self._negative_entropy(qa), "E_nat": self._negative_entropy(qn)}
        right = {"robust_accuracy": accuracy(own.adv, batch.y), "clean_accuracy": accuracy(own.nat, batch.y)}
        return Loss(terms, stats | right)

    def _negative_entropy(self, q: Tensor) -> Tensor:
        log = (q + 1e-5).log() if self.edges == "faithful" else q.clamp_min(1e-30).log()
        return (q * log).mean()

    def balance(self, me: str, means: dict[str, float], state: State, when: When) -> tuple[dict[str, float], State]:
        s: dict[str, Any] = dict(state)
        s["first"] = s["first"] or [means["adv"], means["nat"]]
        if self.variant == "balanced":
            r = self.temperature_rate * when.lr_scale
            ea, en = means["E_adv"], means["E_nat"]
            s["tau_adv"] = self._clip(s["tau_adv"] - r * self._sign_of_ratio(ea, en))
            s["tau_nat"] = self._clip(s["tau_nat"] - r * self._sign_of_ratio(en, ea))
        if self.edges == "safe" and (min(s["first"]) == 0 or means["adv"] == means["nat"] == 0):
            return {"adv": s["w_adv"], "nat": s["w_nat"]}, s
        a, b = (means[k] / s["first"][i] for i, k in enumerate(("adv", "nat")))
        a, b = a**self.exponent, b**self.exponent
        r = self.weight_rate * when.lr_scale
        s["w_adv"] = s["w_adv"] - r * (s["w_adv"] - a / (a + b))
        s["w_nat"] = s["w_nat"] - r * (s["w_nat"] - b / (a + b))
        return {"adv": s["w_adv"], "nat": s["w_nat"]}, s

    def _clip(self, tau: float) -> float:
        return min(max(tau, 1.0), self.temperature_max)

    def _sign_of_ratio(self, e: float, other: float) -> int:
        """sign(e / other - 1); faithful to a zero or positive E, or by the true entropies -e and -other."""
        if self.edges == "safe" or other == 0:
            return (-e > -other) - (-e < -other)
        ratio = e / other
        return (ratio > 1) - (ratio < 1)
