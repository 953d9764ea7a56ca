"""A run as a value: YAML and back, overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import RECIPES, recipe
from sparring.trainers.datasets import Prepared
from tests.helpers import small


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_yaml_round_trip(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    (tmp_path / "run.yaml").write_text(run_config.dump(config))
    assert run_config.load(tmp_path / "run.yaml") == config


def test_a_file_without_a_measure_keeps_the_old_one(tmp_path: Path) -> None:
    """Runs and searches from before ``checkpoint.attack`` go on as they were compared; new ones say what they are compared by."""
    config = recipe("mat")
    assert config.measure.loss == "scaled-pgd"
    values = config.to_dict()
    del values["checkpoint"]["attack"]
    assert run_config.RunConfig.from_dict(values).measure.loss == "pgd"
    (tmp_path / "run.yaml").write_text("method: at\n")
    assert run_config.load(tmp_path / "run.yaml").checkpoint.name == "pgd-10"
    assert "attack: scaled-pgd" in run_config.dump(config)


WRITTEN = {  # sha256 of configurations, as they stand in manifests of runs from before optim.clip, optim.decay and others
    "at": "2f0468907e0f1e5439ca2530de7fe36944af8d20d4c5dec5f8f4811319ac4c14",
    "mat": "f55fa5f85dc4a6393d07f6bc359b3490c59cc9828b54d1dd56b5d7c116a4c8ba",
    "n_fgsm": "6cb2937c50f03e1415534e9fe568d2c4772ded65fcb96cfde6eeebb96e35c8cf",
    "clean": "c5358da2426389acdde0be21b7852c9f5b7f09931c5c44fafc189e9db7f1647f",
}
LATER = {
    "optim.betas": [0.9, 0.95],
    "optim.eps": 1e-6,
    "optim.decay": "weights",
    "optim.clip": 1.0,
    "optim.layer_decay": 0.75,
    "optim.min_lr": 0.001,
    "data.middle": 0.875,
    "method.label_smoothing": 0.1,
    "agents.model.optim.clip": 0.0,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_later_settings_that_are_not_used_leave_the_hash(name: str) -> None:
    """What a run's manifests say of its configuration stays true."""
    own = {"agents.peer1.optim.lr": 0.05} if name == "mat" else {}
    config = recipe(f"{name}-digits").replace(own)
    assert config.sha256 == WRITTEN[name]
    values = config.to_dict()
    for path in LATER:
        section, setting = path.split(".")[0], path.split(".")[-1]
        values[section].pop(setting, None)
    assert run_config.RunConfig.from_dict(values) == config


@pytest.mark.parametrize("path", LATER)
def test_a_later_setting_that_is_used_changes_it(path: str) -> None:
    assert recipe("at-digits").replace({path: LATER[path]}).sha256 != WRITTEN["at"]


def test_one_agents_optimiser() -> None:
    own = {path.removeprefix("optim."): value for path, value in LATER.items() if path.startswith("optim.")}
    own |= {"name": "lamb", "clip": 0.5, "betas": (0.9, 0.95)}
    config = recipe("mat").replace({"optim.clip": 1.0} | {f"agents.peer1.optim.{k}": v for k, v in own.items()})
    first, second = config.specs(Prepared("cache", "key"))
    assert (first.optim.clip, first.optim.name, first.optim.decay) == (1.0, "sgd", "all")
    assert {name: getattr(second.optim, name) for name in own} == own


def test_overrides_by_path() -> None:
    config = recipe("mat").replace({"attack.eps": "8/255", "peers": 3, "epochs": 2, "optim.milestones": [1, 2]})
    assert config.attack.eps == 8 / 255
    assert list(config.method.roles()) == ["peer0", "peer1", "peer2"]
    assert config.optim.milestones == (1, 2)
    assert recipe("mat").epochs == 40  # the recipe itself stays


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("atack.eps", 0.1, "atack.eps is not a setting; did you mean 'attack'?"),
        ("attack.epss", 0.1, "attack.epss is not a setting; did you mean 'eps'?"),
        ("method.temprature", 2, "method.temprature is not a setting; did you mean 'temperature'?"),
        ("epochs", "many", "epochs = 'many' is not allowed; expected a whole number"),
        ("epochs", 1.5, "epochs = 1.5 is not allowed; expected a whole number"),
        ("attack.eps", "8/x", "attack.eps: '8/x' is not a number; write for example 0.03 or 8/255"),
        ("attack.eps", True, "attack.eps = True is not allowed; expected a number"),
        ("attack.eps", 8, "eps = 8 exceeds the pixel range"),
        ("team", "spark", "team = 'spark' is not allowed; expected one of ray, local"),
        ("batch_size", 0, "batch_size = 0 must be >= 1"),
        ("checkpoint.every", 0, "checkpoint.every = 0 must be >= 1"),
        ("peers", 0, "method.peers = 0 must be >= 1"),
        ("data.validation", 1.0, "data.validation = 1.0 must lie between 0 and 1"),
    ],
)
def test_refusals_say_what_is_allowed(path: str, value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        recipe("mat").replace({path: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: !!python/object/apply:os.system [ls]", "is not plain YAML"),
        ("- a\n- b", "must hold a mapping"),
        ("epochs: 2", "expected a mapping with a name"),
        ("method: matt", "Did you mean 'mat'?"),
        ("method: {name: mat, peeers: 2}", "did you mean 'peers'?"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        run_config.load(tmp_path / "run.yaml")
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="does not exist"):
        run_config.load(tmp_path / "missing.yaml")


def test_unknown_recipe_suggests() -> None:
    with pytest.raises(ValueError, match=r"'mat-digit' is unknown\. Did you mean 'mat-digits'\?"):
        recipe("mat-digit")


def test_specs_are_one_per_role_in_order() -> None:
    specs = small("mat", peers=3).specs(Prepared("cache", "key"))
    assert [(s.me, s.index) for s in specs] == [("peer0", 0), ("peer1", 1), ("peer2", 2)]
    assert specs[0].make_method() == small("mat", peers=3).method
