"""The numbers of a run's report: how each agent holds against attacks, on its own examples and on the others'.

Everything is computed from the saved checkpoints and the test images, written to report.json, and drawn from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.fast import faster
from sparring.agents.robustness import fitting_threads, judged, wilson
from sparring.cluster.config import measuring
from sparring.cluster.evaluation.direct import evaluate_model
from sparring.cluster.evaluation.subjects import device_of
from sparring.cluster.models.examples import take
from sparring.cluster.models.trained import deployed, load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.trainers.attacks import BALLS, run
from sparring.trainers.config import Attack, Threat
from sparring.trainers.data import Split
from sparring.trainers.losses import scaled_cross_entropy
from sparring.trainers.rng import generator

CURVE = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # multiples of the run's eps
STEPS = 20  # of the attack of every figure, which networks whose logits differ in scale can be compared by
ATTACK = f"scaled-pgd-{STEPS}"
GALLERY = 6  # images shown
ALWAYS = 1000  # a test split up to this size is used whole
BUDGET = 60.0  # seconds that a report of a larger one may take, about
PASSES = 3 + (STEPS + 2) * (len(CURVE) + 1)  # of an agent per image of a report
FEWEST, ENOUGH = 4, 32  # test images of the report of a run of few steps; from which on it draws the curve over eps
SLOW = 10.0  # seconds of a report from which on it says how long it takes
Say = Callable[[str], None]


def silent(text: str) -> None:
    """Say nothing."""


def analyse(
    folder: RunFolder, *, examples: int | None = None, checkpoint: str = "best", say: Say = silent, looking: float = 0.0
) -> dict[str, Any]:
    """All numbers of the report.

    Args:
        examples: test images used; None takes as many as about a minute allows.
        looking: then no more than this share of the run's own passes either; 0: whatever the run has cost.
        checkpoint: of each learner: best on the held-out images, or last.
    """
    learners = [name for name, role in folder.config.method.roles().items() if role.learns]
    models, steps = {}, {}
    for name in (deployed(folder, role) for role in learners):
        models[name], steps[name] = load_agent(folder, name, checkpoint=checkpoint)
    if examples is None and looking:
        examples = within(folder, looking, agents=len(models))
    with fitting_threads(*models.values()):
        return _numbers(folder, models, steps, examples, checkpoint, say)


def within(folder: RunFolder, looking: float, *, agents: int) -> int:
    """Test images for a report that costs this share of the passes of training; some at least, and not all of a large test split."""
    trained = (folder.total_steps or 0) * measuring.per_step(folder.config)
    return min(ALWAYS, max(FEWEST, int(looking * trained / PASSES)))


def _numbers(
    folder: RunFolder,
    models: dict[str, nn.Module],
    steps: dict[str, int],
    examples: int | None,
    checkpoint: str,
    say: Say,
) -> dict[str, Any]:
    config, method = folder.config, folder.config.method
    taken = take(config.data, started=folder.images)
    test = taken.split
    threat = config.threats[0]
    count = min(len(test), examples or affordable(list(models.values()), test, threat))
    split = test[spread_out(test, count)]
    say(f"report: {len(models)} agent{'s' if len(models) > 1 else ''}, {count} of {len(test)} test images")
    agents, started = dict[str, Any](), time.perf_counter()
    for name, model in models.items():
        result = evaluate_model(
            model, split, attacks=["clean", "fgsm", ATTACK], threats=config.threats, seed=config.seed, block=256
        )
        if not agents:  # the first attack of the first agent tells what the rest takes
            passes = PASSES if count >= ENOUGH else PASSES - (STEPS + 2) * (len(CURVE) - 1)
            left = (time.perf_counter() - started) * (len(models) * passes / (STEPS + 5) - 1)
            if left > SLOW:
                say(f"report: about {left:.0f} s to go")
        curve = [{"eps": 0.0, "accuracy": result.clean_accuracy}]
        for factor in CURVE if count >= ENOUGH else (1.0,):
            eps = threat.eps * factor
            if threat.norm == "linf" and eps > 1:
                continue
            at = Threat(threat.norm, eps)
            held = (
                result.threats[str(threat)]["attacks"][ATTACK] if factor == 1 else _held(model, split, at, config.seed)
            )
            curve.append({"eps": eps, "accuracy": held})
        agents[name] = {
            "product": name.partition(".")[0] in method.deploy(),
            "checkpoint": steps[name],
            **result.to_dict(),
            "curve": curve,
        }
        say(f"report: {name} done")
    adversarial = {name: craft(model, split, threat, seed=config.seed) for name, model in models.items()}
    classes = list(taken.classes)
    for name, model in models.items():
        agents[name]["confusion"] = confusion(model, split, adversarial[name], classes=len(classes))
    return {
        "run": folder.path.name,
        "checkpoint": checkpoint,
        "threat": str(threat),
        "attack": ATTACK,
        "n": count,
        "n_test": len(test),
        "seed": config.seed,
        "classes": classes,
        "agents": agents,
        "cross": cross_matrix(models, split, adversarial),
        "gallery": gallery(models, split, adversarial, threat),
    }


def _held(model: nn.Module, split: Split, threat: Threat, seed: int) -> float:
    """Accuracy under the report's attack with another radius."""
    result = evaluate_model(model, split, attacks=[ATTACK], threats=[threat], seed=seed, block=256)
    return result.robust_accuracy or 0.0


