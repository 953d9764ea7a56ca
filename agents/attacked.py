"""Anybody's classifier attacked: images, labels and networks as people have them, under ``no_grad`` and ``inference_mode`` too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.fast import faster
from sparring.agents.inputs import check_images, labels
from sparring.agents.networks.foreign import Answering
from sparring.agents.robustness import ExampleLoss, check_classifier, judged
from sparring.trainers.attacks import run
from sparring.trainers.autoattack.passes import pieces
from sparring.trainers.config import Attack
from sparring.trainers.losses import cross_entropy
from sparring.trainers.rng import generator


def attacked(
    model: Callable[[Tensor], Any],
    images: Any,
    y: Any,
    attack: Attack,
    *,
    seed: int = 0,
    loss: ExampleLoss = cross_entropy,
) -> Tensor:
    """Adversarial examples [B, C, H, W] in the ball and in the box; modes, gradients and random states stay as they were.

    Args:
        model: images in [0, 1] -> logits; a module, or any function that is differentiable.
        images: [B, C, H, W] in [0, 1], a tensor or an array; an empty batch comes back empty.
        y: [B] class numbers, integers of any width.
        seed: of the random starts.
        loss: raised, per example.

    Raises:
        ValueError: images or labels of another kind, probabilities instead of logits, answers that are no numbers.
    """
    network = answering(model)
    with torch.inference_mode(False), torch.enable_grad():
        x: Tensor = torch.as_tensor(images)
        x = x.clone() if x.is_inference() else x
        check_images(x)
        if not len(x):
            labels(y, images=0)
            return x.clone()
        if any(p.is_inference() for p in network.parameters()):
            raise ValueError(
                "the model's weights were made inside torch.inference_mode(), through which no gradient passes: make or load it outside"
            )
        y = labels(y, images=len(x), classes=check_classifier(network, x)).to(x.device)
        with judged(network):
            if not isinstance(model, nn.Module):  # a function may keep what it is given, and see all of it
                return run(attack, lambda z: loss(network(z), y), x, rng=generator(seed, "attack", device=x.device))
            by = faster(network, x)

            def examples(part: slice) -> Tensor:
                rng = generator(seed, "attack", device=x.device)
                return run(attack, lambda z: loss(by(z), y[part]), x, rng=rng, rows=part)

            return torch.cat([examples(part) for part in pieces(x)])


def answering(model: Callable[[Tensor], Any]) -> nn.Module:
    """The model as a module that returns logits.

    Raises:
        ValueError: it cannot be called.
    """
    if not callable(model):
        raise ValueError(
            f"the model is a {type(model).__name__}; expected a module or a function from images to logits"
        )
    return Answering(model)
