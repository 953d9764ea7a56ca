"""Which images a number is of: subsets, splits and evaluations that are not what their name says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import sparring as api
from sparring.cluster.models.examples import Examples, load_test
from sparring.trainers.config import DataConfig
from sparring.trainers.data import evaluation_order
from tests.conftest import Command
from tests.helpers import small_flags

NETWORKS = """
import torch
from torch import nn

class Always(nn.Module):
    def __init__(self, k, classes):
        super().__init__()
        self.k, self.classes = k, classes
    def forward(self, x):
        out = 0.001 * x.flatten(1)[:, : self.classes]
        return out + 5.0 * nn.functional.one_hot(torch.full((len(x),), self.k), self.classes)

def zero():
    return Always(0, 4)

def three():
    return Always(0, 3)
"""


@pytest.fixture
def sorted_images(tmp_path: Path) -> Path:
    """Four classes of bright and dark noise, 30 training and 100 test images each, in folders: sorted by class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 100)):
        for k, name in enumerate(("ant", "bee", "cat", "dog")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = 30 + 50 * k + rng.integers(0, 30, (8, 8, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
    (tmp_path / "nets.py").write_text(NETWORKS)
    return tmp_path / "images"


def test_a_part_of_a_sorted_test_set_has_its_classes(sorted_images: Path, sparring: Command) -> None:
    """RobustBench/robustbench#56, #47, #73: the first images of a test set sorted by class are of one class."""
    flags = ("--data.name=folder", f"--data.root={sorted_images}", "--attacks=clean,fgsm", "--threat=linf:0.02")
    some = json.loads(sparring("evaluate", "nets.py:zero", *flags, "--examples=100", "--json").stdout)
    assert some["clean_accuracy"] == 0.25
    first = json.loads(sparring("evaluate", "nets.py:zero", *flags, "--examples=first:100", "--json").stdout)
    assert first["clean_accuracy"] == 1.0
    recorded = json.loads((Path(first["report"]).parent / "settings.json").read_text())
    assert recorded["examples"] == "first:100"
    for report in (some, first):
        assert sparring("verify", str(Path(report["report"]).parent)).returncode == 0


def test_the_order_is_one_and_every_prefix_has_the_proportions() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = evaluation_order(labels)
    assert sorted(order.tolist()) == list(range(100))
    for n in (10, 20, 50, 90):
        counts = torch.bincount(labels[order[:n]], minlength=3)
        assert (counts - n * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 1
    assert torch.equal(order, evaluation_order(labels))


def test_a_split_is_the_same_whole_or_chosen_whole() -> None:
    """An evaluation of all images was called altered: a whole split and a chosen one were hashed in two ways."""
    whole = load_test(DataConfig())
    assert whole[torch.arange(len(whole))].sha256 == whole.sha256
    assert load_test(DataConfig(), Examples(len(whole), first=True)).sha256 == whole.sha256
    assert load_test(DataConfig(), Examples(len(whole) - 1, first=True)).sha256 != whole.sha256


@pytest.mark.parametrize("workers", [0, *(pytest.param(w, marks=pytest.mark.soak) for w in (1, 2))])
def test_an_untouched_evaluation_passes(workers: int, sparring: Command, ray_session: str) -> None:
    """All images, some, of a run and of a published model."""
    flags = [*small_flags(max_steps=4), "--team=local", "--no-report", "--quiet"]
    assert sparring("train", "at", *flags, "--name=r").returncode == 0
    assert sparring("publish", "runs/r", "--as=m", "--quiet").returncode == 0
    for name, more in (("runs/r", ()), ("runs/r", ("--examples=50",)), ("models/m", ())):
        asked = ("--attacks=clean,fgsm", f"--workers={workers}", "--masking=0", "--json", *more)
        report = json.loads(sparring("evaluate", name, *asked).stdout)["report"]
        done = sparring("verify", str(Path(report).parent))
        assert done.returncode == 0, done.stdout


def test_an_entry_named_twice_counts_once(sparring: Command) -> None:
    """garrytan/gbrain#4607, lorenzkuhn/semantic_uncertainty#8; and the command and the API say the same."""
    flags = [*small_flags(max_steps=30), "--team=local", "--no-report", "--quiet"]
    assert sparring("train", "at", *flags, "--name=r").returncode == 0
    twice = ("--threat=linf:0.15", "--threat=linf:0.150", "--attacks=clean, fgsm,fgsm", "--examples=64")
    said = json.loads(sparring("evaluate", "runs/r", *twice, "--checkpoint=last", "--masking=0", "--json").stdout)
    model = api.load("runs/r", checkpoint="last")
    result = api.evaluate(
        model, "digits", attacks=["clean", "fgsm", "fgsm"], threats=["linf:0.15", "linf:0.150"], examples=64
    )
    assert said["n"] == result.n == 64
    assert said["robust_accuracy"] == result.robust_accuracy
    assert tuple(said["ci95"]) == result.ci95
    assert said["threats"].keys() == result.threats.keys() == {"linf:0.15"}


def test_what_a_run_brings_itself_cannot_be_said_otherwise(sorted_images: Path, sparring: Command) -> None:
    """microsoft/winml-cli#530, openpifpaf/openpifpaf#597: a flag that is ignored without a word."""
    flags = [*small_flags(max_steps=2), "--team=local", "--no-report", "--quiet"]
    assert sparring("train", "at", *flags, "--name=r").returncode == 0
    assert sparring("publish", "runs/r", "--as=m", "--quiet").returncode == 0
    for name in ("runs/r", "models/m"):
        for flag in ("--data.name=folder", "--network=resnet18", "--mapping=x.yaml"):
            done = sparring("evaluate", name, flag, "--attacks=clean")
            assert done.returncode == 2
            assert f"{flag.partition('=')[0]} cannot be obeyed" in done.stderr


def test_networks_of_other_classes_are_refused(sorted_images: Path, sparring: Command) -> None:
    """hendrycks/natural-adv-examples#15, Harry24k/adversarial-attacks-pytorch#188: three outputs for four classes."""
    flags = ("--data.name=folder", f"--data.root={sorted_images}", "--attacks=clean", "--threat=linf:0.02")
    done = sparring("evaluate", "nets.py:three", *flags, "--examples=first:50")
    assert done.returncode == 2
    assert "nets tells 3 classes apart, the data set has 4" in done.stderr
    with pytest.raises(ValueError, match="tells 4 classes apart, the data set has 10"):
        api.evaluate(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), "digits", threats=["linf:0.1"])


def test_another_split_than_at_the_runs_start_is_refused(sorted_images: Path, sparring: Command) -> None:
    """aiqm/torchani#443, mahmoodlab/CLAM#269: the split was made anew, and training images lie among the test images."""
    flags = ["--data.name=folder", f"--data.root={sorted_images}", "--team=local", "--no-report", "--quiet"]
    assert sparring("train", "at", *small_flags(max_steps=4), *flags, "--name=r").returncode == 0
    env = json.loads(Path("runs/r/env.json").read_text())["images"]
    assert {"train", "held_out", "test", "cache"} == set(env)
    asked = ("evaluate", "runs/r", "--attacks=clean,fgsm", "--masking=0")
    before = sparring(*asked, "--json")
    assert before.returncode == 0, before.stderr
    assert (
        json.loads((Path(json.loads(before.stdout)["report"]).parent / "settings.json").read_text())["trained_on"]
        == env
    )
    assert sparring("publish", "runs/r", "--as=m", "--quiet").returncode == 0
    for name in ("ant", "bee", "cat", "dog"):
        for i in range(10):
            (sorted_images / "train" / name / f"{i:03d}.png").rename(sorted_images / "test" / name / f"new-{i}.png")
    for target in ("runs/r", "models/m"):
        refused = sparring("evaluate", target, *asked[2:])
        assert refused.returncode == 4, refused.stderr
        assert "400 then, 440 now, and 40 of these were training images" in refused.stderr
        assert "add --allow-other-images" in refused.stderr
    assert sparring("report", "runs/r").returncode == 4
    allowed = sparring(*asked, "--allow-other-images")
    assert allowed.returncode == 0, allowed.stderr
    assert "note, model: the test images of folder in " in allowed.stdout
    assert "40 of these were training images" in allowed.stdout


def test_corruptions_of_the_same_examples(tmp_path: Path, sparring: Command) -> None:
    """hendrycks/robustness#21, #57, RobustBench/robustbench#116: in the table with n and interval, on the chosen images."""
    flags = [*small_flags(max_steps=30), "--team=local", "--no-report", "--quiet"]
    assert sparring("train", "at", *flags, "--name=r").returncode == 0
    test = load_test(DataConfig())
    images, labels = (a.numpy() for a in test.take(slice(None)))
    root = tmp_path / "digits-c"
    root.mkdir()
    severities = [(images // (1 + s)).astype(np.uint8) for s in range(5)]
    np.save(root / "dark.npy", np.concatenate(severities))
    np.save(root / "labels.npy", np.tile(labels, 5))
    asked = ("evaluate", "runs/r", "--attacks=clean", "--examples=64", f"--data.corruption-root={root}")
    done = sparring(*asked)
    assert done.returncode == 0, done.stderr
    report = json.loads(sparring(*asked, "--json").stdout)
    found = report["agents"]["model"]["corruptions"]["dark"]
    assert found["n"] == 64
    assert found["by_severity"][0] == report["clean_accuracy"]  # the first severity changes nothing
    assert found["accuracy"] == pytest.approx(sum(found["by_severity"]) / 5)
    model, chosen = api.load("runs/r"), load_test(DataConfig(), 64)
    for s, accuracy in enumerate(found["by_severity"]):
        x = torch.from_numpy(severities[s])[chosen.rows].permute(0, 3, 1, 2) / 255
        assert accuracy == (model(x).argmax(1) == chosen.all_labels()).double().mean().item()
    assert "accuracy under corruptions, mean of 5 severities" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("dark"))
    assert row.split()[1] == "64"
    assert "[" in row
    np.save(root / "labels.npy", np.tile(labels[::-1], 5))
    wrong = sparring(*asked)
    assert wrong.returncode == 4
    assert "they are of other images, or in another order" in wrong.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one agent on digits."""
    from sparring.cluster.training import launch
    from sparring.cluster.training.job import Circumstances
    from tests.helpers import small

    config = small("at", team="local", max_steps=30)
    return launch.train(config, runs_dir=tmp_path_factory.mktemp("runs"), name="r", how=Circumstances(quiet=True)).path


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    attacks=st.lists(st.sampled_from(["clean", "fgsm", "pgd-2", "margin-pgd-2", "square-5"]), min_size=1, max_size=3),
    threats=st.lists(st.sampled_from(["linf:0.1", "l2:0.5", "linf:0.10", "l1:3"]), min_size=1, max_size=2),
    examples=st.one_of(st.integers(1, 40), st.integers(1, 40).map(lambda n: f"first:{n}")),
)
def test_the_command_and_the_api_say_the_same(
    attacks: list[str], threats: list[str], examples: int | str, trained: Path, sparring: Command
) -> None:
    """Whatever is asked: every number of the report is that of ``sparring.evaluate``, n and intervals too."""
    flags = [*(f"--threat={t}" for t in threats), f"--examples={examples}"]
    done = sparring("evaluate", str(trained), f"--attacks={','.join(attacks)}", *flags, "--masking=0", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    result = api.evaluate(api.load(trained), "digits", attacks=attacks, threats=threats, examples=examples)
    found = json.loads(json.dumps(result.to_dict()))
    for key in ("n", "clean_accuracy", "clean_ci95", "robust_accuracy", "ci95", "threats", "w_robust"):
        assert said[key] == found[key], key
