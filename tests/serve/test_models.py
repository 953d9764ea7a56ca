"""Served versions: new ones appear, damaged ones are refused while the old one goes on, answers are the network's own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparring.agents import model_folder
from sparring.serve.models import KEPT, Models, Unknown
from sparring.serve.settings import Settings
from tests.serve.made import pixels, published


def models(folder: Path, **options: Any) -> Models:
    made = Models(Settings(models_dir=str(folder), **options))
    made.poll()
    return made


def one(answer: dict[str, Any] | Unknown) -> dict[str, Any]:
    assert not isinstance(answer, Unknown)
    return answer


def test_answers_are_the_networks_own(tmp_path: Path) -> None:
    version = published(tmp_path / "a")
    x = pixels(5)
    answer = one(models(tmp_path).predict([("a", None, x)])[0])
    with torch.inference_mode():
        logits = model_folder.load(version)(torch.from_numpy(x))
    assert answer["version"] == 1
    assert np.array_equal(answer["logits"], logits.numpy())
    assert answer["probabilities"] == pytest.approx(logits.softmax(1).numpy())


def test_questions_go_together_and_answers_come_apart(tmp_path: Path) -> None:
    """Several models, versions and sizes in one batch, one of them unknown: each gets what it would get alone."""
    published(tmp_path / "a", seed=0)
    published(tmp_path / "a", seed=1)
    published(tmp_path / "b", shape=(3, 16, 16))
    served = models(tmp_path)
    x, rgb = pixels(3), pixels(2, shape=(3, 16, 16))
    asked = [("a", None, x), ("b", 1, rgb), ("a", 1, x[:1]), ("c", None, x), ("a", 2, x[1:]), ("a", 9, x)]
    together = served.predict(asked)
    assert isinstance(together[3], Unknown)
    assert str(together[5]) == "model 'a' has no version 9; it has 1, 2"
    for question, answer in zip(asked, together, strict=True):
        alone = served.predict([question])[0]
        if isinstance(alone, Unknown):
            continue
        assert one(answer)["version"] == alone["version"]
        assert one(answer)["logits"] == pytest.approx(alone["logits"], abs=1e-6)
    assert one(together[0])["version"] == 2


def test_a_new_version_takes_over_and_old_ones_are_given_back(tmp_path: Path) -> None:
    served_from = tmp_path / "a"
    published(served_from)
    served = models(tmp_path)
    for i in range(KEPT):
        published(served_from, seed=i + 1)
    assert served.get("a", None)[0] == 1
    served.poll()
    assert served.get("a", None)[0] == KEPT + 1
    with pytest.raises(Unknown, match="has no version 1"):
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
    assert "is altered" in served.describe()["a"]["refused"][2]
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
    assert set(served.describe()) == {"b"}


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
    answer = one(models(tmp_path).predict([("e", None, x)])[0])
    members = model_folder.load(version).members
    with torch.inference_mode():
        each = torch.stack([m(torch.from_numpy(x)).softmax(1) for m in members])
    assert answer["probabilities"] == pytest.approx(each.mean(0).numpy(), abs=1e-6)
    mine = answer["logits"].argmax(1)
    assert answer["disagreement"] == pytest.approx((each.argmax(2).numpy() != mine).mean(0), abs=1e-6)


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
        assert len(served.describe()["a"]["refused"]) == KEPT + 1


def test_a_copy_that_was_not_complete_is_looked_at_again(tmp_path: Path) -> None:
    version = published(tmp_path / "a")
    whole = (version / "model.safetensors").read_bytes()
    (version / "model.safetensors").write_bytes(whole[:100])
    served = models(tmp_path)
    refused = served.describe()["a"]["refused"]
    assert refused == {1: "model.safetensors is altered"}  # no path of this machine
    (version / "model.safetensors").write_bytes(whole)
    served.poll()
    assert served.get("a", None)[0] == 1
    assert served.describe()["a"]["refused"] == {}


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
    assert served.describe()["a"]["refused"] == {2: "it answers numbers that are not finite"}


@pytest.mark.parametrize("card", ["[1]", "{", '{"input": []}', "{}"])
def test_one_bad_card_stops_nobody(card: str, tmp_path: Path) -> None:
    published(tmp_path / "a")
    published(tmp_path / "b")
    (published(tmp_path / "a", seed=1) / "card.json").write_text(card)
    (tmp_path / "b" / "\u00b2").mkdir()
    (tmp_path / "b" / "\u00b2" / "MANIFEST.json").write_text("{}")
    served = models(tmp_path)
    assert served.get("a", None)[0] == served.get("b", None)[0] == 1
    assert list(served.describe()["a"]["refused"]) == [2]


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
    assert served.describe()["a"]["versions"][1]["evaluations"] == [measured]


def test_storage_that_is_away_takes_nothing_back(tmp_path: Path) -> None:
    published(tmp_path / "m" / "a")
    served = models(tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "away")
    served.poll()
    assert served.get("a", None)[0] == 1


def test_images_of_another_shape(tmp_path: Path) -> None:
    published(tmp_path / "a")
    answers = models(tmp_path).predict([("a", None, pixels(1, shape=(3, 16, 16))), ("a", None, pixels())])
    assert str(answers[0]) == "model 'a' version 1 takes images of another shape"
    assert one(answers[1])["version"] == 1
