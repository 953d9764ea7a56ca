"""Recipes: each method's takes two steps, a teacher is trained on demand, published settings stand beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.cluster.config.published_imagenet import IMAGENET
from sparring.cluster.config.recipes import PUBLISHED, RECIPES, needs, recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.training import on_demand
from sparring.trainers import methods
from sparring.trainers.optim import when
from tests import recipes_check
from tests.conftest import Command
from tests.helpers import small, small_flags


@pytest.mark.soak
@pytest.mark.parametrize("method", methods.names())
def test_two_steps(method: str, tmp_path: Path) -> None:
    assert recipes_check.check(f"{method}-cifar10-short", tmp_path).startswith("2 steps, ")


@pytest.mark.soak
def test_the_largest_is_built(tmp_path: Path) -> None:
    said = recipes_check.check("trades-cifar100-wrn-70-16", tmp_path)
    assert said == "built, 266,888,756 parameters, one forward pass"


@pytest.mark.soak
@pytest.mark.parametrize("name", IMAGENET)
def test_two_steps_on_a_stand_in_for_imagenet(name: str, tmp_path: Path) -> None:
    assert recipes_check.check(name, tmp_path).startswith("2 steps, ")


@pytest.mark.parametrize("name", IMAGENET)
def test_planned_on_a_stand_in_for_imagenet(name: str, sparring: Command) -> None:
    config = recipe(name)
    assert (config.data.size, config.data.middle, config.data.augment) == (224, 0.875, "resized-crop")
    assert "linf:0.0156863" in map(str, config.threats)
    flags = ["--data.name=generated:40", "--data.cache=c", "--data.size=16", "--batch-size=4", "--team=local"]
    peer = ["--agents.peer.network=small_cnn:width=4"] if "agents.peer.network" in IMAGENET[name].changes else []
    done = sparring("train", name, *flags, *peer, "--network=small_cnn:width=4", "--loader.workers=0", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "The plan" in done.stdout
    assert not Path("runs").exists()


def test_where_numbers_are_from_is_shown(sparring: Command) -> None:
    shown = sparring("recipes", "at-imagenet-xcit_small_12_p16_224").stdout
    assert "# published: clean 72.34, AutoAttack 41.78 (RobustBench)\n" in shown
    assert "# source: Debenedetti et al., arXiv 2209.07399; code dedeswim/vits-robustness-torch" in shown
    assert "# differs: the radius is whole from the beginning; the source lets it grow over 10 epochs\n" in shown
    assert all(setting.source and setting.differs for setting in IMAGENET.values())


def test_imagenet_as_its_sources_have_it() -> None:
    """ARES: resnet50.yaml; revisiting-at: main.py, AA_eval.py; vits-robustness-torch: xcit-adv-training.yaml, 1.5 eps / steps."""
    resnet, convnext, xcit = (recipe(name) for name in list(IMAGENET)[:3])
    assert (resnet.epochs, resnet.batch_size, resnet.optim.lr, resnet.optim.ema) == (95, 512, 0.2, 0.9998)
    assert (resnet.attack.steps, resnet.attack.length * 255) == (3, pytest.approx(8 / 3))
    assert (convnext.optim.betas, convnext.optim.weight_decay, convnext.optim.ema) == ((0.9, 0.95), 0.05, 0.9999)
    assert (convnext.data.transforms.mixup, convnext.data.transforms.cutmix) == (0.8, 1.0)
    assert (xcit.optim.weight_decay, xcit.attack.length) == (0.5, pytest.approx(1.5 * 4 / 255))
    several = recipe("mat_multi-imagenet-convnext_tiny")
    assert {p: a.eps for p, a in several.attacks.items()} == {"linf": 4 / 255, "l2": 2.0, "l1": 75.0}


@pytest.mark.parametrize("name", RECIPES)
def test_needs_are_recipes_on_the_same_images(name: str) -> None:
    config = recipe(name)
    assert config.recipe == name
    for teacher in needs(config).values():
        assert recipe(teacher).data.name == config.data.name
        assert not needs(recipe(teacher))


@pytest.mark.parametrize(
    ("name", "epochs", "rates"),
    [
        ("mtard-cifar10-resnet18", 300, {214: 0.1, 215: 0.01, 259: 0.01, 260: 1e-3, 285: 1e-4}),
        ("peeraid-cifar100-resnet18", 300, {213: 0.1, 214: 0.01, 258: 0.01, 259: 1e-3, 283: 1e-3, 284: 1e-4}),
        ("peeraid-tiny-imagenet-resnet18", 200, {98: 0.1, 99: 0.01, 149: 1e-3}),
        ("peeraid-tiny-imagenet-wrn-34-10", 100, {48: 0.1, 49: 0.01, 79: 1e-3}),
        ("trades-cifar10-wrn-34-10", 76, {73: 0.1, 74: 0.01, 75: 0.01}),
        ("ard-cifar10-resnet18", 200, {99: 0.1, 100: 0.01, 199: 0.01}),
        ("adaad-cifar10-resnet18", 200, {99: 0.1, 100: 0.01, 150: 1e-3}),
        ("msd-cifar10-preact_resnet18", 50, {0: 0.0, 10: 0.05, 20: 0.1, 40: 0.005, 45: 0.0025}),
    ],
)
def test_published_learning_rates(name: str, epochs: int, rates: dict[int, float]) -> None:
    """By epoch, counted from 0, at its first step."""
    config = recipe(name)
    assert config.epochs == epochs
    for epoch, rate in rates.items():
        at = when(config.optim, epoch * 10, steps_per_epoch=10, total_steps=epochs * 10)
        assert config.optim.lr * at.lr_scale == pytest.approx(rate)


def test_published_options() -> None:
    peeraid = recipe("peeraid-tiny-imagenet-resnet18")
    chosen = {k: getattr(peeraid.method, k) for k in ("temperature", "gamma2", "lambda1", "lambda2", "lambda3")}
    assert chosen == {"temperature": 1.0, "gamma2": 100.0, "lambda1": 0.035, "lambda2": 35.0, "lambda3": 20.0}
    assert peeraid.agents["student"].optim.over(peeraid.optim).swa
    assert not peeraid.optim.swa  # the peer's weights are not averaged
    assert recipe("trades-cifar10-wrn-34-10").attack.eps == 0.031
    assert recipe("lbgat-cifar100-wrn-34-10").agents["guide"].network == "resnet18_lbgat"
    assert set(PUBLISHED) <= set(RECIPES)


def test_a_recipe_is_shown_with_its_teachers_and_results(sparring: Command) -> None:
    shown = sparring("recipes", "mtard-cifar100-resnet18").stdout
    assert "# needs robust_teacher: trades-cifar100-wrn-70-16\n" in shown
    assert "# published: clean 65.08, PGD-20 28.50, AutoAttack 23.98" in shown
    Path("a.yaml").write_text(shown)
    done = sparring("train", "-c", "a.yaml", "--dry-run")
    assert done.returncode == 2
    assert "Add --train-teachers to train clean-cifar100-wrn-22-6 first" in done.stderr


def test_teachers_on_demand(sparring: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained once into the folder of runs, found again by the next run; one that is given is taken."""

    def short(name: str) -> RunConfig:
        return small(name, max_steps=3, team="local") if name in ("at-digits", "clean-digits") else real(name)

    real = on_demand.recipe
    monkeypatch.setattr(on_demand, "recipe", short)
    flags = [*small_flags(max_steps=2), "--team=local", "--no-report", "--train-teachers"]
    assert sparring("train", "mtard", *flags, "--dry-run").returncode == 2
    assert not Path("runs").exists()  # a dry run trains nothing
    done = sparring("train", "mtard", *flags, "--name=a")
    assert done.returncode == 0, done.stderr
    assert "robust_teacher: training at-digits" in done.stderr
    assert {p.name for p in Path("runs").iterdir()} == {"a", "at-digits-teacher", "clean-digits-teacher"}
    done = sparring("train", "rslad", *flags, "--name=b")
    assert done.returncode == 0, done.stderr
    assert "runs/at-digits-teacher is complete already" in done.stderr
    assert sparring("train", "rslad", *flags, "--agents.teacher.init=runs/a", "--name=c").returncode == 0
