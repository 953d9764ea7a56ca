"""The HTTP surface without Ray: every path, the limits, one shape for all errors."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from sparring.agents import model_folder
from sparring.agents.cascade import margin
from sparring.serve import web
from sparring.serve.guard import HEADERS
from sparring.serve.images import decode, decode_base64
from sparring.serve.settings import Limits, Settings
from tests.serve.local import Local
from tests.serve.made import SHAPE, infer, pixels, png, published


def client(folder: Path, **options: Any) -> TestClient:
    settings = Settings(models_dir=str(folder), **options)
    return TestClient(web.build(Local(settings), settings), base_url="http://127.0.0.1:8000", client=("127.0.0.1", 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    published(made / "digits")
    published(made / "digits", seed=1)
    published(made / "rgb", shape=(3, 16, 16))
    published(made / "pair", members=2)
    return made


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[TestClient]:
    with client(folder, demo=True, limits=Limits(body_bytes=200_000, images=16)) as made:
        yield made


def test_every_path_of_the_protocol(http: TestClient) -> None:
    """Source: the Open Inference Protocol's REST specification, version 2."""
    assert http.get("/v2").json().keys() == {"name", "version", "extensions"}
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    size = {"datatype": "FP32", "shape": [-1, 10]}
    for path in ("/v2/models/digits", "/v2/models/digits/versions/1"):
        assert http.get(path).json() == {
            "name": "digits",
            "versions": ["1", "2"],
            "platform": "pytorch",
            "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", **size}, {"name": "probabilities", **size}],
        }
        assert http.get(f"{path}/ready").json() == {"name": "digits", "ready": True}
    x = pixels(3)
    for version, path in (("2", "/v2/models/digits/infer"), ("1", "/v2/models/digits/versions/1/infer")):
        answer = http.post(path, json=infer(x, id="mine")).json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", version, "mine")
        tensors = {t["name"]: t for t in answer["outputs"]}
        assert tensors.keys() == {"logits", "probabilities"}
        for t in tensors.values():
            assert (t["shape"], t["datatype"], len(t["data"])) == ([3, 10], "FP32", 30)
        assert np.reshape(tensors["probabilities"]["data"], (3, 10)).sum(1) == pytest.approx(1, abs=1e-5)


def test_an_upload_is_seen_as_the_card_says(tmp_path: Path) -> None:
    """A bright image with a dark edge: a model that was evaluated on the middle half is asked about one that is bright all over."""
    seen, bright = np.zeros((1, 32, 32), np.float32), np.ones((1, 32, 32), np.float32)
    seen[:, 3:29, 3:29] = 1
    version = published(tmp_path / "m")
    card = json.loads((version / "card.json").read_bytes())
    (version / "card.json").write_text(json.dumps(card | {"preparation": {"middle": 0.5}}))
    published(tmp_path / "whole")
    tops = {}
    with client(tmp_path, demo=True) as http:
        for name, x in (("m", seen), ("m", bright), ("whole", seen), ("whole", bright)):
            answer = http.post(f"/v1/models/{name}:classify", content=png(x)).json()
            tops[name, x is seen] = [t["probability"] for t in answer["top"]]
        asked = {"image": base64.b64encode(png(seen)).decode(), "eps": 0.1, "steps": 1}
        shown = http.post("/v1/models/m:attack", json=asked).json()["images"]["clean"]
    assert tops["m", True] == tops["m", False] == tops["whole", False] != tops["whole", True]
    assert decode(decode_base64(shown), SHAPE, pixels=64).min() == 1


@pytest.mark.parametrize("share", [0, 1.5, "half", True])
def test_a_card_with_no_middle_that_can_be_seen_is_not_served(share: object, tmp_path: Path) -> None:
    version = published(tmp_path / "m")
    card = json.loads((version / "card.json").read_bytes())
    (version / "card.json").write_text(json.dumps(card | {"preparation": {"middle": share}}))
    with client(tmp_path) as http:
        assert "of an image's middle is seen" in http.get("/v1/models").json()["models"][0]["refused"]["1"]


def test_nested_data_and_chosen_outputs(http: TestClient) -> None:
    x = pixels(2)
    flat = http.post("/v2/models/digits/infer", json=infer(x, outputs=[{"name": "logits"}])).json()
    asked = infer(x)
    asked["inputs"][0]["data"] = x.tolist()
    nested = http.post("/v2/models/digits/infer", json=asked).json()
    assert [t["name"] for t in flat["outputs"]] == ["logits"]
    assert nested["outputs"][0] == flat["outputs"][0]
    assert "id" not in flat


