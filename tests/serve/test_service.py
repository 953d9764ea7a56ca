"""The whole service on both hosts, as its user starts it: right answers, kills, versions, hostile requests, draining."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from sparring.agents import model_folder
from tests.helpers import CLONE, PATIENCE, SMALL
from tests.serve.doors import DOORS, said
from tests.serve.live import Service, clients, running
from tests.serve.made import infer, pixels, png, published
from tests.serve.test_images import HOSTILE as FILES
from tests.serve.test_web import BAD

MODELS = CLONE / "serve" / "demo"
SLOW = 240  # seconds: a busy machine may need longer than 30 to start a predictor again
KEPT = 150 * 2**20  # bytes that a process may hold on to of what hostile requests took
KEYS = 16  # different images that clients ask about


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("service")
    shutil.copytree(MODELS, made / "models", ignore=shutil.ignore_patterns("evaluation"))
    published(made / "models" / "changing")
    return made


LENIENT = {"two hosts": {200}}  # HAProxy 2.8 makes one of two headers that are the same
HOSTS = {"local": ("--host-by=local",), "ray": ("--host-by=ray", "--predictors=2")}


@pytest.fixture(scope="module", params=HOSTS)
def service(folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    with running(folder, "--demo", f"--timeout={SLOW}", *HOSTS[request.param]) as started:
        started.by = request.param
        yield started


# on Ray in the second tier only
mostly_local = pytest.mark.parametrize(
    "service", ["local", pytest.param("ray", marks=pytest.mark.soak)], indirect=True, scope="module"
)


@pytest.fixture
def on_ray(service: Service) -> Service:
    if service.by != "ray":
        pytest.skip("a local service is one process")
    return service


def expected(version: Path, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model_folder.load(version)(torch.from_numpy(x)).numpy()
    return found


class Asker:
    """Asks about one of some images, and knows what is right."""

    def __init__(self, *versions: Path) -> None:
        self.name = versions[0].parent.name
        self.x = [pixels(seed=i) for i in range(KEYS)]
        self.right = {v.name: [expected(v, x) for x in self.x] for v in versions}

    def __call__(self, client: httpx.Client, i: int) -> bool:
        answer = client.post(f"/v2/models/{self.name}/infer", json=infer(self.x[i % KEYS]))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        right = self.right[body["model_version"]][i % KEYS]
        return bool(np.abs(np.asarray(body["outputs"][0]["data"]) - right.ravel()).max() < 1e-5)


def test_answers_are_those_of_the_loaded_model(service: Service) -> None:
    """To 1e-6 in the probabilities, alone, several in a request, and many requests at once."""
    x = pixels(32)
    model = model_folder.load(MODELS / "digits-robust" / "1")
    with torch.inference_mode():
        right = model(torch.from_numpy(x)).softmax(1).numpy()

    def asked(images: np.ndarray) -> np.ndarray:
        with service.http() as http:
            answer = http.post(
                "/v2/models/digits-robust/infer", json=infer(images, outputs=[{"name": "probabilities"}])
            )
            return np.reshape(answer.json()["outputs"][0]["data"], (-1, 10))

    assert np.abs(asked(x) - right).max() < 1e-6
    with ThreadPoolExecutor(16) as pool:
        each = list(pool.map(asked, [x[i : i + 1] for i in range(32)]))
    assert np.abs(np.concatenate(each) - right).max() < 1e-6


@mostly_local
def test_a_run_published_while_the_service_runs(service: Service, folder: Path) -> None:
    """It is served within seconds, and answers as ``sparring.load`` of its run does, to 1e-6."""
    import sparring
    from sparring.cluster.models import card
    from sparring.cluster.models.resolve import single

    config = sparring.recipe("at-digits", **SMALL, team="local").replace({"max_steps": 5})
    run = sparring.train(config, runs_dir=folder / "runs", name=f"own-{service.by}", quiet=True)
    card.publish(*single(str(run.path)), name=f"own-{service.by}", models_dir=folder / "models")
    service.wait(f"/v2/models/own-{service.by}/ready", lambda answer: answer.status_code == 200)
    x = pixels(20)
    with torch.inference_mode():
        right = sparring.load(run.path)(torch.from_numpy(x)).numpy()
    answer = httpx.post(f"{service.url}/v2/models/own-{service.by}/infer", json=infer(x)).json()
    assert np.abs(np.reshape(answer["outputs"][0]["data"], (20, 10)) - right).max() < 1e-6
    listed = {m["name"]: m for m in httpx.get(f"{service.url}/v1/models").json()["models"]}
    assert listed[f"own-{service.by}"]["robustness"] == "not measured"


@mostly_local
def test_metrics_are_summed_over_replicas(service: Service) -> None:
    """100 of 100 requests, whoever answered."""
    assert len(service.replicas("predictor")) == (2 if service.by == "ray" else 0)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: httpx.get(f"{service.url}/v2").status_code, range(100)))
    assert codes == [200] * 100
    pattern = r'sparring_requests_total\{method="GET",route="/v2",status="200"\} (\d+)'
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = re.search(pattern, httpx.get(f"{service.url}/metrics").text)
        if found and float(found[1]) == 100:
            now = httpx.get(f"{service.url}/v1/status").json()
            assert now["processes"] == (2 if service.by == "ray" else 1)
            assert {v["model"] for v in now["versions"]} >= {"digits-robust", "changing"}
            return
        time.sleep(0.2)
    pytest.fail(f"counted {found and found[1]}")


def wait_back(service: Service, deployment: str, count: int, killed: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        alive = service.replicas(deployment)
        if killed not in alive and len(alive) == count:
            return
        time.sleep(0.2)
    pytest.fail(f"{deployment} was not back in {PATIENCE} s")


def test_a_killed_predictor_costs_what_it_owed_at_most(on_ray: Service) -> None:
    """Its connections end without an answer, as HTTP has it, and clients may ask again; the other one answers on."""
    service = on_ray
    ask = Asker(MODELS / "digits-robust" / "1")
    with clients(8, ask, service.url) as load:
        load.wait(8)
        killed = service.kill("predictor")
        wait_back(service, "predictor", 2, killed)
        load.wait(load.right + 4 * 8)  # those that waited, and new ones
    assert len(load.failed) <= 8, load.failed
    assert not load.wrong


@pytest.mark.soak
def test_a_new_version_under_load_loses_nothing(service: Service, folder: Path) -> None:
    """Every answer is right for the version that it names; the new one takes over; a damaged one never answers."""
    made = folder / "models" / "changing"
    second = published(folder / f"elsewhere-{service.by}" / "changing", seed=7)
    (second.parent / "2").mkdir()
    for path in second.iterdir():
        shutil.copy(path, second.parent / "2")
    ask = Asker(made / "1", second.parent / "2")
    with clients(4, ask, service.url) as load:
        load.wait(4)
        damaged = shutil.copytree(second, made / "3.tmp")
        weights = bytearray((damaged / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (damaged / "model.safetensors").write_bytes(weights)
        damaged.rename(made / "3")
        shutil.copytree(second, made / "2.tmp")
        (made / "2.tmp").rename(made / "2")
        service.wait("/v2/models/changing", lambda answer: answer.json()["versions"] == ["1", "2"])
        load.wait(load.right + 16)
    assert not load.failed
    assert not load.wrong
    listed = {m["name"]: m for m in httpx.get(f"{service.url}/v1/models").json()["models"]}
    assert listed["changing"]["versions"] == [1, 2]
    assert "is altered" in listed["changing"]["refused"]["3"]
    answer = httpx.post(f"{service.url}/v2/models/changing/infer", json=infer(pixels())).json()
    assert answer["model_version"] == "2"
    for version in ("2", "3"):  # the next host begins where this one did
        shutil.rmtree(made / version)


def test_doors(service: Service) -> None:
    """Every kind gets its answer, in our one shape wherever it came to us; liveness and counts stay as they should be."""
    wrong = {}
    for kind, (request, right, words) in DOORS.items():
        status, answer = said(service.url, request)
        head, _, body = answer.partition(b"\r\n\r\n")
        by_haproxy = status == 400 and body.startswith(b"<html>")  # it has refused by itself what is no HTTP
        if status not in right | (LENIENT.get(kind, set()) if service.by == "ray" else set()) or not (
            by_haproxy or words.encode() in body
        ):
            wrong[kind] = (status, answer[-300:])
        assert by_haproxy or head.lower().count(b"x-request-id") <= 1
        if kind.startswith("HEAD"):
            assert body == b""
    assert wrong == {}
    assert said(service.url, DOORS["brotli"][0])[1].lower().count(b"accept-encoding: gzip, deflate") == 1
    open_now = re.search(r"sparring_open_requests (\d+)", httpx.get(f"{service.url}/metrics").text)
    assert open_now is not None
    assert open_now[1] == "1"  # the question itself


@mostly_local
def test_liveness_whatever_the_load(service: Service) -> None:
    """230 clients that send the first byte of a body and wait; a probe that failed would end a healthy service."""
    host, port = service.url.removeprefix("http://").split(":")
    head = b"POST /v1/models/digits-robust:classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\nx"
    with ExitStack() as waiting:
        for _ in range(230):
            waiting.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE)).sendall(head)
        codes = set()
        for _ in range(20):
            codes.add(httpx.get(f"{service.url}/v2/health/live", timeout=PATIENCE).status_code)
            time.sleep(0.1)
    assert codes == {200}


@pytest.mark.parametrize("by", ["local", pytest.param("ray", marks=pytest.mark.soak)])
def test_sigterm_after_every_hostile_request(by: str, folder: Path) -> None:
    """No request leaves a count that the end waits for."""
    with running(folder, "--demo", f"--host-by={by}") as service:
        for request, _, _ in DOORS.values():
            said(service.url, request)
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 0, service.errors.read_text()[-2000:]
        assert time.monotonic() - started < 15


@pytest.mark.soak
def test_a_head_that_does_not_come(folder: Path) -> None:
    """A local service ends it by itself; in front of Ray Serve nginx does (test_proxy.py)."""
    with running(folder, "digits=models/digits-robust", "--host-by=local") as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as s:
            started = time.monotonic()
            s.sendall(b"GET /v2 HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ")
            answer = s.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 9 < time.monotonic() - started < 25


@pytest.mark.soak
def test_a_hung_predictor_is_replaced(folder: Path) -> None:
    """The only one is stopped; after about ten seconds, and the new one's start, requests are answered again."""
    with running(folder, "digits=models/digits-robust", "--host-by=ray") as service:
        (hung,) = service.replicas("predictor")
        os.kill(hung, signal.SIGSTOP)
        started = time.monotonic()
        while set(service.replicas("predictor")) <= {hung}:  # a stopped process may be there for longer
            assert time.monotonic() - started < 60, "nobody has come"
            time.sleep(0.5)
        service.wait("/v2/health/ready", lambda answer: answer.status_code == 200)


