"""Published architectures: the authors' logits from closed-form weights and inputs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from sparring.agents import networks
from sparring.agents.networks import NetworkConfig
from tests.reference.common import close, load

SPECS = {"resnet18": "resnet18", "wideresnet34x10": "wrn-34-10"}


def fill(model: nn.Module, names: list[str]) -> None:
    """The closed-form weights of the recorded runs."""
    parameters = dict(model.named_parameters())
    for j, name in enumerate(names):
        p = parameters[name]
        i = torch.arange(p.numel(), dtype=torch.float64)
        if p.dim() > 1:
            value = torch.sin(0.37 * i + 0.11 * j) * (2 / (p.numel() / p.shape[0])) ** 0.5
        elif name.endswith("weight"):
            value = 1 + 0.1 * torch.sin(0.7 * i + j)
        else:
            value = 0.05 * torch.cos(0.3 * i + j)
        p.data.copy_(value.view(p.shape))


def logits(path: Path) -> None:
    """Same parameter names, same order, same logits in float64: one train-mode pass, then eval mode."""
    recorded = load(path)
    for key, meta in json.loads(str(recorded["meta"])).items():
        if not isinstance(meta, dict) or "tensors" not in meta:
            continue
        network, data = key.split("/")
        train, evaluated = (recorded[f"{key}/{n}"] for n in ("logits_train", "logits_eval_after_one_train_fwd"))
        names = [name for name, _ in meta["tensors"]]
        size, classes = (64 if data == "tinyimagenet" else 32), evaluated.shape[1]
        config = NetworkConfig(SPECS[network], 3, size, size, classes, (0.0,) * 3, (1.0,) * 3)
        model = networks.build(config).double()
        assert names == list(dict(model.named_parameters())), f"{key}: parameter names differ"
        assert sum(p.numel() for p in model.parameters()) == meta["params"], f"{key}: parameter count"
        fill(model, names)
        b = len(evaluated)
        x = (0.5 + 0.5 * torch.sin(0.013 * torch.arange(b * 3 * size * size, dtype=torch.float64))).view(
            b, 3, size, size
        )
        with torch.no_grad():
            close(model.train()(x if b == 2 else torch.cat([x, x])), train, f"{key} train mode")
            close(model.eval()(x), evaluated, f"{key} eval mode")
