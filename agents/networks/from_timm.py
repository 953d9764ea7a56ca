"""Networks of the timm library by name: ``timm:NAME``, ``timm:NAME,patch_size=4,pretrained=True``; they get normalised images.

the name --create--> network --one image of the data set's size--> logits, or the next way to create it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparring.agents.networks.foreign import Foreign
from sparring.agents.networks.network import Network, NetworkConfig

TOKENS = 8  # patches along a side, about, that a transformer made for large images gets of small ones
SMALL = 64  # pixels along a side up to which images are small
SIDES = (16, 32, 64, 96, 128, 224)  # tried for the smallest that a network takes


def from_timm(name: str, options: Mapping[str, object]) -> Callable[[NetworkConfig], Network]:
    """A network of the timm library; it gets normalised images, by its own statistics where its weights are pretrained.

    An architecture of fixed image size is made for the data set's, with smaller patches where images are small.

    Args:
        options: keywords of ``timm.create_model``.

    Raises:
        ValueError: timm is not installed or has no such network; the made function: images too small for it, no such option,
            or pretrained weights that cannot be fetched.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"network timm:{name} needs the timm library; run: pip install timm") from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise ValueError(f"timm has no network {name!r}" + (f"; near: {near}" if near else ""))

    def make(config: NetworkConfig) -> Network:
        model, _ = _fitting(name, options, config)
        if options.get(
            "pretrained"
        ):  # once fetched they are ordinary weights: whoever loads them later fetches nothing
            known = timm.get_pretrained_cfg(name)
            config = replace(config, spec=_fresh(name, options))
            if len(known.mean) == config.channels:
                config = replace(config, mean=tuple(known.mean), std=tuple(known.std))
        return Foreign(config, model, normalised=True)

    return make


def _fresh(name: str, options: Mapping[str, object]) -> str:
    """The same architecture without weights; ``pretrained=False`` also says that its patches are its own."""
    return ",".join([f"timm:{name}", *(f"{k}={v!r}" for k, v in {**options, "pretrained": False}.items())])


def arguments(name: str, options: Mapping[str, object], config: NetworkConfig) -> dict[str, object]:
    """Keywords, beside the classes and channels, with which ``timm.create_model`` itself makes the network of this name."""
    _, used = _fitting(name, {**options, "pretrained": False}, config)
    return {k: v for k, v in used.items() if k != "pretrained"}


def _fitting(name: str, options: Mapping[str, object], config: NetworkConfig) -> tuple[nn.Module, dict[str, object]]:
    """The network made in the first way in which it answers an image of the data set's size; its options."""
    size, failed = (config.height, config.width), list[Exception]()
    for more in _ways(name, options, size):
        used = {**more, **options}
        try:
            return _answering(name, config, used, size), used
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            failed.append(error)
    first = " ".join(str(failed[0]).split())
    if options.get("pretrained") and not isinstance(failed[0], (AssertionError, TypeError)):
        raise ValueError(f"the pretrained weights of timm:{name} cannot be had for these images: {first}")
    smallest = next((s for s in SIDES if s > min(size) and _takes(name, options, config, s)), None)
    hint = f"; the smallest square images that it takes are {smallest}x{smallest}" if smallest else ""
    raise ValueError(f"timm:{name} does not take images of {config.height}x{config.width} ({first}){hint}")


def _ways(name: str, options: Mapping[str, object], size: tuple[int, int]) -> Iterator[dict[str, object]]:
    """Options to try beside those that were given, best first."""
    import timm

    smaller = {"patch_size": _patch(size)} if min(size) <= SMALL else {}
    own_patches = not smaller or {"patch_size", "pretrained"} & set(options)
    if timm.get_pretrained_cfg(name).fixed_input_size:
        if not own_patches:
            yield {"img_size": size, **smaller}
        yield {"img_size": size}
    yield {}
    if not own_patches:
        yield dict(smaller)


def _created(name: str, config: NetworkConfig, options: Mapping[str, object]) -> nn.Module:
    import timm

    chosen: dict[str, Any] = {"pretrained": False, **options}
    model: nn.Module = timm.create_model(name, num_classes=config.classes, in_chans=config.channels, **chosen)
    return model


@torch.no_grad()
def _answering(name: str, config: NetworkConfig, options: Mapping[str, object], size: tuple[int, int]) -> nn.Module:
    """The network in train mode, after it answered an image of this size, all of which it sees; raises whatever it raises."""
    model = _created(name, config, options)
    model.eval()(torch.zeros(1, config.channels, *size))
    _check_seen(model, size)
    return model.train()


def _check_seen(model: nn.Module, size: tuple[int, int]) -> None:
    """Refuse a first convolution that stops before the image does: what is changed there, nobody would notice.

    Raises:
        ValueError: says how many rows or columns, and which patches would see them.
    """
    first: Any = getattr(model, "pretrained_cfg", {}).get("first_conv")
    conv = dict(model.named_modules()).get(first) if isinstance(first, str) else None
    if type(conv) is not nn.Conv2d or isinstance(conv.padding, str):
        return  # one that pads as it needs
    if getattr(model.get_submodule(first.rpartition(".")[0]), "dynamic_img_pad", False):
        return
    for side, kernel, stride, padding in zip(size, conv.kernel_size, conv.stride, conv.padding, strict=True):
        left = (side + 2 * padding - kernel) % stride - padding
        if left > 0:
            raise ValueError(
                f"its first layer moves by {stride} pixels and never sees the last {left} of {side}; "
                f"patch_size={_patch(size)} would"
            )


def _patch(size: tuple[int, int]) -> int:
    """Side of the patches that cover images of this size whole, nearest to an eighth of it."""
    wanted = min(size) / TOKENS
    whole = (p for p in range(1, min(size) + 1) if not any(side % p for side in size))
    return min(whole, key=lambda p: max(p / wanted, wanted / p))


def _takes(name: str, options: Mapping[str, object], config: NetworkConfig, side: int) -> bool:
    for more in _ways(name, options, (side, side)):
        try:
            _answering(name, config, {**more, **options, "pretrained": False}, (side, side))
        except (RuntimeError, AssertionError, TypeError, ValueError):
            continue
        return True
    return False
