"""Networks from elsewhere: ``timm:NAME`` and a function in a user's file."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

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
        logits: Tensor = self.model(self.normalise(x) if self.normalised else x)
        return logits


def from_timm(name: str) -> Callable[[NetworkConfig], Network]:
    """A network of the timm library with fresh weights; it gets normalised images.

    Raises:
        ValueError: timm is not installed or has no such network.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"network timm:{name} needs the timm library; run: pip install timm") from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise ValueError(f"timm has no network {name!r}" + (f"; near: {near}" if near else ""))

    def make(config: NetworkConfig) -> Network:
        model = timm.create_model(name, pretrained=False, num_classes=config.classes, in_chans=config.channels)
        return Foreign(config, model, normalised=True)

    return make


def from_file(spec: str) -> Callable[[NetworkConfig], Network]:
    """``file.py:function``: the function gets the :class:`NetworkConfig` and returns a module for pixels in [0, 1].

    Raises:
        ValueError: no such file or function.
    """
    function = user.function(spec)

    def make(config: NetworkConfig) -> Network:
        model = function(config)
        if not isinstance(model, nn.Module):
            raise ValueError(f"network {spec!r} returned {type(model).__name__}; expected a torch.nn.Module")
        return model if isinstance(model, Network) else Foreign(config, model, normalised=False)

    return make