def test_an_ensemble_answers_how_much_it_disagrees(http: TestClient) -> None:
    answer = http.post("/v2/models/pair/infer", json=infer(pixels(4))).json()
    assert answer["outputs"][2]["name"] == "disagreement"
    assert answer["outputs"][2]["shape"] == [4]
    seen = http.post("/v1/models/pair:classify", content=png(pixels()[0])).json()
    assert 0 <= seen["disagreement"] < 1


def test_a_cascade_says_who_has_answered(tmp_path: Path) -> None:
    """Its small network is sure of some images only; the answer is that of the loaded model, to the bit; counted and attacked as others are."""
    x = pixels(16)
    small = model_folder.load(published(tmp_path / "elsewhere" / "small")).eval()
    with torch.inference_mode():
        width = float(margin(small(torch.from_numpy(x)).log_softmax(1)).median())
    version = published(tmp_path / "models" / "two", members=2, width=width)
    with client(tmp_path / "models", demo=True) as http, torch.inference_mode():
        answer = http.post("/v2/models/two/infer", json=infer(x)).json()
        told = {t["name"]: np.reshape(t["data"], t["shape"]).astype(np.float32) for t in answer["outputs"]}
        logits, asked = model_folder.load(version).decide(torch.from_numpy(x))
        assert np.array_equal(told["logits"], logits.numpy())
        assert told["large"].tolist() == asked.float().tolist()
        assert 0 < told["large"].sum() < 16
        seen = http.post("/v1/models/two:classify", content=png(x[0])).json()
        assert seen["large"] is bool(asked[0])
        images = int(told["large"].sum()) + seen["large"]
        assert f'cascade_large_images_total{{model="two",version="1"}} {images}.0' in http.get("/metrics").text
        attacked = {"image": base64.b64encode(png(x[0])).decode(), "eps": 0.3}
        assert http.post("/v1/models/two:attack", json=attacked).json()["eps"] == 0.3


def test_a_file_and_the_same_pixels_get_the_same_answer(http: TestClient) -> None:
    x = pixels()
    logits = http.post("/v2/models/digits/infer", json=infer(x)).json()["outputs"][1]["data"]
    content = png(x[0])
    raw = http.post("/v1/models/digits:classify?top=3", content=content, headers={"content-type": "image/png"}).json()
    coded = http.post("/v1/models/digits:classify?top=3", json={"image": base64.b64encode(content).decode()}).json()
    assert raw == coded
    assert (raw["model"], raw["version"], len(raw["top"])) == ("digits", 2, 3)
    order = np.argsort(logits)[::-1][:3]
    assert [t["index"] for t in raw["top"]] == order.tolist()
    assert [t["class"] for t in raw["top"]] == [f"class {i}" for i in order]
    assert [t["probability"] for t in raw["top"]] == pytest.approx([logits[i] for i in order], abs=1e-6)
    assert http.post("/v1/models/digits:classify?version=1", content=content).json()["version"] == 1


def test_cards_and_the_list(http: TestClient) -> None:
    listed = http.get("/v1/models").json()
    assert listed["demo"] is True
    assert [m["name"] for m in listed["models"]] == ["digits", "pair", "rgb"]
    assert listed["models"][0]["robustness"] == "not measured"
    assert http.get("/v1/models/digits/card?version=1").json()["version"] == 1


def test_an_attack_stays_in_its_ball(http: TestClient) -> None:
    x = pixels()[0]
    asked = {"image": base64.b64encode(png(x)).decode(), "eps": 0.1, "steps": 5}
    answer = http.post("/v1/models/digits:attack", json=asked).json()
    assert (answer["norm"], answer["eps"], answer["steps"]) == ("linf", 0.1, 5)
    assert answer["flipped"] == (answer["clean"][0]["index"] != answer["adversarial"][0]["index"])
    from sparring.serve.images import decode, decode_base64

    seen = decode(decode_base64(answer["images"]["adversarial"]), x.shape, pixels=1000)
    assert 0.09 < np.abs(seen - x).max() <= 0.1 + 1 / 255
    assert http.post("/v1/models/digits:attack", json={**asked, "eps": 0}).json()["flipped"] is False


def test_attacks_are_off_without_demo(folder: Path) -> None:
    with client(folder) as http:
        assert http.post("/v1/models/digits:attack", json={}).status_code == 404
        assert http.get("/v1/models").json()["demo"] is False


def deep(levels: int) -> bytes:
    return b'{"inputs": ' + b"[" * levels + b"]" * levels + b"}"


def changed(**values: Any) -> bytes:
    asked = infer(pixels(2))
    asked["inputs"][0] |= values
    return json.dumps(asked).encode()


