"""Served versions: new ones appear, damaged ones are refused while the old one goes on, answers are the network's own."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.agents import model_folder
from sparring.agents.checkpoint import sha256
from sparring.agents.ensemble import Ensemble
from sparring.serve.answers import Question, answer
from sparring.serve.catalogue import NotFound
from sparring.serve.models import KEPT, Models
from sparring.serve.settings import Settings
from tests.serve.made import pixels, published


def models(folder: Path, **options: Any) -> Models:
    made = Models(Settings(models_dir=str(folder), **options))
    made.poll()
    return made


def ask(served: Models, *asked: tuple[str, int | None, np.ndarray]) -> list[dict[str, Any]]:
    """Answers in one batch, each with the version that gave it."""
    questions = [Question(name, *served.get(name, version, x.shape[1:]), x) for name, version, x in asked]
    answers = answer(questions)
    assert not [a for a in answers if isinstance(a, Exception)]
    return [{"version": q.number, **a} for q, a in zip(questions, answers, strict=True) if not isinstance(a, Exception)]


def test_answers_are_the_networks_own(tmp_path: Path) -> None:
    version = published(tmp_path / "a")
    x = pixels(5)
    (found,) = ask(models(tmp_path), ("a", None, x))
    with torch.inference_mode():
        logits = model_folder.load(version)(torch.from_numpy(x))
    assert found["version"] == 1
    assert np.array_equal(found["logits"], logits.numpy())
    assert found["probabilities"] == pytest.approx(logits.softmax(1).numpy())


def test_questions_go_together_and_answers_come_apart(tmp_path: Path) -> None:
    """Several models, versions and sizes in one batch: each gets what it would get alone."""
    published(tmp_path / "a", seed=0)
    published(tmp_path / "a", seed=1)
    published(tmp_path / "b", shape=(3, 16, 16))
    served = models(tmp_path)
    x, rgb = pixels(3), pixels(2, shape=(3, 16, 16))
    asked: list[tuple[str, int | None, np.ndarray]] = [("a", None, x), ("b", 1, rgb), ("a", 1, x[:1]), ("a", 2, x[1:])]
    together = ask(served, *asked)
    for question, found in zip(asked, together, strict=True):
        (alone,) = ask(served, question)
        assert found["version"] == alone["version"]
        assert found["logits"] == pytest.approx(alone["logits"], abs=1e-6)
    assert together[0]["version"] == 2


def test_a_new_version_takes_over_and_old_ones_are_given_back(tmp_path: Path) -> None:
    served_from = tmp_path / "a"
    published(served_from)
    served = models(tmp_path)
    for i in range(KEPT):
        published(served_from, seed=i + 1)
    assert served.get("a", None)[0] == 1
    served.poll()
    assert served.get("a", None)[0] == KEPT + 1
    with pytest.raises(NotFound, match="has no version 1"):
        served.get("a", 1)


def test_a_damaged_version_is_refused_and_the_old_one_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    published(tmp_path / "a")
    served = models(tmp_path)
    weights = published(tmp_path / "a", seed=1) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        served.poll()
    assert "a version 2 is refused" in caplog.text
    assert served.get("a", None)[0] == 1
    assert "is altered" in served.described["a"]["refused"][2]
    published(tmp_path / "a", seed=2)
    served.poll()
    assert served.get("a", None)[0] == 3


def test_a_removed_model_is_gone(tmp_path: Path) -> None:
    published(tmp_path / "a")
    published(tmp_path / "b")
    served = models(tmp_path)
    (tmp_path / "a").rename(tmp_path / "a.hidden")
    (tmp_path / "a.hidden").rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    served.poll()
    assert set(served.described) == {"b"}


def test_single_folders_and_versions_by_name(tmp_path: Path) -> None:
    first = published(tmp_path / "a")
    published(tmp_path / "a", seed=1)
    served = Models(Settings(models={"x": str(tmp_path / "a"), "old": str(first)}))
    served.poll()
    assert served.get("x", None)[0] == 2
    assert served.get("old", None)[0] == 1


def test_an_ensemble_says_how_much_its_members_disagree(tmp_path: Path) -> None:
    version = published(tmp_path / "e", members=3)
    x = pixels(20)
    (found,) = ask(models(tmp_path), ("e", None, x))
    members = model_folder.load(version).members
    with torch.inference_mode():
        each = torch.stack([m(torch.from_numpy(x)).softmax(1) for m in members])
    assert found["probabilities"] == pytest.approx(each.mean(0).numpy(), abs=1e-6)
    entropy = [-(p * p.log()).sum(-1) for p in (each.mean(0), each)]  # of the mean, and of each
    divergence = (entropy[0] - entropy[1].mean(0)) / np.log(3)
    assert found["disagreement"] == pytest.approx(divergence.numpy(), abs=1e-6)


def test_disagreement_is_between_none_and_all_there_can_be() -> None:
    class Says(nn.Module):
        def __init__(self, *classes: int) -> None:
            super().__init__()
            self.logits = 1000.0 * nn.functional.one_hot(torch.tensor(classes), 4).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits

    apart = Ensemble([Says(0, 0), Says(0, 1), Says(0, 2)]).decide(torch.zeros(2, 1, 2, 2))[1]
    assert apart.tolist() == pytest.approx([0.0, 1.0])


def test_members_that_say_nearly_the_same_disagree_by_nothing_at_least() -> None:
    """In float32 the divergence of nearly equal predictions comes out below zero for one in four."""

    class Says(nn.Module):
        def __init__(self, logits: torch.Tensor) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits

    logits = 10 * torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))
    apart = Ensemble([Says(logits), Says(logits + 1e-4 * torch.randn_like(logits))]).decide(torch.zeros(1000, 1, 2, 2))[
        1
    ]
    assert (apart >= 0).all()
    assert (apart < 1e-5).all()


def damage(version: Path) -> None:
    weights = bytearray((version / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (version / "model.safetensors").write_bytes(weights)


def test_whole_versions_behind_damaged_ones_are_served(tmp_path: Path) -> None:
    """By a new replica as by one that had them before."""
    published(tmp_path / "a")
    old = models(tmp_path)
    for i in range(KEPT + 1):
        damage(published(tmp_path / "a", seed=i + 1))
    old.poll()
    for served in (old, models(tmp_path)):
        assert served.get("a", None)[0] == 1
        assert len(served.described["a"]["refused"]) == KEPT + 1


def test_a_copy_that_was_not_complete_is_looked_at_again(tmp_path: Path) -> None:
    version = published(tmp_path / "a")
    whole = (version / "model.safetensors").read_bytes()
    (version / "model.safetensors").write_bytes(whole[:100])
    served = models(tmp_path)
    refused = served.described["a"]["refused"]
    assert refused == {1: "model.safetensors is altered"}  # no path of this machine
    (version / "model.safetensors").write_bytes(whole)
    served.poll()
    assert served.get("a", None)[0] == 1
    assert served.described["a"]["refused"] == {}


def test_networks_that_diverged_are_refused(tmp_path: Path) -> None:
    from sparring.agents.networks import Network

    published(tmp_path / "a")
    network = model_folder.load(tmp_path / "a" / "1")
    assert isinstance(network, Network)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    model_folder.create(tmp_path / "a", [network], model_folder.card(tmp_path / "a" / "1"))
    served = models(tmp_path)
    assert served.get("a", None)[0] == 1
    assert served.described["a"]["refused"] == {2: "it answers numbers that are not finite"}


@pytest.mark.parametrize("card", ["[1]", "{", '{"input": []}', "{}"])
def test_one_bad_card_stops_nobody(card: str, tmp_path: Path) -> None:
    published(tmp_path / "a")
    published(tmp_path / "b")
    (published(tmp_path / "a", seed=1) / "card.json").write_text(card)
    (tmp_path / "b" / "\u00b2").mkdir()
    (tmp_path / "b" / "\u00b2" / "MANIFEST.json").write_text("{}")
    served = models(tmp_path)
    assert served.get("a", None)[0] == served.get("b", None)[0] == 1
    assert list(served.described["a"]["refused"]) == [2]


def test_a_new_evaluation_shows_in_the_card(tmp_path: Path) -> None:
    version = published(tmp_path / "a")
    served = models(tmp_path)
    card = model_folder.card(version)
    measured = {
        "clean_accuracy": 1.0,
        "robust_accuracy": 0.5,
        "ci95": [0, 1],
        "n": 9,
        "attacks": [],
        "flags": [],
        "threats": {},
    }
    (version / "card.json").write_text(json.dumps({**card, "evaluations": [measured]}))
    served.poll()
    assert served.described["a"]["versions"][1]["evaluations"] == [measured]


def test_storage_that_is_away_takes_nothing_back(tmp_path: Path) -> None:
    published(tmp_path / "m" / "a")
    served = models(tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "away")
    served.poll()
    assert served.get("a", None)[0] == 1


def test_what_is_not_served(tmp_path: Path) -> None:
    published(tmp_path / "a")
    published(tmp_path / "a")
    served = models(tmp_path)
    with pytest.raises(NotFound, match="model 'a' version 2 takes images of another shape"):
        served.get("a", None, (3, 16, 16))
    with pytest.raises(NotFound, match="model 'a' has no version 9; it has 1, 2"):
        served.get("a", 9)
    with pytest.raises(NotFound, match="no model 'b'"):
        served.get("b", None)


class Broken(nn.Module):
    """Answers NaN to an image that begins with 1, and raises for one that begins with 0."""

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0, 0, 0]
        if bool((first == 0).any()):
            raise RuntimeError("of this model alone")
        return torch.where(first == 1, torch.nan, first)[:, None].expand(-1, 10)


def test_what_one_model_does_harms_no_other_and_no_other_question(tmp_path: Path) -> None:
    published(tmp_path / "a")
    served = models(tmp_path)
    number, whole = served.get("a", None)
    broken, other = replace(whole, model=Broken()), replace(whole, model=Broken())
    x = np.full((2, 1, 8, 8), 0.5, np.float32)
    nan, bad = x.copy(), x.copy()
    nan[1, 0, 0, 0] = 1
    bad[0, 0, 0, 0] = 0
    asked = [Question("b", 1, broken, nan), Question("b", 1, broken, x), Question("c", 1, other, bad)]
    not_finite, fine, raised, right = answer([*asked, Question("a", number, whole, x)])
    assert str(not_finite) == "model 'b' version 1 answers numbers that are not finite to image 1 of this request"
    assert isinstance(fine, dict)
    assert (fine["logits"] == 0.5).all()
    assert str(raised) == "of this model alone"
    assert isinstance(right, dict)


class Few(nn.Module):
    """Tells three classes apart, whatever its card says."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


