"""Networks of other people's: a function in a user's file, and whatever answers images with logits in some form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from sparring.agents.networks.network import Network, NetworkConfig
from sparring.trainers import user


class Foreign(Network):
    """Any module that maps images to logits.

    Args:
        model: the module.
        normalised: whether it gets normalised images; otherwise pixels in [0, 1].
    """

    def __init__(self, config: NetworkConfig, model: nn.Module, *, normalised: bool) -> None:
        super().__init__(config)
        self.model, self.normalised = model, normalised

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        raise ValueError(
            f"network {self.config.spec} does not tell its stages; use a named network where features are needed"
        )

    def forward(self, x: Tensor) -> Tensor:
        try:
            out = self.model(self.normalise(x) if self.normalised else x)
        except Exception as error:
            error.add_note(f"it was given images {list(x.shape)} of {x.dtype}")
            raise
        return logits_of(out)


class Answering(nn.Module):
    """Anybody's module or function from images to logits, in whatever form it answers.

    Args:
        model: a module, whose modes and parameters are this one's too, or any callable.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.training = getattr(model, "training", False)  # not train(), which would change the modes inside

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.model(x))


def logits_of(out: Any) -> Tensor:
    """The logits in what a network returns: a tensor, an object with ``.logits``, a mapping with ``"logits"``.

    Raises:
        ValueError: anything else; of a tuple, what is where.
    """
    if isinstance(out, (Tensor, fx.Proxy)):
        return out  # type: ignore[return-value]
    found = out.get("logits") if isinstance(out, Mapping) else getattr(out, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(out, (tuple, list)):
        parts = ", ".join(f"[{i}] is {_described(part)}" for i, part in enumerate(out))
        raise ValueError(
            f"the network returns a {type(out).__name__} of {len(out)}: {parts}. Return the logits alone, as in: return model(x)[0]"
        )
    keys = f" with {', '.join(map(str, out))}" if isinstance(out, Mapping) else ""
    raise ValueError(
        f"the network returns {type(out).__name__}{keys}; expected a tensor of logits, .logits or ['logits']"
    )


def _described(part: object) -> str:
    return str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__


def from_file(spec: str) -> Callable[[NetworkConfig], Network]:
    """``file.py:function``: a module for pixels in [0, 1]; the function gets the :class:`NetworkConfig` if it asks for one.

    Raises:
        ValueError: no such file or function.
    """
    user.function(spec)

    def make(config: NetworkConfig) -> Network:
        model = user.network(spec, config)
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"network {spec!r} returned {type(model).__name__}; expected a torch.nn.Module: pixels in [0, 1] -> logits"
            )
        return model if isinstance(model, Network) else Foreign(config, model, normalised=False)

    return make
