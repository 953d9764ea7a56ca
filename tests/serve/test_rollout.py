"""Which version answers: pinned, a canary by share and by header, a shadow that is only counted, and the way back."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from sparring.agents import rollout
from sparring.agents.rollout import Rollout
from sparring.serve.models import KEPT, Models
from sparring.serve.settings import Settings
from sparring.serve.shadows import MOST, Shadows
from tests.serve.made import infer, pixels, published
from tests.serve.test_web import client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        published(tmp_path / "m", seed=seed)
    return tmp_path


def served(folder: Path) -> Models:
    made = Models(Settings(models_dir=str(folder)))
    made.poll()
    return made


def version(http: TestClient, **headers: str) -> str:
    answer = http.post("/v2/models/m/infer", json=infer(pixels()), headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


def test_the_newest_answers_until_one_is_named(folder: Path) -> None:
    made = served(folder)
    assert made.get("m", None)[0] == 3
    rollout.save(folder / "m", Rollout(version=1, before=3))
    made.poll()
    assert made.get("m", None)[0] == 1
    assert made.get("m", 3)[0] == 3  # by its number as before
    published(folder / "m", seed=9)
    made.poll()
    assert made.get("m", None)[0] == 1
    (folder / "m" / rollout.FILE).unlink()
    made.poll()
    assert made.get("m", None)[0] == 4


def test_a_named_version_stays_however_old_it_is(folder: Path) -> None:
    rollout.save(folder / "m", Rollout(version=1))
    for seed in range(KEPT + 2):
        published(folder / "m", seed=10 + seed)
    made = served(folder)
    assert made.get("m", None)[0] == 1
    assert len(made.described["m"]["versions"]) == KEPT + 1


def test_a_named_version_that_is_not_there_leaves_the_newest(folder: Path) -> None:
    rollout.save(folder / "m", Rollout(version=7, canary=8, share=0.5, shadow=9))
    made = served(folder)
    assert made.get("m", None)[0] == 3
    assert made.rollout("m") == Rollout(version=7)


@pytest.mark.parametrize("content", ["[]", "{", '{"version": "2"}', '{"share": 2}', '{"share": 0.1}', '{"other": 1}'])
def test_a_file_that_means_nothing_changes_nothing(
    content: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rollout.save(folder / "m", Rollout(version=2))
    made = served(folder)
    (folder / "m" / rollout.FILE).write_text(content)
    made.poll()
    assert made.get("m", None)[0] == 2
    assert "m goes on as before" in caplog.text


def test_a_canary_by_share_and_by_header(folder: Path) -> None:
    rollout.save(folder / "m", Rollout(version=2, canary=3, share=0.25))
    with client(folder) as http:
        found = [version(http) for _ in range(400)]
        assert set(found) == {"2", "3"}
        assert 60 <= found.count("3") <= 140  # of a binomial with mean 100 beyond this once in 100,000 runs
        assert version(http, **{"x-canary": "always"}) == "3"
        assert {version(http, **{"x-canary": "never"}) for _ in range(30)} == {"2"}
        answer = http.post("/v2/models/m/infer", json=infer(pixels()), headers={"x-canary": "maybe"})
        assert answer.status_code == 422
        assert answer.json() == {"error": "the header x-canary is 'maybe'; expected always or never"}
        named = http.post("/v2/models/m/versions/1/infer", json=infer(pixels()), headers={"x-canary": "always"})
        assert named.json()["model_version"] == "1"
        (listed,) = http.get("/v1/models").json()["models"]
        assert (listed["default"], listed["rollout"]["canary"], listed["rollout"]["share"]) == (2, 3, 0.25)


def counted(http: TestClient, shadow: int, came: str) -> int:
    pattern = rf'sparring_shadow_images_total\{{came="{came}",model="m",version="{shadow}"\}} (\d+)'
    found = re.search(pattern, http.get("/metrics").text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("shadow", [3, 4])
def test_a_shadow_is_asked_and_counted_and_never_answers(shadow: int, folder: Path) -> None:
    """Version 4 has the weights of version 2, version 3 others."""
    published(folder / "m", seed=1)
    x = pixels(20)
    rollout.save(folder / "m", Rollout(version=2, shadow=shadow))
    made = served(folder)
    same = int((_logits(made, 2, x).argmax(1) == _logits(made, shadow, x).argmax(1)).sum())
    assert same == 20 if shadow == 4 else same < 20
    with client(folder) as http:
        for one in x:
            answer = http.post("/v2/models/m/infer", json=infer(one[None]))
            assert answer.json()["model_version"] == "2"
        deadline = time.monotonic() + 20
        while counted(http, shadow, "agrees") + counted(http, shadow, "disagrees") < 20:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert (counted(http, shadow, "agrees"), counted(http, shadow, "disagrees")) == (same, 20 - same)
        assert counted(http, shadow, "failed") == 0


def _logits(made: Models, number: int, x: np.ndarray) -> np.ndarray:
    from sparring.serve.answers import Question, answer

    (found,) = answer([Question("m", number, made.get("m", number)[1], x)])
    assert isinstance(found, dict)
    return found["logits"]


def test_a_shadow_outlives_its_request_and_waits_for_nobody() -> None:
    """It is no child of the request; what cannot be asked without delay is left out and counted, what fails too."""
    free = asyncio.Event()
    x = np.zeros((2, 1, 8, 8), np.float32)
    answered = {"logits": np.eye(2, 10)}

    async def slow(name: str, number: int | None, x: np.ndarray) -> dict[str, Any]:
        await free.wait()
        if number == 5:
            raise RuntimeError("of the shadow alone")
        return {"logits": np.eye(10)[[0, 3]]}

    async def request(shadows: Shadows, number: int) -> None:
        shadows.ask(slow, "m", number, x, answered)

    async def ask() -> dict[Any, int]:
        shadows = Shadows()
        for number in (4, 5, *[4] * (MOST + 1)):
            task = asyncio.create_task(request(shadows, number))
            await asyncio.sleep(0)
            task.cancel()
        free.set()
        for _ in range(10):
            await asyncio.sleep(0)
        return shadows.taken()

    found = asyncio.run(ask())
    assert found == {
        ("m", 4, "agrees"): MOST - 1,
        ("m", 4, "disagrees"): MOST - 1,
        ("m", 5, "failed"): 2,
        ("m", 4, "left out"): 2 * 3,
    }