def slow_body(url: str, *, seconds: float) -> int:
    """The status that a client gets which sends a byte now and then."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds + 20) as s:
        s.sendall(b"POST /v1/models/digits-robust:classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n")
        started = time.monotonic()
        s.setblocking(False)
        while time.monotonic() - started < seconds + 15:
            try:
                return int(s.recv(100).split()[1])
            except BlockingIOError:
                pass
            try:
                s.send(b"x")
            except OSError:
                break
            time.sleep(0.5)
    return 0


@mostly_local
def test_hostile_requests(service: Service) -> None:
    """200 of every kind: only 4xx and 503; afterwards the service answers, and each process has given its memory back."""
    before, processes = service.memory(), 1 + len(service.replicas(""))
    paths = [
        "/v2/models/../../etc/passwd",
        "/v1/models/%2e%2e%2f:classify",
        "/static/%2e%2e/web.py",
        "/v2/models/" + "a" * 5000,
    ]
    huge = json.dumps({"image": "A" * (9 * 2**20)}).encode()
    asked: list[tuple[str, str, bytes, dict[str, str]]] = [("GET", p, b"", {}) for p in paths]
    bodies = [body for kind, (body, _) in BAD.items() if kind != "too many"]  # of that test's own limit
    bodies.append(json.dumps(infer(np.zeros((65, 1, 8, 8), np.float32))).encode())
    asked += [("POST", "/v2/models/digits-robust/infer", body, {}) for body in bodies]
    asked += [
        ("POST", "/v1/models/digits-robust:classify", make(), {"content-type": "image/png"})
        for make, _ in FILES.values()
    ]
    asked += [
        ("POST", "/v1/models/digits-robust:attack", b'{"image": "x", "eps": 1e9}', {}),
        ("POST", "/v2", b"x" * 2**20, {}),
    ]
    asked += [("POST", "/v1/models/digits-robust:classify", huge, {}), ("GET", "/v2", b"", {"host": "evil.example"})]
    asked += [("PUT", "/v2/health/live", b"", {}), ("POST", "/v2/models/digits-robust/infer", b"[" * 2**20, {})]
    asked = (asked * 4)[:200]

    async def all_of_them() -> list[int]:
        async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as http:
            gate = asyncio.Semaphore(16)

            async def one(method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
                async with gate:
                    return (await http.request(method, path, content=body, headers=headers)).status_code

            return await asyncio.gather(*(one(*a) for a in asked))

    slow = ThreadPoolExecutor(1).submit(slow_body, service.url, seconds=10)
    codes = asyncio.run(all_of_them())
    assert len(codes) == 200
    assert all(400 <= c < 500 or c == 503 for c in codes), sorted(set(codes))
    assert slow.result() == 408
    deadline = time.monotonic() + 60
    while service.memory() - before > processes * KEPT and time.monotonic() < deadline:
        time.sleep(1)
    assert service.memory() - before <= processes * KEPT
    assert Asker(MODELS / "digits-robust" / "1")(service.http(), 0)


@mostly_local
def test_the_example_client(service: Service) -> None:
    image = CLONE / "serve" / "page" / "static" / "samples" / "4.png"
    client = str(CLONE / "examples" / "client.py")
    command = [sys.executable, client, str(image), "--model", "digits-robust", "--url", service.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "4"
    done = subprocess.run(
        [*command[:-3], "none", *command[-2:]], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "404 no such model; served: changing, digits-plain, digits-robust" in done.stderr
    module: dict[str, Any] = {"__name__": "client"}
    exec(compile(Path(client).read_text(), client, "exec"), module)
    x = pixels(3)
    [first, *rest] = module["Client"](service.url).infer("digits-robust", x.ravel().tolist(), list(x.shape))
    assert len(rest) == 2
    assert sum(first) == pytest.approx(1, abs=1e-5)


@pytest.mark.soak
def test_too_many_attacks_are_asked_to_come_again(service: Service) -> None:
    import base64

    body = {"image": base64.b64encode(png(pixels()[0])).decode(), "eps": 0.1, "steps": 20}

    def attack(_: int) -> httpx.Response:
        return httpx.post(f"{service.url}/v1/models/digits-robust:attack", json=body, timeout=PATIENCE)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(attack, range(48)))
    codes = {a.status_code for a in answers}
    assert codes == {200, 503}
    busy = next(a for a in answers if a.status_code == 503)
    assert busy.headers["retry-after"] == "1"
    assert busy.json() == {"error": "too many requests wait; come again later"}


@dataclass
class Sent:
    """A request, when the last of its bytes had left, and what came of it."""

    at: float = float("inf")
    outcome: Any = None  # True: the right answer; False: a wrong one; a status; the name of an error

    def trace(self, event: str, info: object) -> None:
        if event == "http11.send_request_body.complete":
            self.at = time.monotonic()


@pytest.mark.soak
def test_ctrl_c_says_what_it_does_and_nothing_else_is_said(folder: Path) -> None:
    """Ray Serve 2.60 shut down from its driver has the raylet print to stdout that tasks of its controller failed.

    A replica that is busy at the end, here for a second, is one that does not name its queue's length in time: a warning of no use.
    """
    with running(folder, "digits=models/digits-robust", "--host-by=ray") as service:
        busy = service.replicas("ledger")
        for pid in busy:
            os.kill(pid, signal.SIGSTOP)
        service.process.send_signal(signal.SIGINT)
        time.sleep(1)
        for pid in busy:
            os.kill(pid, signal.SIGCONT)
        assert service.process.stdout is not None
        shown = service.process.stdout.read()  # "serving ..." has been read
        assert service.process.wait(60) == 0
    assert [line.split(":")[0].strip() for line in shown.splitlines()] == [
        "the page",
        "all paths",
        "try",
        "Ctrl-C stops it.",
    ]
    said = [line for line in service.errors.read_text().splitlines() if not line.startswith("{")]
    assert [line.split()[0] for line in said if line] == ["sparring", "starting", "stopping:"], said


@pytest.mark.soak
@pytest.mark.parametrize("by", HOSTS)
def test_sigterm_lets_requests_end(by: str, folder: Path) -> None:
    """Requests that are on their way when SIGTERM comes are answered; then the process ends with 0."""
    x = pixels(64)
    right = expected(MODELS / "digits-robust" / "1", x)
    body = json.dumps(infer(x)).encode()
    sent: list[Sent] = []

    def client(url: str) -> None:
        """Asks until it is sent away."""
        with httpx.Client(base_url=url, timeout=PATIENCE) as http:
            while True:
                request = Sent()
                sent.append(request)
                try:
                    answer = http.post("/v2/models/digits/infer", content=body, extensions={"trace": request.trace})
                    request.outcome = answer.status_code
                    if answer.status_code == 200:
                        found = np.asarray(answer.json()["outputs"][0]["data"])
                        request.outcome = bool(np.abs(found - right.ravel()).max() < 1e-5)
                except httpx.TransportError as error:
                    request.outcome = type(error).__name__
                if request.outcome is not True:
                    return

    flags = ("digits=models/digits-robust", f"--host-by={by}")
    with running(folder, *flags) as service, ThreadPoolExecutor(48) as pool:
        clients_ended = [pool.submit(client, service.url) for _ in range(48)]
        deadline = time.monotonic() + 60  # until one has been there for longer than it takes to be read
        while not any(r.outcome is None and r.at < time.monotonic() - 0.4 for r in list(sent)):
            assert time.monotonic() < deadline, "no request takes long enough to be on its way"
            time.sleep(0.01)
        there = [r for r in list(sent) if r.at < time.monotonic() - 0.3]
        on_their_way = [r for r in there if r.outcome is None]
        service.process.send_signal(signal.SIGTERM)
        for future in clients_ended:
            future.result()
        assert service.process.wait(60) == 0, service.errors.read_text()
        assert on_their_way
        assert [r.outcome for r in there if r.outcome is not True] == []
        assert False not in [r.outcome for r in sent]
        if by == "ray":  # the proxy goes on listening; a local service does not
            assert 503 in [r.outcome for r in sent]
        assert not service.replicas("predictor")