BAD: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "the body is not JSON"),
    "not UTF-8": (b"\xff\xfe", "the body is not JSON"),
    "a list": (b"[]", "the body is a list; expected an object"),
    "empty": (b"", "the body is not JSON"),
    "deep": (deep(50_000), "more than 2024 values or 1160 lists"),
    "no inputs": (b"{}", "expected one entry in inputs"),
    "two inputs": (b'{"inputs": [{}, {}]}', "expected one entry in inputs"),
    "another name": (changed(name="x"), 'input "x" is unknown'),
    "dtype": (changed(datatype="FP64"), "datatype \"FP64\" of 'images'; expected 'FP32', 'FP16', 'BF16', 'UINT8'"),
    "dtype of another kind": (changed(datatype=["FP32"]), "datatype \\[\"FP32\"\\] of 'images'"),
    "bytes as UINT8 beyond": (changed(datatype="UINT8", data=[256] * 128), "whole numbers from 0 to 255"),
    "halves as UINT8": (changed(datatype="UINT8", data=[0.5] * 128), "whole numbers from 0 to 255"),
    "BF16 in JSON": (changed(datatype="BF16"), "BF16 has no form in JSON"),
    "bytes promised, none there": (
        json.dumps({"inputs": [{**infer(pixels())["inputs"][0], "parameters": {"binary_data_size": 256}}]}).encode(),
        "has data in the JSON and says that they follow it as bytes",
    ),
    "a size that is none": (changed(parameters={"binary_data_size": "x"}), "expected a number of bytes"),
    "parameters of a list": (changed(parameters=[]), "parameters of 'images' is not an object"),
    "binary as a number": (
        json.dumps(infer(pixels(), parameters={"binary_data_output": 1})).encode(),
        "expected true or false",
    ),
    "no shape": (changed(shape=None), "shape null"),
    "wrong shape": (changed(shape=[2, 3, 8, 8]), "expected \\[B, 1, 8, 8\\]"),
    "negative": (changed(shape=[-2, 1, 8, 8]), "B at least 1"),
    "no images": (changed(shape=[0, 1, 8, 8], data=[]), "B at least 1"),
    "overflowing": (changed(shape=[2**62, 1, 8, 8]), "at most 16"),
    "huge number": (changed(shape=[10**300, 1, 8, 8]), "at most 16"),
    "shape of texts": (changed(shape=["2", 1, 8, 8]), "expected \\[B"),
    "shape of booleans": (changed(shape=[True, 1, 8, 8]), "expected \\[B"),
    "too many": (
        json.dumps(infer(np.zeros((17, 1, 8, 8), np.float32))).encode(),
        "17 images in one request; at most 16",
    ),
    "too few values": (changed(data=[0.5]), "expected \\[2, 1, 8, 8\\], or 128 numbers"),
    "ragged": (changed(data=[[0.5], [0.5, 0.5]]), "ragged"),
    "texts": (changed(data=["0.5"] * 128), "not numbers"),
    "null": (changed(data=[None] * 128), "not numbers"),
    "booleans": (changed(data=[True] * 128), "not numbers"),
    "an object": (changed(data={}), "expected a list of numbers"),
    "NaN": (changed(data=[float("nan")] * 128), "NaN is not a JSON number"),
    "infinity": (changed(data=[float("inf")] * 128), "Infinity is not a JSON number"),
    "1e999": (changed().replace(b'"data": [', b'"data": [1e999, ', 1), "expected \\[2|finite"),
    "huge integer": (changed(data=[10**400] * 128), "not numbers"),
    "bytes": (changed(data=[255.0] * 128), "divide bytes by 255"),
    "below zero": (changed(data=[-0.1] * 128), "lie in \\[0, 1\\]"),
    "an output twice": (json.dumps(infer(pixels(), outputs=[{"name": "logits"}] * 2)).encode(), "named twice"),
    "half a character": (json.dumps(infer(pixels(), id="\ud800")).encode(), "expected a text"),
    "long texts": (changed(data=["a" * 1000] + [""] * 127), "not numbers"),
    "mixed with true": (changed(data=[True] + [0.5] * 127), "not numbers"),
    "another output": (json.dumps(infer(pixels(), outputs=[{"name": "x"}])).encode(), 'output "x" is unknown'),
    "outputs of numbers": (json.dumps(infer(pixels(), outputs=[3])).encode(), "output null"),
    "id": (json.dumps(infer(pixels(), id=3)).encode(), "id 3; expected a text"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_inference_requests(kind: str, http: TestClient) -> None:
    body, words = BAD[kind]
    answer = http.post("/v2/models/digits/infer", content=body)
    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}
    assert re.search(words, answer.json()["error"]), answer.json()
    assert "Traceback" not in answer.text
    assert len(answer.text) < 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"eps": 2}, "image must be"),
        ({"image": "%"}, "not base64"),
        ({"image": base64.b64encode(b"GIF89a").decode(), "eps": 0.1}, "not a PNG or JPEG"),
        ({"eps": 2}, "eps must be a number from 0 to 1"),
        ({"eps": "0.1"}, "eps must be"),
        ({"eps": True}, "eps must be"),
        ({"eps": 0.1, "steps": 1000}, "steps must be a whole number from 1 to 20"),
        ({"eps": 0.1, "label": 10}, "label must be a whole number from 0 to 9"),
    ],
)
def test_bad_attacks(body: dict[str, Any], words: str, http: TestClient) -> None:
    image = {"image": base64.b64encode(png(pixels()[0])).decode()} if words != "image must be" else {}
    answer = http.post("/v1/models/digits:attack", json={**image, **body})
    assert answer.status_code == 422
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v2/models/none", "no such model; served: digits, pair, rgb"),
        ("/v2/models/digits/versions/7", "no such version of digits; served: 1, 2"),
        ("/v2/models/digits/versions/-1", "versions are whole numbers"),
        ("/v2/models/digits/versions/99999999999999999999", "versions are whole numbers"),
        ("/v1/models/digits/card?version=x", "versions are whole numbers"),
        ("/v2/models/..%2f..%2fetc%2fpasswd", "no such"),
        ("/v2/models/%00", "no such"),
        ("/static/../web.py", "no such path"),
        ("/static/%2e%2e/index.html", "no such path"),
        ("/nowhere", "no such path; see /docs"),
    ],
)
def test_what_is_not_there(path: str, words: str, http: TestClient) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert words in answer.json()["error"]


