"""What a method is: who asks whom on the driver, and the paper's equations at the agents.

An instance is immutable configuration (the dataclass fields are the flags ``--method.NAME``) and travels to every agent.
All mutable state of a method is the ``state`` that ``balance`` returns. A method lives in one file of this folder whose
name is its registration; it never learns whether it runs on Ray or in one process, on one lane or on many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Generator, Tensor, nn

from sparring.trainers.config import Attack, Msd, NoiseStep
from sparring.trainers.losses import cross_entropy
from sparring.trainers.repeated import twice
from sparring.trainers.search import Space, Uniform
from sparring.trainers.types import Answer, Batch, Loss, Message, Role, State, Team, When


class Model(nn.Module):
    """A network as a method's hooks see it: ``model(x)`` are its logits.

    Attributes:
        helpers: what the method trains, or carries from step to step, besides the network; None for most.
        beside: frozen networks in eval mode that live with this agent, by name; gradients pass through to their input.
    """

    def __init__(
        self, network: nn.Module, *, helpers: nn.Module | None = None, beside: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.network, self.helpers = network, helpers
        object.__setattr__(
            self, "beside", dict(beside or {})
        )  # not submodules: neither their mode nor gradients change

    beside: dict[str, nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        return out.to(x.dtype)  # losses and balances never see the lower precision of a network

    def twice(self, x: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Logits of a train-mode pass, and what gives those of a second pass over the same images (``repeated.py``)."""
        out, again = twice(self.network, x)
        return out.to(x.dtype), lambda: again().to(x.dtype)

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Outputs of the network's blocks [B, C_i, H_i, W_i], the stem's first, and the logits."""
        maps, logits = self.network.features(x)  # type: ignore[operator]
        return tuple(m.to(x.dtype) for m in maps), logits.to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods. ``me`` is the role name of the agent on which a hook runs.

    Driver side: ``roles``, ``deploy``, ``step``; they see names and references only. Agent side: all other hooks.
    Only ``roles``, ``step``, ``forward`` and ``loss`` must be written.
    """

    ATTACK: ClassVar[Mapping[str, Any]] = {}  # what the method's training attack has otherwise than plain PGD
    DIGITS: ClassVar[Mapping[str, Any]] = {}  # options that the short recipe on digits sets
    METRIC: ClassVar[Literal["robust", "clean"]] = (
        "robust"  # accuracy on held-out images by which checkpoints are compared
    )
    DEPLOY: ClassVar[tuple[str, ...] | None] = None  # product roles; None: every learner
    MIXED: ClassVar[bool] = False  # the loss takes images that are mixed already, with two labels (``losses.mixed``)
    WHOLE: ClassVar[bool] = False  # a batch must not be divided, neither among lanes nor into micro-batches
    SEARCH: ClassVar[Mapping[str, Space]] = {"optim.lr": Uniform(0.01, 0.3, log=True)}  # settings that a search varies

    def roles(self) -> dict[str, Role]:
        """Role names in a fixed order, which numbers the agents."""
        raise NotImplementedError

    def deploy(self) -> tuple[str, ...]:
        """The roles that are products: what load, evaluate, report and serve take by default."""
        return self.DEPLOY or tuple(name for name, role in self.roles().items() if role.learns)

    def step(self, team: Team[Any], t: int) -> None:
        """One step: the same calls in the same order for every ``t`` and state."""
        raise NotImplementedError

    def norms(self) -> tuple[str, ...]:
        """Norms for which the method wants an attack of its own, named after the norm; () for one threat model."""
        return ()

    def check(self, attacks: Mapping[str, Attack]) -> None:
        """Raise ``ValueError`` when the configured attacks do not suit the method."""

    def inputs(self, batch: Batch, rng: Generator) -> Batch:
        """What all agents see of the batch of a step; ``rng`` depends on the seed and the step alone."""
        return batch

    def helpers(self, me: str, widths: Mapping[str, list[int]]) -> nn.Module | None:
        """Parameters trained besides the network; ``widths`` are every role's channels per block."""
        return None

    def carried_tensors(self, me: str, attacks: Mapping[str, Attack]) -> nn.Module | None:
        """Tensors that an agent carries from step to step: buffers of a module that its checkpoints hold. Instead of helpers."""
        return None

    def steps_on_a_batch(self) -> int:
        """Consecutive steps that see the same batch."""
        return 1

    def attack(
        self, me: str, name: str, attacks: Mapping[str, Attack], *, state: State, when: When, rng: Generator
    ) -> Attack | Msd | NoiseStep:
        """The attack that ``craft(attack=name)`` runs."""
        return attacks[name]

    def objective(self, me: str, model: Model, batch: Batch, **hints: Any) -> Callable[[Tensor], Tensor]:
        """What the attack raises: images -> one value per example. Called once per attack, with the network frozen."""
        return lambda x: cross_entropy(model(x), batch.y)

    def answer_mode(self, me: str) -> Literal["eval", "train"]:
        """Mode of batch norm while answering."""
        return "eval"

    def reply(self, me: str, model: Model, x: Tensor) -> Answer:
        """What ``answer`` says about images."""
        return Answer(model(x))

    def forward(self, me: str, model: Model, batch: Batch, **seen: Any) -> Message:
        """ALL train-mode passes of the step, in the paper's order (batch norm depends on it)."""
        raise NotImplementedError

    def loss(self, me: str, own: Any, batch: Batch, *, state: State, when: When, **seen: Any) -> Loss:
        """The paper's loss from ``own`` (the result of ``forward``) and what was received. Never calls a network."""
        raise NotImplementedError

    def start_state(self, me: str) -> State:
        """The state before the first step: JSON values."""
        return {}

    def balance(self, me: str, means: dict[str, float], state: State, when: When) -> tuple[dict[str, float], State]:
        """Weights of this step's terms (missing: 1) and the next state, from the values of terms and stats."""
        return {}, state
