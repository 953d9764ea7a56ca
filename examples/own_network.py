"""A network of one's own under every command, by one name: python examples/own_network.py [FOLDER]"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import sparring
from sparring.agents.networks import NetworkConfig


class MLP(nn.Module):
    """Two hidden layers. It gets pixels in [0, 1] and normalises them itself, so that a threat model means raw pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, *, hidden: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1))
        inputs = config.channels * config.height * config.width
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> logits [B, K]."""
        logits: Tensor = self.layers((x - self.mean) / self.std)
        return logits


def mlp(config: NetworkConfig) -> nn.Module:
    """What ``--network examples/own_network.py:mlp`` calls."""
    return MLP(config)


def main(folder: Path) -> None:
    """Trained, evaluated, attacked, published, loaded again, and checked."""
    settings = {"network": f"{__file__}:mlp", "epochs": 3, "team": "local"}
    run = sparring.train(sparring.recipe("mat-digits", **settings), runs_dir=folder / "runs", quiet=True)
    peer = f"{run.path}@peer0"  # its name wherever a network is meant: sparring evaluate RUN@peer0, export, serve, --init, ...
    model = sparring.load(peer)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    adv = sparring.attack(model, x, y, eps="8/255", steps=5)
    print(f"moved by {(adv - x).abs().max():.4f} at most, 8/255 is {8 / 255:.4f}")
    result = sparring.evaluate(model, "digits", attacks="clean, pgd-20", threats="linf:0.1", examples=128)
    print(f"clean {result.clean_accuracy:.1%}, robust {result.robust_accuracy:.1%} of {result.n} test images")
    version = sparring.publish(peer, "own-mlp", models_dir=folder / "models")
    again = sparring.load(version)
    assert torch.equal(model(x), again(x))
    print(f"published as {version}; what is wrong with the run's chain: {sparring.verify(run.path) or 'nothing'}")
    print("untrained, the same network:", sparring.load(f"{__file__}:mlp")(x).argmax(1).tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
