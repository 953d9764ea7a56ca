"""Evaluation of runs: attacks by name, threats, the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.agents.robustness import wilson
from sparring.cluster.errors import DataError, Exists, UsageError
from sparring.cluster.evaluation.direct import evaluate_model
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.evaluation.named_attacks import gradient_attack
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.attacks import frozen, run
from sparring.trainers.config import Attack, DataConfig, Threat
from sparring.trainers.data import to_pixels
from sparring.trainers.losses import cross_entropy
from sparring.trainers.rng import generator
from tests.helpers import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = small("mat", team="local", max_steps=60, network="small_cnn:width=8", checkpoint__every=60)
    return RunFolder(launch.train(config, runs_dir=tmp_path_factory.mktemp("runs"), how=Circumstances(quiet=True)).path)


def test_report_equals_a_direct_computation(folder: RunFolder) -> None:
    """Per example and attack by hand, on the images of one block."""
    report = evaluate_run(
        folder, attacks=["clean", "fgsm", "pgd-3"], threats=["linf:0.1", "l2:0.6"], examples=100, name="x", block=100
    )
    split = load_test(DataConfig(), 100)
    for agent, result in report["agents"].items():
        model, _ = load_agent(folder, agent)
        x, y = split.pixels(), split.all_labels()
        clean = model(x).argmax(1) == y
        union = clean
        for threat, norm, eps in (("linf:0.1", "linf", 0.1), ("l2:0.6", "l2", 0.6)):
            worst = clean
            for name, attack in (
                ("fgsm", Attack(kind="fgsm", norm=norm, eps=eps)),
                ("pgd-3", Attack(norm=norm, eps=eps, steps=3)),
            ):
                with frozen(model):
                    rng = generator(0, name, 0, 0)
                    adv = run(attack, lambda z, m=model, y=y: cross_entropy(m(z), y), x, rng=rng)  # type: ignore[misc]
                hits = clean & (model(adv).argmax(1) == y)
                assert result["threats"][threat]["attacks"][name] == pytest.approx(hits.double().mean().item())
                worst = worst & hits
            assert result["threats"][threat]["robust_accuracy"] == pytest.approx(worst.double().mean().item())
            union = union & worst
        assert result["robust_accuracy"] == pytest.approx(union.double().mean().item())
        assert result["clean_accuracy"] == pytest.approx(clean.double().mean().item())
        assert result["ci95"] == wilson(int(union.sum()), 100)
        assert result["n"] == 100
    mean = sum(r["robust_accuracy"] for r in report["agents"].values()) / 2
    assert report["robust_accuracy"] == pytest.approx(mean)
    assert report["mean_of"] == ["peer0", "peer1"]
    assert (
        json.loads((folder.path / "evaluation" / "x" / "report.json").read_text())["agents"].keys()
        == report["agents"].keys()
    )


def test_threat_defaults_to_the_runs_own_and_results_repeat(folder: RunFolder) -> None:
    first = evaluate_run(folder, attacks=["pgd-2"], examples=50)
    again = evaluate_run(folder, attacks=["pgd-2"], examples=50)
    assert list(first["threats"]) == ["linf:0.15"]
    assert first["agents"] == again["agents"]
    assert first["report"] != again["report"]


def test_more_attack_is_never_less(folder: RunFolder) -> None:
    model, _ = load_agent(folder, "peer0")
    split, threats = load_test(DataConfig()), [Threat("linf", e) for e in (0.05, 0.1, 0.2)]
    result = evaluate_model(model, split, attacks=["clean", "pgd-10"], threats=threats)
    curve = [result.threats[str(t)]["robust_accuracy"] for t in threats]
    assert result.clean_accuracy >= curve[0] >= curve[1] >= curve[2] == result.robust_accuracy


def test_refusals(folder: RunFolder) -> None:
    with pytest.raises(UsageError, match=r"attack 'pdg-20' is unknown; allowed: clean, fgsm, pgd-K"):
        evaluate_run(folder, attacks=["pdg-20"])
    with pytest.raises(UsageError, match=r"has no agent 'peer7'; it has: peer0, peer1"):
        evaluate_run(folder, attacks=["fgsm"], agents=["peer7"])
    with pytest.raises(UsageError, match=r"--examples 5000 is not allowed; the test split has 1 to 364"):
        evaluate_run(folder, attacks=["fgsm"], examples=5000)
    with pytest.raises(UsageError, match=r"has 2 products; name one: peer0, peer1"):
        load_agent(folder)
    with pytest.raises(DataError, match=r"data\.name = 'cifra' is unknown"):
        load_test(DataConfig(name="cifra"))
    with pytest.raises(ValueError, match="exceeds the pixel range"):
        evaluate_run(folder, attacks=["fgsm"], threats=["linf:8"])
    evaluate_run(folder, attacks=["clean"], examples=5, name="once")
    with pytest.raises(Exists, match="is never overwritten"):
        evaluate_run(folder, attacks=["clean"], examples=5, name="once")


def test_attack_names() -> None:
    threat = Threat("l2", 0.5)
    assert gradient_attack("pgd-20", threat)[0] == Attack(norm="l2", eps=0.5, steps=20)
    assert gradient_attack("pgd-20x5", threat)[0].restarts == 5
    assert gradient_attack("margin-pgd-30", threat)[1].__name__ == "margin"
    assert gradient_attack("fgsm", threat)[0].length == 0.5


def test_probabilities_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Softmax(1))
    with pytest.raises(ValueError, match="remove the softmax"):
        evaluate_model(model, load_test(DataConfig(), 8), attacks=["fgsm"], threats=[Threat("linf", 0.1)])


def test_corruptions(folder: RunFolder, tmp_path: Path) -> None:
    """Folders of .npy files: the accuracy under each, against a direct computation; labels may be for one severity."""
    split = load_test(DataConfig())
    images, labels = (a.numpy() for a in split.take(slice(0, 60)))
    dark = (images // 2).astype(np.uint8)
    np.save(tmp_path / "dark.npy", np.concatenate([dark, images]))
    np.save(tmp_path / "labels.npy", labels)
    report = evaluate_run(folder, attacks=["clean"], corruption_root=tmp_path)
    model, _ = load_agent(folder, "peer0")
    x = to_pixels(torch.from_numpy(np.concatenate([dark, images])))
    expected = (model(x).argmax(1).numpy() == np.tile(labels, 2)).mean()
    assert report["agents"]["peer0"]["corruptions"]["dark"]["accuracy"] == pytest.approx(expected)
    assert report["agents"]["peer0"]["corruptions"]["dark"]["n"] == 120
    assert report["robust_accuracy"] is None  # nothing attacked
    np.save(tmp_path / "dark.npy", np.zeros((60, 9, 9, 1), np.uint8))
    with pytest.raises(DataError, match=r"dark\.npy: images are uint8 \[60, 9, 9, 1\]; expected uint8 \[N, 8, 8, 1\]"):
        evaluate_run(folder, attacks=["clean"], corruption_root=tmp_path)
    with pytest.raises(DataError, match="holds no corruptions"):
        evaluate_run(folder, attacks=["clean"], corruption_root=tmp_path / "nowhere")


def test_classes_are_listed_from_the_least_robust() -> None:
    from sparring.cluster.evaluation.results import by_class

    labels = torch.tensor([2, 0, 0, 2, 1])
    clean, robust = torch.tensor([1, 1, 0, 1, 1]).bool(), torch.tensor([0, 1, 0, 0, 1]).bool()
    rows = by_class(labels, clean, robust)
    assert [r["class"] for r in rows] == [2, 0, 1]
    assert rows[0] == {"class": 2, "n": 2, "clean": 1.0, "robust": 0.0}
    assert rows[1] == {"class": 0, "n": 2, "clean": 0.5, "robust": 0.5}