def test_other_methods_and_bad_queries(http: TestClient) -> None:
    assert http.delete("/v2").status_code == 405
    assert http.delete("/v2").json() == {"error": "Method Not Allowed"}
    answer = http.post("/v1/models/digits:classify?top=0", content=b"")
    assert answer.status_code == 422
    assert "query.top" in answer.json()["error"]


def test_head_is_get_without_the_content(http: TestClient) -> None:
    for path in ("/v2", "/v1/models/digits/card", "/v2/health/live"):
        answer, whole = http.head(path), http.get(path)
        assert answer.status_code == 200
        assert answer.content == b""
        assert answer.headers["content-length"] == whole.headers["content-length"]


class Slow(Local):
    """Takes long for every answer."""

    async def predict(self, *args: Any, **options: Any) -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}


def test_an_answer_that_takes_long_is_this_services_fault(folder: Path) -> None:
    settings = Settings(models_dir=str(folder), limits=Limits(seconds=0.3, retry_after=7))
    with TestClient(web.build(Slow(settings), settings), base_url="http://127.0.0.1", client=("127.0.0.1", 1)) as http:
        answer = http.post("/v2/models/digits/infer", json=infer(pixels()))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json() == {"error": "no answer within 0.3 s"}


class Counting(Local):
    """Knows how much was asked in one batch."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.images: list[int] = []
        asked = self._batches._answer

        def answer(questions: Any) -> Any:
            self.images.append(sum(len(q.x) for q in questions))
            time.sleep(0.05)  # so that others come meanwhile
            return asked(questions)

        self._batches._answer = answer


def test_a_batch_is_counted_in_images(folder: Path) -> None:
    """A large request is asked in parts, and what others ask comes between them."""
    settings = Settings(models_dir=str(folder), batch=4)
    server = Counting(settings)

    async def ask() -> list[dict[str, Any]]:
        sizes = (10, 3, 3, 2)
        return await asyncio.gather(*(server.predict("digits", None, pixels(size)) for size in sizes))

    answers = asyncio.run(ask())
    assert [len(a["logits"]) for a in answers] == [10, 3, 3, 2]
    assert sum(server.images) == 18
    assert max(server.images) <= 4


def test_bodies_are_bounded_before_they_are_kept(http: TestClient) -> None:
    """By the declared length, and by counting where none is declared."""
    assert http.post("/v1/models/digits:classify", content=bytes(200_001)).status_code == 413
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(10_000):
            taken += 1000
            yield bytes(1000)

    answer = http.post("/v1/models/digits:classify", content=endless())
    assert answer.status_code == 413
    assert answer.json() == {"error": "the body is larger than 200000 bytes"}
    answer = http.post("/v2", headers={"content-length": "1_0"})
    assert answer.status_code == 400
    assert answer.json() == {"error": "the header content-length is not a number"}


def test_headers_and_request_ids(http: TestClient) -> None:
    for path in ("/", "/docs", "/v2", "/nowhere"):
        answer = http.get(path)
        for name, value in HEADERS:
            assert answer.headers[name.decode()] == value.decode()
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert http.get("/v2", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert http.get("/v2", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"
    asked = http.options("/v2", headers={"origin": "http://127.0.0.1:8000", "access-control-request-method": "POST"})
    assert asked.status_code == 405
    assert "access-control-allow-methods" not in asked.headers


def test_other_names_of_this_machine_are_refused_without_a_token(http: TestClient) -> None:
    """A page elsewhere whose name is made to mean 127.0.0.1 reaches nothing."""
    assert http.get("/v2", headers={"host": "evil.example:8000"}).status_code == 421
    assert http.get("/v2", headers={"host": "localhost:8000"}).status_code == 200
    assert http.get("/v2", headers={"host": "[::1]:8000"}).status_code == 200
    for name in ("", "127.0.0.1.evil.example", "0.0.0.0"):
        assert http.get("/v2", headers={"host": name}).status_code == 421


def test_other_machines_are_refused_without_a_token(folder: Path, http: TestClient) -> None:
    settings = Settings(models_dir=str(folder))
    with TestClient(web.build(Local(settings), settings), base_url="http://localhost", client=("10.0.0.9", 1)) as far:
        assert far.get("/v2").status_code == 421


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}]
)
def test_pages_from_elsewhere_cannot_spend_this_machines_time(headers: dict[str, str], http: TestClient) -> None:
    answer = http.post("/v1/models/digits:classify", content=png(pixels()[0]), headers=headers)
    assert answer.status_code == 403
    own = http.post("/v1/models/digits:classify", content=png(pixels()[0]), headers={"origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200


def test_a_token(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with client(folder, token_file=str(tmp_path / "token")) as http:
        for path in ("/", "/docs", "/openapi.json", "/v2/health/ready", "/static/page.js"):
            assert http.get(path).status_code == 200
        for path in ("/v2", "/v1/models", "/metrics", "/v2/models/digits"):
            assert http.get(path).status_code == 401
            assert http.get(path).headers["www-authenticate"] == "Bearer"
            for wrong in ("Bearer x", "Basic secret", "Bearer", "secret", "Bearer secret2"):
                assert http.get(path, headers={"authorization": wrong}).status_code == 401
            assert http.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
        assert http.get("/v2", headers={"authorization": "Bearer secret", "host": "any.example"}).status_code == 200


def test_metrics_count_by_route(http: TestClient) -> None:
    """The route's form, not the path: a caller cannot make as many series as it likes."""
    for name in ("a", "b", "c"):
        http.get(f"/v2/models/{name}")
    text = http.get("/metrics").text
    assert re.search(r'sparring_requests_total\{method="GET",route="/v2/models/\{name\}",status="404"\} [1-9]', text)
    assert "/v2/models/a" not in text
    http.request("ZZ", "/v2")
    assert 'method="other"' in http.get("/metrics").text
    assert http.get("/v2/", follow_redirects=False).status_code == 404
    assert "sparring_request_seconds_bucket" in text


def test_docs_name_every_path_and_need_nothing_from_elsewhere(http: TestClient) -> None:
    page, described = http.get("/docs").text, http.get("/openapi.json").json()
    for path in described["paths"]:
        assert path.replace("{", "{") in page
    assert "/v1/models/{name}:classify" in described["paths"]
    for text in (page, http.get("/").text):
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
        assert "<script>" not in text
        assert "style=" not in text


def test_nothing_served_is_not_ready(tmp_path: Path) -> None:
    with client(tmp_path) as http:
        assert http.get("/v2/health/live").status_code == 200
        answer = http.get("/v2/health/ready")
        assert answer.status_code == 503
        assert answer.json() == {"error": "not ready: no model"}


def test_a_defect_tells_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Local, *args: Any) -> None:
        raise RuntimeError("/home/secret/path")

    monkeypatch.setattr(Local, "predict", broken)
    settings = Settings(models_dir=str(folder))
    app = web.build(Local(settings), settings)
    options: Any = {"base_url": "http://localhost", "client": ("::1", 1), "raise_server_exceptions": False}
    with TestClient(app, **options) as http:
        answer = http.post("/v2/models/digits/infer", json=infer(pixels()))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["error"]
