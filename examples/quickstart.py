"""Train two peers in this process, attack one of them, evaluate it. Runs in a few seconds on a CPU.

python examples/quickstart.py
"""

from __future__ import annotations

import tempfile

import sparring
from sparring.trainers.config import DataConfig
from sparring.trainers.datasets import load


def main() -> None:
    config = sparring.recipe("mat-digits", team="local", epochs=5)
    with tempfile.TemporaryDirectory() as folder:
        run = sparring.train(config, runs_dir=folder, quiet=True)
        model = sparring.load(run.path, agent="peer0")
        for agent, held_out in run.agents.items():
            print(f"{agent}: held-out images {held_out['clean']:.1%} clean, {held_out['robust']:.1%} under attack")

    test = load(DataConfig()).test
    x, y = test.pixels()[:8], test.all_labels()[:8]
    adv = sparring.attack(model, x, y, norm="linf", eps=0.15, steps=20)
    print("labels     ", y.tolist())
    print("clean      ", model(x).argmax(1).tolist())
    print("adversarial", model(adv).argmax(1).tolist())

    result = sparring.evaluate(model, "digits", attacks=["clean", "pgd-20"], threats=["linf:0.15"])
    low, high = result.ci95
    print(
        f"clean {result.clean_accuracy:.1%}, robust {result.robust_accuracy:.1%} [{low:.1%}, {high:.1%}], n = {result.n}"
    )


if __name__ == "__main__":
    main()
