"""The report: its numbers, the matrix against a direct computation, and the page in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.cluster.evaluation.analysis import craft, predict, spread_out
from sparring.cluster.models.examples import load_test
from sparring.cluster.models.trained import load_agent
from sparring.cluster.reports import page as pages
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.config import DataConfig, Threat
from tests.conftest import Command
from tests.helpers import small

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.soak)], ids=["2-peers", "3-peers"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = small("mat", team="local", peers=request.param, max_steps=60, network="small_cnn:width=8")
    made = RunFolder(launch.train(config, runs_dir=tmp_path_factory.mktemp("runs"), how=Circumstances(quiet=True)).path)
    pages.make(made, examples=90)
    return made


def numbers(folder: RunFolder) -> dict[str, Any]:
    return dict(json.loads((folder.path / "report.json").read_text()))


def test_the_matrix_equals_a_direct_computation(folder: RunFolder) -> None:
    n = numbers(folder)
    test = load_test(DataConfig())
    split = test[spread_out(test, 90)]
    models = {a: load_agent(folder, a)[0] for a in n["cross"]["agents"]}
    assert len(models) == len(folder.config.method.roles())
    for i, a in enumerate(models):
        for j, b in enumerate(models):
            adv = craft(models[b], split, Threat("linf", 0.15), seed=0)
            assert (adv - split.pixels()).abs().max() <= 0.15 + 1e-6
            direct = (predict(models[a], adv) == split.all_labels()).double().mean().item()
            assert n["cross"]["accuracy"][i][j] == pytest.approx(direct, abs=1e-12)


def test_numbers_agree_with_each_other(folder: RunFolder) -> None:
    n = numbers(folder)
    assert n["n"] == 90
    for name, a in n["agents"].items():
        clean = a["confusion"]["clean"]
        assert sum(map(sum, clean)) == 90
        assert sum(clean[k][k] for k in range(10)) / 90 == pytest.approx(a["clean_accuracy"])
        i = n["cross"]["agents"].index(name)
        adversarial = a["confusion"]["adversarial"]
        assert sum(adversarial[k][k] for k in range(10)) / 90 == pytest.approx(n["cross"]["accuracy"][i][i])
        assert a["curve"][0]["accuracy"] == a["clean_accuracy"]
        at_eps = next(p for p in a["curve"] if p["eps"] == pytest.approx(0.15))
        assert at_eps["accuracy"] == pytest.approx(a["threats"]["linf:0.15"]["attacks"]["scaled-pgd-20"])
        shown = n["gallery"][name]
        assert shown["largest"] <= 0.15 + 1e-6
        assert 1 <= len(shown["images"]) <= 6
        fooled = [i["predicted_adversarial"] != i["label"] for i in shown["images"]]
        assert fooled == sorted(fooled, reverse=True)


def test_the_page_holds_the_numbers_and_nothing_from_outside(folder: RunFolder) -> None:
    text = html.unescape((folder.path / "report.html").read_text())
    n = numbers(folder)
    for a in n["agents"].values():
        assert f"{100 * a['clean_accuracy']:.1f} %" in text
        assert f"{100 * a['robust_accuracy']:.1f} %" in text
    for row in n["cross"]["accuracy"]:
        for value in row:
            assert f"{100 * value:.1f} %" in text
    assert "<script" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "batch_size: 32" in text


def test_what_each_term_weighs(folder: RunFolder) -> None:
    """Measured in the last step of every epoch and of the run; the page shows the means of what metrics.jsonl holds."""
    measured = [line for line in folder.metrics() if "shares" in line]
    per_epoch = -(-1294 // 32)  # 1,438 training images, a tenth of them held out
    assert {line["t"] for line in measured} == {per_epoch - 1, 59}
    for line in measured:
        assert line["shares"].keys() == {"hard", "own_sample", "peer_sample"}
        for kind in ("loss", "gradient"):
            assert sum(share[kind] for share in line["shares"].values()) == pytest.approx(1)
        assert line["shares"]["hard"]["loss"] == pytest.approx(line["values"]["hard"] / line["values"]["total"])
    text = (folder.path / "report.html").read_text()
    mean = sum(line["shares"]["hard"]["gradient"] for line in measured if line["agent"] == "peer0") / 2
    assert "Share of each term in the gradient" in text
    assert f"{100 * mean:.1f} %" in text


@pytest.mark.soak
def test_command_puts_runs_side_by_side(folder: RunFolder, sparring: Command, tmp_path: Path) -> None:
    done = sparring("report", folder.path, folder.path, "--examples=40", "--quiet")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert page.count('<section class="run">') == 2
    assert page.index("Side by side") < page.index("<h2>")
    assert (
        sparring("report", folder.path, folder.path, "--examples=40", "--quiet").returncode == 0
    )  # its own page again
    (tmp_path / "mine.html").write_text("precious")
    assert sparring("report", folder.path, "--examples=40", "--quiet", "--out=mine.html").returncode == 3
    assert (tmp_path / "mine.html").read_text() == "precious"
    assert sparring("report").returncode == 2
    pages.make(folder, examples=90)


def test_evaluate_cross(folder: RunFolder, sparring: Command) -> None:
    done = sparring("evaluate", folder.path, "--cross", "--attacks=fgsm", "--examples=30", "--json", "--quiet")
    cross = json.loads(done.stdout)["cross"]
    size = len(folder.config.method.roles())
    assert [len(row) for row in cross["accuracy"]] == [size] * size
    text = sparring("evaluate", folder.path, "--cross", "--attacks=fgsm", "--examples=30", "--quiet").stdout
    assert "on peer1" in text


def test_tensorboard_has_images_curves_and_hparams(folder: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def tags(*below: str) -> dict[str, Any]:
        board = EventAccumulator(str(folder.path.joinpath("tensorboard", *below)))
        board.Reload()
        return dict(board.Tags())

    assert {"adversarial/peer0", "clean/peer1", "cross_accuracy"} <= set(tags("report")["images"])
    assert {"total/peer0", "held_out_robust/peer1", "lr/peer0", "exchange_bytes/peer1"} <= set(tags()["scalars"])
    assert {"peer0/clean", "peer0/robust"} <= set(tags("hparams")["scalars"])


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, args=[*flags, "--disable-component-update"])
        yield made
        made.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (380, "dark")])
def test_in_a_browser(folder: RunFolder, browser: Any, width: int, scheme: str) -> None:
    """No console message, no request outside, nothing wider than the screen, and colours that follow the scheme."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda m: messages.append(m.text))
    page.on("pageerror", lambda e: messages.append(str(e)))
    page.on("request", lambda r: requests.append(r.url))
    url = (folder.path / "report.html").as_uri()
    page.goto(url)
    assert messages == []
    assert [r for r in requests if not r.startswith("data:")] == [url]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(15, 20, 25)")
    matrix = page.locator("table", has=page.get_by_text("crafted on peer1")).locator("td")
    size = len(folder.config.method.roles())
    expected = [f"{100 * v:.1f} %" for row in numbers(folder)["cross"]["accuracy"] for v in row]
    assert matrix.all_inner_texts() == expected
    assert len(expected) == size**2
    letters = page.evaluate("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)")
    assert letters == (15 if width > 480 else pytest.approx(0.82 * 15))
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("svg:not([aria-label])").count() == 0
    broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
    assert broken == 0


def test_an_affordable_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.cluster.evaluation import analysis
    from tests.helpers import TinyNet

    test = load_test(DataConfig())
    model = torch.nn.Sequential(torch.nn.Upsample(6), TinyNet(classes=10))
    assert analysis.affordable([model], test, Threat("linf", 0.1)) == 364  # a small split is used whole
    monkeypatch.setattr(analysis, "ALWAYS", 100)
    many = analysis.affordable([model], test, Threat("linf", 0.1))
    monkeypatch.setattr(analysis, "BUDGET", 0.0)
    assert many > analysis.affordable([model], test, Threat("linf", 0.1)) == 32
