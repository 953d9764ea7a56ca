"""Images that are no squares, and very small ones, under every norm and attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparring.cluster.evaluation.direct import evaluate_model
from sparring.cluster.evaluation.named_attacks import left_out
from sparring.trainers.autoattack.reference import squares_laid
from sparring.trainers.config import Threat
from sparring.trainers.data import Split
from sparring.trainers.rng import seeded
from tests.helpers import shorten_autoattack

SIZES = [(28, 20), (20, 28), (4, 4), (1, 64), (64, 1), (5, 9)]
THREATS = {"linf": Threat("linf", 0.1), "l2": Threat("l2", 0.5), "l1": Threat("l1", 2.0)}


def some(height: int, width: int, *, n: int = 4) -> tuple[torch.nn.Module, Split]:
    """A linear network that is right on its images by a little: every attack has something to break."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(90, 160, (n, height, width, 1), dtype=np.uint8))
    with seeded("shapes"):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(height * width, 10)).eval()
    with torch.no_grad():
        y = model(x.permute(0, 3, 1, 2) / 255).argmax(1)
    return model, Split(x, y)


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_attack(size: tuple[int, int], norm: str) -> None:
    model, split = some(*size)
    attacks = ["clean", "fgsm", "pgd-3", "margin-pgd-3", "square-20"]
    result = evaluate_model(model, split, attacks=attacks, threats=[THREATS[norm]])
    assert result.n == 4
    assert set(result.threats[str(THREATS[norm])]["attacks"]) == set(attacks)
    assert not result.notes


@pytest.mark.parametrize(
    ("norm", "size"), [("l2", (28, 20)), ("l1", (1, 64)), ("linf", (4, 4)), ("l2", (4, 4))], ids=str
)
def test_autoattack(norm: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours in all its parts; its authors' code with Square transposed or left out, and that said."""
    shorten_autoattack(monkeypatch)
    model, split = some(*size, n=2)
    result = evaluate_model(model, split, attacks=["autoattack", "autoattack-reference"], threats=[THREATS[norm]])
    assert result.n == 2
    assert [note.partition(" under")[0] for note in result.notes] == (
        ["autoattack-reference runs without Square"] if squares_laid(norm, size) is None else []
    )


def test_how_squares_are_laid() -> None:
    right = ["transposed", "as it is", None, None, None, "as it is"]
    assert [squares_laid("l2", size) for size in SIZES] == right
    assert squares_laid("l1", (14, 20)) == "transposed"
    assert {squares_laid("linf", size) for size in SIZES} == {"as it is"}
    assert {squares_laid("l2", (n, n)) for n in (5, 8, 28, 32, 64, 224)} == {"as it is"}
    attacks = ["square-9", "pgd-3", "autoattack", "autoattack-reference"]
    assert left_out(attacks, list(THREATS.values()), (4, 4)) == [
        f"autoattack-reference runs without Square under {norm} on images of 4x4: its squares do not fit there; not comparable"
        for norm in ("l2", "l1")
    ]


def test_square_stays_in_the_ball() -> None:
    from sparring.cluster.evaluation.block import inside
    from sparring.cluster.evaluation.named_attacks import Block, parse

    model, split = some(28, 20)
    x, y = split.pixels(), split.all_labels()
    options: dict[str, Any] = {"threat": Threat("l2", 12.0)}
    adv = parse("square-60", **options)(model, Block(x, y, 0, 0), model)
    assert adv.shape == x.shape
    assert inside(adv, x, options["threat"]).all()
    assert not torch.equal(adv, x)
