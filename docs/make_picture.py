"""Draw docs/images/demo.png from the two runs of ``sparring demo``: what an attack does to whom, and how far each holds.

python docs/make_picture.py runs/mat-digits-1 runs/clean-digits-1
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import torch

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

from sparring.agents.robustness import Judging, correct  # noqa: E402
from sparring.cluster.models.examples import load_test  # noqa: E402
from sparring.cluster.models.trained import load_agent  # noqa: E402
from sparring.cluster.runs.folder import RunFolder  # noqa: E402
from sparring.trainers.attacks import frozen, run  # noqa: E402
from sparring.trainers.config import Attack, DataConfig  # noqa: E402
from sparring.trainers.losses import cross_entropy  # noqa: E402
from sparring.trainers.rng import generator  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

EPS = 0.15
CURVE = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3)
COLOURS = {"peer0": "#0b6e4f", "peer1": "#6fb98f", "plain training": "#c1440e"}


def main(mutual: Path, plain: Path) -> None:
    """Load the three networks, attack them, draw."""
    models = {name: load_agent(RunFolder.open(mutual), name, checkpoint="last")[0] for name in ("peer0", "peer1")}
    models["plain training"] = load_agent(RunFolder.open(plain), checkpoint="last")[0]
    split = load_test(DataConfig())
    figure = plt.figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    chosen = torch.tensor([(split.all_labels() == k).nonzero()[2].item() for k in range(6)])
    x, y = split[chosen].pixels(), split[chosen].all_labels()
    axes = left.subplots(3, 6)
    for row, (name, model) in enumerate(
        {"clean": None, "plain training": models["plain training"], "peer0": models["peer0"]}.items()
    ):
        images = x
        if model is not None:
            with frozen(model):
                attack = Attack(eps=EPS, steps=20)
                images = run(attack, lambda z, m=model: cross_entropy(m(z), y), x, rng=generator(0, "picture"))
        for i, axis in enumerate(axes[row]):
            axis.imshow(images[i, 0], cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if model is not None:
                said = int(model(images[i : i + 1]).argmax())
                axis.set_xlabel(f"reads {said}", color="#c1440e" if said != y[i] else "#0b6e4f", fontsize=9)
        axes[row][0].set_ylabel("clean" if model is None else f"attacked:\n{name}", fontsize=9)
    left.suptitle(f"the same attack (PGD-20, eps {EPS}) on each network", fontsize=10)
    axis = right.subplots()
    for name, model in models.items():
        hits = [
            correct(model, split, Attack(eps=e, steps=20) if e else None, Judging(0)).double().mean() for e in CURVE
        ]
        axis.plot(CURVE, [100 * h for h in hits], marker="o", markersize=3, label=name, color=COLOURS[name])
    axis.axvline(EPS, color="0.8", linewidth=1, zorder=0)
    axis.set(xlabel="eps (linf)", ylabel="% right", ylim=(0, 101))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    right.suptitle(f"accuracy under attack, {len(split)} test images", fontsize=10)
    target = CLONE / "docs" / "images" / "demo.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=110)
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
