"""The page in Chromium: an image is dropped, the slider moves, the plain model flips while the robust one holds."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from sparring.agents import rollout
from sparring.serve import web
from sparring.serve.settings import Settings
from tests.helpers import CLONE
from tests.serve import made
from tests.serve.live import free_port
from tests.serve.local import Local

CHROMIUM = shutil.which("chromium")
SAMPLES = CLONE / "serve" / "page" / "static" / "samples"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The two models that come along, behind HTTP in a thread of this process: a browser sees no difference to replicas."""
    with served(Settings(models_dir=str(CLONE / "serve" / "demo"), demo=True)) as url:
        yield url


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    options = {"host": "127.0.0.1", "port": free_port(), "log_level": "warning"}
    server = uvicorn.Server(uvicorn.Config(web.build(Local(settings), settings), **options))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{options['port']}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(url: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, args=[*flags, "--disable-component-update"])
        yield made
        made.close()


class Page:
    """The page, and what went wrong on it."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.messages.append(m.text))
        self.page.on("pageerror", lambda e: self.messages.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(url)

    def drop(self, file: Path) -> None:
        """Let go of a file over the drop zone."""
        script = """async ([bytes, name]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
        self.page.evaluate(script, [list(file.read_bytes()), file.name])

    def eps(self, value: float) -> None:
        self.page.evaluate(
            "v => { const e = document.getElementById('eps'); e.value = v; e.dispatchEvent(new Event('input')); }",
            value,
        )

    def status(self, words: str) -> str:
        """What the page says, once it holds the words."""
        self.page.wait_for_function(
            "w => document.getElementById('status').textContent.includes(w)", arg=words, timeout=30_000
        )
        return str(self.page.inner_text("#status"))

    def verdicts(self) -> list[str]:
        return [str(t) for t in self.page.locator(".verdict").all_inner_texts()]


def test_the_plain_model_flips_while_the_robust_one_holds(url: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, url, viewport={"width": 1000, "height": 900}, color_scheme="light")
    page.status("Choose an image.")
    page.drop(SAMPLES / "7.png")
    said = page.status("digits-plain: 7")
    assert "digits-robust: 7" in said
    bars = page.page.locator("article").first.locator("tbody tr")
    assert bars.count() == 5
    assert bars.first.locator("td").first.inner_text() == "7"
    assert (
        page.page.locator("article").first.locator(".robustness").inner_text().startswith("Clean 98.6 %, robust 78.8 %")
    )
    page.eps(0.15)
    said = page.status("flipped")
    assert "digits-robust: 7" in said
    assert "holds" in said
    robust, plain = page.verdicts()
    assert robust.startswith("Holds: 7")
    assert plain.startswith("Flips: 7 becomes")
    assert page.page.locator("img.perturbation").first.is_visible()
    assert page.page.evaluate("document.querySelector('img.adversarial').naturalWidth") == 8
    page.page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    page.eps(0)
    page.status("digits-plain: 7")
    assert page.verdicts() == ["", ""]
    assert page.messages == []
    assert all(r.startswith((url, "data:", "blob:")) for r in page.requests)


def test_by_keyboard_on_a_narrow_dark_screen(url: str, browser: Any) -> None:
    page = Page(browser, url, viewport={"width": 360, "height": 700}, color_scheme="dark")
    page.status("Choose an image.")
    for _ in range(20):
        page.page.keyboard.press("Tab")
        if page.page.evaluate("document.activeElement.closest('#samples') !== null"):
            break
    page.page.keyboard.press("Enter")
    page.status("digits-robust: 0")
    assert page.page.locator("#samples button").first.get_attribute("aria-pressed") == "true"
    page.page.locator("#eps").focus()
    for _ in range(3):
        page.page.keyboard.press("ArrowRight")
    assert page.page.inner_text("#eps-value") == "0.03"
    page.status("holds")
    wide = "[...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > 360).map(e => e.outerHTML.slice(0, 60))"
    assert page.page.evaluate(wide) == []
    assert page.messages == []
    unnamed = "[...document.querySelectorAll('input,select,button,img')].filter(e => !e.hidden && !(e.labels && e.labels.length) && !e.textContent.trim() && !e.alt && !e.querySelector('img[alt]') && e.checkVisibility()).length"
    assert page.page.evaluate(unnamed) == 0


def test_a_file_that_is_no_image(url: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, url)
    page.status("Choose an image.")
    (tmp_path / "x.png").write_text("hello")
    page.drop(tmp_path / "x.png")
    page.status("not a PNG or JPEG image")


DETECTOR = {"n": 200, "clean_mean": 0.0, "clean_variance": 1e-9, "auroc": {"one": 0.9, "all": 0.8, "adaptive": None}}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_service_now(browser: Any, tmp_path: Path, width: int) -> None:
    """Two versions of an ensemble whose members, with random weights, disagree, one of them a shadow; looked at wide and narrow."""
    for seed in (0, 1):
        made.published(tmp_path / "models" / "both", seed=seed, members=2, detector=DETECTOR)
    rollout.save(tmp_path / "models" / "both", rollout.Rollout(version=1, shadow=2))
    with served(Settings(models_dir=str(tmp_path / "models"))) as url:
        for seed in range(4):
            asked = made.infer(made.pixels(30, seed=seed))
            assert httpx.post(f"{url}/v2/models/both/infer", json=asked, timeout=60).status_code == 200
        page = Page(browser, f"{url}/dashboard", viewport={"width": width, "height": 900})
        page.status("Seen at")
        page.page.wait_for_function(
            "document.querySelectorAll('article')[1]?.textContent.includes('as a shadow: agrees')"
        )
        first, second = page.page.locator("article").all_inner_texts()
        assert first.startswith("both, version 1: answers")
        assert "120" in first
        assert second.startswith("both, version 2: shadow")
        figures = "AUROC 0.90 where one member is attacked, 0.80 where all are, too few succeed against an attacker who knows of it (n = 200)"
        assert figures in page.page.inner_text(".alarm")
        assert page.page.inner_text("#processes") == "1"
        assert page.page.inner_text("#failed") == "0"
        assert page.page.inner_text("#p50").endswith(("ms", "s"))
        wide = f"[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > {width}).map(e => e.outerHTML.slice(0, 60))"
        assert page.page.evaluate(wide) == []
        page.page.screenshot(path=str(tmp_path / f"dashboard-{width}.png"), full_page=True)
        assert page.messages == []
        assert all(r.startswith((url, "data:")) for r in page.requests)


def test_the_docs_page(url: str, browser: Any) -> None:
    page = Page(browser, f"{url}/docs")
    assert page.page.locator("h3").count() >= 12
    assert page.messages == []
    assert all(r.startswith(url) for r in page.requests)
