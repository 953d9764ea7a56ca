"""Ten minutes of requests, images and files that nobody would send on purpose: no defect, no memory above the bound, no file outside.

Everything is drawn from seeds, so that what fails can be asked again; all of it aims at our own service and stays on this machine.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from sparring.agents import rollout
from sparring.serve import web
from sparring.serve.models import KEPT, Models
from sparring.serve.settings import Settings
from tests.helpers import PATIENCE
from tests.serve.live import Service, running
from tests.serve.local import Local
from tests.serve.made import infer, pixels, png, published
from tests.serve.test_schema import OPERATIONS

pytestmark = pytest.mark.soak
TIMES = 1 if os.environ.get("SPARRING_SOAK_UNTIL") else 7  # ten minutes, where nobody has said when to end
IMAGES = 6000 * TIMES
BODIES = 3000 * TIMES
FOLDERS = 400 * TIMES
EXAMPLES = 150 * TIMES  # of every operation
LIVES, STEPS = 20 * TIMES, 40  # of a folder of models, and what happens in each
BOUND = 400 * 2**20  # bytes that the service may take beyond what it had
RIGHT = {200, 400, 404, 405, 408, 413, 415, 422, 503}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    published(folder / "models" / "m")
    published(folder / "models" / "rgb", shape=(3, 32, 32))
    before = sorted(p.name for p in folder.rglob("*"))
    with running(folder, "--demo", "--host-by=local") as started:
        base = started.memory()
        yield started
        assert started.memory() - base < BOUND
        assert httpx.get(f"{started.url}/v2/health/ready", timeout=PATIENCE).status_code == 200
    left = sorted(p.name for p in folder.rglob("*") if not p.name.startswith("serve-"))
    assert left == before


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut, repeated or put in."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at] = rng.choice([0, 255, rng.randrange(256)])
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(64)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


def test_damaged_images(service: Service) -> None:
    rng = random.Random(0)
    whole = [png(pixels(1, seed=i, shape=(3, 40, 40))[0], kind) for i in range(4) for kind in ("PNG", "JPEG")]
    codes: Counter[int] = Counter()
    with service.http() as http:
        for i in range(IMAGES):
            content = damaged(rng.choice(whole), rng)
            answer = http.post(f"/v1/models/{('m', 'rgb')[i % 2]}:classify", content=content)
            codes[answer.status_code] += 1
            assert answer.status_code in (200, 422), (i, answer.text)
            assert answer.headers["content-type"] == "application/json"
    assert codes[200] > 100
    assert codes[422] > 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id"])
CHANGES = st.lists(st.tuples(st.booleans(), KEYS, JSON), max_size=3)


def test_bodies(service: Service) -> None:
    """Requests that are nearly right, by structure and by bytes."""
    rng = random.Random(1)
    codes: Counter[int] = Counter()
    with service.http() as http:

        @given(changes=CHANGES, mangled=st.booleans())
        @settings(
            max_examples=BODIES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
        )
        def ask(changes: list[tuple[bool, str, Any]], mangled: bool) -> None:
            asked: dict[str, Any] = infer(pixels())
            for within, key, value in changes:
                (asked["inputs"][0] if within and _has_tensor(asked) else asked)[key] = value
            body = json.dumps(asked).encode()
            answer = http.post("/v2/models/m/infer", content=damaged(body, rng) if mangled else body)
            codes[answer.status_code] += 1
            assert answer.status_code in (200, 422), answer.text

        ask()
    assert codes[200] > 100


def _has_tensor(asked: dict[str, Any]) -> bool:
    return isinstance(asked["inputs"], list) and bool(asked["inputs"]) and isinstance(asked["inputs"][0], dict)


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{m} {p}" for p, m in OPERATIONS])
def test_requests_drawn_from_what_is_described(path: str, method: str, service: Service) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")

    @given(case=schema[path][method].as_strategy())
    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    def check(case: schemathesis.Case) -> None:
        if "name" in case.path_parameters and len(str(case.path_parameters["name"])) % 2 == 0:
            case.path_parameters["name"] = "m"  # half of them reach a model
        response = case.call(base_url=service.url)
        assert response.status_code in RIGHT, response.text
        case.validate_response(response, checks=[status_code_conformance, content_type_conformance])

    check()


def test_files_of_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A version with a few bytes changed in any of its files is refused, or says what it said; the other is served all the while."""
    rng = random.Random(2)
    published(tmp_path / "good")
    whole = published(tmp_path / "elsewhere" / "m")
    card = json.loads((whole / "card.json").read_text())
    served = Models(Settings(models={"good": str(tmp_path / "good"), "m": str(tmp_path / "m")}))
    taken = 0
    for i in range(FOLDERS):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        version = Path(shutil.copytree(whole, tmp_path / "m" / "1"))
        file = rng.choice(sorted(p for p in version.iterdir() if p.is_file()))
        file.write_bytes(damaged(file.read_bytes(), rng))
        served = Models(Settings(models={"good": str(tmp_path / "good"), "m": str(tmp_path / "m")}))
        served.poll()
        assert served.get("good", None)[0] == 1
        told = served.described["m"]
        assert len(told["versions"]) + len(told["refused"]) <= 1, i
        if told["versions"]:
            taken += 1
            seen = told["versions"][1]
            assert (seen["input"], seen["networks"], len(seen["classes"])) == (card["input"], card["networks"], 10), (
                i,
                file.name,
            )
            json.dumps(seen, ensure_ascii=False).encode()
    assert 0 < taken < FOLDERS / 2