def test_a_network_of_other_classes_than_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path / "a")
    monkeypatch.setattr(model_folder, "load", lambda folder: Few())
    refused = models(tmp_path).described["a"]["refused"]
    assert refused == {1: "it does not tell 10 classes apart, as its card says"}


def rewritten(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def disagreeing(folder: Path, kind: str) -> Path:
    """A version whose files do not say the same."""
    version = published(folder)
    card, state = version / "card.json", version / "state.json"
    if kind == "card of another size":
        rewritten(card, input={"channels": 3, "height": 8, "width": 8})
    elif kind == "card without the pixels' range":
        rewritten(card, input={"channels": 1, "height": 8, "width": 8, "rangange": [0, 1]})
    elif kind == "card of other classes":
        rewritten(card, classes=["a", "b", "c"])
    elif kind == "card of another network":
        rewritten(card, networks=["resnet18"])
    elif kind == "card of other weights":
        rewritten(card, sha256={})
    elif kind == "classes that are no texts":
        rewritten(card, classes=[{}] * 10)
    elif kind == "half a character":
        card.write_text(json.dumps({**json.loads(card.read_text()), "name": "\ud800"}))
    elif kind == "not a number":
        rewritten(card, parameters=float("nan"))
    elif kind == "a large card":
        rewritten(card, note="x" * 5_000_000)
    elif kind == "a card that is a folder":
        card.unlink()
        card.mkdir()
    elif kind == "a card that is a pipe":
        card.unlink()
        os.mkfifo(card)
    elif kind == "a manifest of nothing":
        rewritten(version / "MANIFEST.json", files={})
    elif kind == "a manifest of files elsewhere":
        files = json.loads((version / "MANIFEST.json").read_text())["files"]
        rewritten(version / "MANIFEST.json", files={**files, "../../x": "0" * 64})
    elif kind == "a billion members":
        rewritten(version / "MANIFEST.json", members=10**9)
    elif kind == "another network in state.json":
        network = json.loads(state.read_text())["network"]
        rewritten(state, network={**network, "spec": "small_cnn:width=5000"})
        files = json.loads((version / "MANIFEST.json").read_text())["files"]
        files = {**files, "state.json": sha256(state)}
        rewritten(version / "MANIFEST.json", files=files)
        rewritten(card, sha256=files, networks=["small_cnn:width=5000"])
    return version


DISAGREEING = {
    "card of another size": "names other images than the network's: {'channels': 3",
    "card without the pixels' range": "names other images than the network's: {'channels': 1",
    "card of other classes": "names other classes than the network's 10",
    "card of another network": "names other networks than small_cnn:width=4",
    "card of other weights": "is the card of other files than MANIFEST.json lists",
    "classes that are no texts": "names classes that are no texts",
    "half a character": "surrogates not allowed",
    "not a number": "NaN is no number of JSON",
    "a large card": "is larger than 4194304 bytes",
    "a card that is a folder": "is missing, or no file",
    "a card that is a pipe": "is missing, or no file",
    "a manifest of nothing": "does not list model.safetensors",
    "a manifest of files elsewhere": "lists '../../x', which is no file of this folder",
    "a billion members": "or not from 1 to 64 members",
    "another network in state.json": "does not fit the network small_cnn:width=5000: stages.0.0.weight is [4, 1, 3, 3]",
}


@pytest.mark.parametrize("kind", DISAGREEING)
def test_files_that_do_not_say_the_same(kind: str, tmp_path: Path) -> None:
    """Refused when it is found, and when a version that is served becomes so; the other model is served all the while."""
    published(tmp_path / "good")
    disagreeing(tmp_path / "a", kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    served = models(tmp_path)
    assert DISAGREEING[kind] in served.described["a"]["refused"][1]
    assert served.get("good", None)[0] == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB: no room was made for absurd sizes


@pytest.mark.parametrize("kind", DISAGREEING)
def test_a_version_that_becomes_so_goes_on_as_it_was(kind: str, tmp_path: Path) -> None:
    whole = published(tmp_path / "a")
    served = models(tmp_path)
    before = served.get("a", None)[1]
    other = disagreeing(tmp_path / "elsewhere", kind)
    shutil.rmtree(whole)
    shutil.copytree(other, whole) if kind != "a card that is a pipe" else other.rename(whole)
    for _ in range(2):
        served.poll()
        assert served.get("a", None)[1].card == before.card
        assert served.get("a", None)[1].model is before.model


def test_another_network_in_a_versions_place_comes_whole(tmp_path: Path) -> None:
    """Weights and card change together."""
    whole = published(tmp_path / "a")
    served = models(tmp_path)
    other = published(tmp_path / "elsewhere", seed=5)
    rewritten(other / "card.json", name="other")
    shutil.rmtree(whole)
    shutil.copytree(other, whole)
    served.poll()
    x = pixels(3)
    (found,) = ask(served, ("a", 1, x))
    with torch.inference_mode():
        assert np.array_equal(found["logits"], model_folder.load(other)(torch.from_numpy(x)).numpy())
    assert served.described["a"]["versions"][1]["name"] == "other"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_models_of_any_channels(channels: int, tmp_path: Path) -> None:
    published(tmp_path / "a", shape=(channels, 8, 8))
    x = pixels(2, shape=(channels, 8, 8))
    (found,) = ask(models(tmp_path), ("a", None, x))
    assert found["logits"].shape == (2, 10)