def affordable(models: list[nn.Module], test: Split, threat: Threat) -> int:
    """How many test images to use: all of a small test split, else as many as fit the budget by a measured attack."""
    if len(test) <= ALWAYS:
        return len(test)
    probe = test[torch.arange(16)]
    passes = len(models) * (1 + STEPS * (len(CURVE) + 2))
    craft(models[0], probe, threat, seed=0, steps=2)  # the first call of every kernel is slow
    started = time.perf_counter()
    craft(models[0], probe, threat, seed=0, steps=2)
    per_image = (time.perf_counter() - started) / 2 / len(probe)
    return max(32, int(BUDGET / max(per_image * passes, 1e-9)))


def spread_out(split: Split, count: int) -> Tensor:
    """Positions evenly over the split, which may be sorted by class."""
    return torch.arange(count) * len(split) // count


def craft(model: nn.Module, split: Split, threat: Threat, *, seed: int, steps: int = STEPS) -> Tensor:
    """Adversarial examples of a network, wherever it is, on every image: [n, C, H, W], on the CPU."""
    out, device = [], device_of(model)
    attack = Attack(norm=threat.norm, eps=threat.eps, steps=steps)
    with judged(model):
        for start in range(0, len(split), 256):
            part = split[torch.arange(start, min(start + 256, len(split)))]
            x, y = part.pixels().to(device), part.all_labels().to(device)
            # as evaluate_model in blocks of 256, to the same examples
            rng, by = generator(seed, f"scaled-pgd-{steps}", start // 256, 0, device=device), faster(model, x)
            out.append(run(attack, lambda z, y=y, by=by: scaled_cross_entropy(by(z), y), x, rng=rng).cpu())  # type: ignore[misc]
    return torch.cat(out)


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes [n], in eval mode, on the CPU."""
    device = device_of(model)
    with judged(model), torch.no_grad():
        return torch.cat([model(part.to(device)).argmax(1).cpu() for part in torch.split(x, 256)])


def cross_matrix(models: dict[str, nn.Module], split: Split, adversarial: dict[str, Tensor]) -> dict[str, Any]:
    """A[i][j]: accuracy of agent i on the examples crafted on agent j."""
    y = split.all_labels()
    names = list(models)
    hits = [[int((predict(models[i], adversarial[j]) == y).sum()) for j in names] for i in names]
    return {
        "agents": names,
        "accuracy": [[h / len(y) for h in row] for row in hits],
        "ci95": [[wilson(h, len(y)) for h in row] for row in hits],
    }


def cross(models: dict[str, nn.Module], split: Split, threat: Threat, *, seed: int) -> dict[str, Any]:
    """Every network on the examples crafted on every other, as a report says it."""
    adversarial = {name: craft(model, split, threat, seed=seed) for name, model in models.items()}
    return {"threat": str(threat), "attack": ATTACK, **cross_matrix(models, split, adversarial)}


def confusion(model: nn.Module, split: Split, adv: Tensor, *, classes: int) -> dict[str, list[list[int]]]:
    """Counts [label][prediction] on clean and on adversarial images."""
    y = split.all_labels()

    def counts(predicted: Tensor) -> list[list[int]]:
        table: list[list[int]] = (
            torch.bincount(y * classes + predicted, minlength=classes**2).view(classes, classes).tolist()
        )
        return table

    return {"clean": counts(predict(model, split.pixels())), "adversarial": counts(predict(model, adv))}


def gallery(
    models: dict[str, nn.Module], split: Split, adversarial: dict[str, Tensor], threat: Threat
) -> dict[str, Any]:
    """A few images per agent: clean and adversarial pixels and predictions; also after rounding to 8 bits.

    An image that is stored or shown has 8 bits per channel, so the report says what remains of an attack after rounding.
    """
    x, y = split.pixels(), split.all_labels()
    shown: dict[str, Any] = {}
    for name, model in models.items():
        adv = adversarial[name]
        rounded = (adv * 255).round() / 255
        clean_p, adv_p, rounded_p = (predict(model, images) for images in (x, adv, rounded))
        right = clean_p == y
        lost = (right & (adv_p != y)).nonzero().squeeze(1)[: GALLERY // 2]
        held = (adv_p == y).nonzero().squeeze(1)[: GALLERY - len(lost)]
        chosen = torch.cat([lost, held])  # fooled ones first
        shown[name] = {
            "fooled": (right & (adv_p != y)).double().mean().item(),
            "fooled_after_rounding": (right & (rounded_p != y)).double().mean().item(),
            "largest": BALLS[threat.norm].length(adv - x).max().item(),
            "images": [
                {
                    "label": int(y[i]),
                    "clean": to_bytes(x[i]),
                    "adversarial": to_bytes(adv[i]),
                    "predicted_clean": int(clean_p[i]),
                    "predicted_adversarial": int(adv_p[i]),
                    "predicted_rounded": int(rounded_p[i]),
                }
                for i in chosen.tolist()
            ],
        }
    return shown


def to_bytes(image: Tensor) -> list[list[list[int]]]:
    """[C, H, W] in [0, 1] -> rows of pixels of 0..255."""
    rows: list[list[list[int]]] = (image * 255).round().to(torch.int64).permute(1, 2, 0).tolist()
    return rows