class Life(RuleBasedStateMachine):
    """A folder of models to which anything may happen, in any order, and a service that looks at it now and then."""

    where: Path  # set for each run
    count = 0

    @initialize()
    def begin(self) -> None:
        Life.count += 1
        self.folder = self.where / str(Life.count) / "m"
        self.whole: set[int] = {1}
        published(self.folder)
        self.backend = Local(Settings(models_dir=str(self.folder.parent), poll=3600))  # looks when a rule says so
        self.http = TestClient(
            web.build(self.backend, Settings()), base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50000)
        )
        self.looked = set(self.whole)

    def versions(self) -> list[int]:
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    @rule(members=st.sampled_from([1, 1, 2]), seed=st.integers(0, 3))
    def publish(self, members: int, seed: int) -> None:
        self.whole.add(int(published(self.folder, seed=seed, members=members).name))

    @rule(which=st.integers(0, 20), seed=st.integers(0, 2**16))
    def damage(self, which: int, seed: int) -> None:
        rng = random.Random(seed)
        files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        file = files[which % len(files)]
        before = file.read_bytes()
        file.write_bytes(damaged(before, rng))
        if file.parent != self.folder and file.read_bytes() != before:
            self.whole.discard(int(file.relative_to(self.folder).parts[0]))

    @rule(which=st.integers(0, 20))
    def remove(self, which: int) -> None:
        there = self.versions()
        if len(there) > 1:
            gone = there[which % len(there)]
            shutil.rmtree(self.folder / str(gone))
            self.whole.discard(gone)

    @rule(
        version=st.integers(1, 6), canary=st.integers(1, 6), share=st.floats(0, 1), shadow=st.none() | st.integers(1, 6)
    )
    def roll(self, version: int, canary: int, share: float, shadow: int | None) -> None:
        rollout.save(self.folder, rollout.Rollout(version=version, canary=canary, share=share, shadow=shadow))

    @rule()
    def look(self) -> None:
        self.backend.refresh()
        told = self.backend.models()["m"]
        served = set(told["versions"])
        for version in self.whole:  # is served, whatever lies beside it, or three newer ones are
            assert version in served or len([v for v in served if v > version]) >= KEPT
        self.looked = set(told["versions"])

    @rule(version=st.none() | st.integers(1, 6), canary=st.none() | st.sampled_from(["always", "never", "maybe"]))
    def ask(self, version: int | None, canary: str | None) -> None:
        path = "/v2/models/m/infer" if version is None else f"/v2/models/m/versions/{version}/infer"
        headers = {} if canary is None else {"x-canary": canary}
        answer = self.http.post(path, json=infer(pixels()), headers=headers)
        assert answer.status_code in (200, 404, 422), answer.text
        if version is None and canary != "maybe" and self.looked:
            assert answer.status_code == 200, answer.text
        if answer.status_code == 200:
            assert int(answer.json()["model_version"]) in self.looked

    @invariant()
    def told(self) -> None:
        for path in ("/v1/models", "/v1/status", "/metrics"):
            assert self.http.get(path).status_code == 200


def test_lives_of_a_folder(tmp_path: Path) -> None:
    Life.where = tmp_path
    how = settings(
        max_examples=LIVES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    run_state_machine_as_test(Life, settings=how)  # type: ignore[no-untyped-call]
