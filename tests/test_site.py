"""The site that ``make site`` builds: whole, strict, without anything from elsewhere; and as a browser shows it."""

from __future__ import annotations

import functools
import html
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

import sparring
from sparring.cluster.commands.cli import COMMANDS
from tests.helpers import CLONE, with_docs_tools

pytestmark = pytest.mark.soak
CHROMIUM = shutil.which("chromium")
LOADS = {  # what a browser fetches by itself
    *(("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src"), ("embed", "src"), ("object", "data")),
    *(("link", "href"), ("video", "src"), ("audio", "src"), ("use", "href"), ("image", "href")),
}
PARTS = ("docs", "trainers", "agents", "cluster", "serve", "typing", "examples", "findings")
FILES = ("mkdocs.yml", "sparring.py", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def build(clone: Path, out: Path) -> subprocess.CompletedProcess[str]:
    env = with_docs_tools("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env["PYTHONPATH"] = env["PYTHONPATH"].replace(str(CLONE), str(clone), 1)
    return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "site"
    done = build(CLONE, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return out


class Seen(HTMLParser):
    """What a page holds: ids, links, and what it loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if (tag, name) == ("a", "href") and value:
                self.links.append(value)
            if (tag, name.removeprefix("xlink:")) in LOADS and value:
                self.loads.append(value)
            if name == "style" and value:
                self.loads += re.findall(r"url\(['\"]?([^'\")]+)", value)


def pages(site: Path) -> dict[Path, Seen]:
    return {p: Seen(p) for p in sorted(site.rglob("*.html")) if p.name != "404.html"}


def test_every_page_and_the_files_that_pages_link_to_are_there(site: Path) -> None:
    for page in [CLONE / "CONTRIBUTING.md", CLONE / "CHANGELOG.md", *(CLONE / "docs").glob("*.md")]:
        assert (site / page.stem / "index.html").is_file(), page
    outside = re.findall(r"\]\(\.\./([^)]+)\)", (CLONE / "docs" / "operations.md").read_text())
    assert len(outside) >= 5
    for path in outside:
        code = re.sub("<[^>]+>", "", (site / path / "index.html").read_text())
        assert (CLONE / path).read_text().splitlines()[-1].strip() in html.unescape(code), path
    assert "<h1" in (site / "index.html").read_text()


def test_every_command_has_its_help(site: Path) -> None:
    page = (site / "commands" / "index.html").read_text()
    for name in COMMANDS:
        section = page.partition(f'id="sparring-{name}"')[2].partition("<h2")[0]
        assert f"usage: sparring {name}" in re.sub("<[^>]+>", "", section), name
        assert "--help" in section, name


def test_help_is_plain_text_of_a_page_wide(site: Path) -> None:
    page = (site / "commands" / "index.html").read_text()
    helps = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert len(helps) == len(COMMANDS) + 2
    lines = [line for text in helps for line in html.unescape(re.sub("<[^>]+>", "", text)).splitlines()]
    assert max(map(len, lines)) <= 100
    assert not any("\x1b" in line for line in lines)


def test_every_public_name_has_its_entry(site: Path) -> None:
    page = (site / "api" / "index.html").read_text()
    for name in sparring.__all__:
        entry = page.partition(f'id="sparring.{name}"')[2][:4000]
        assert 'class="doc doc-heading"' in entry, name
        assert 'class="doc doc-contents' in entry, name
    for error in re.findall(r"^class (\w+)", (CLONE / "cluster" / "errors.py").read_text(), re.M):
        assert f'id="sparring.cluster.errors.{error}"' in page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page, seen in pages(site).items():
        assert [u for u in seen.loads if re.match(r"(\w+:)?//", u)] == [], page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text()
        loaded = re.findall(r"url\(['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
        assert [u for u in loaded if re.match(r"(\w+:)?//", u)] == [], sheet


def test_every_link_leads_to_a_page_and_a_heading(site: Path) -> None:
    seen = pages(site)
    for page, found in seen.items():
        for link in found.links:
            if re.match(r"\w+:", link):
                continue
            path, heading = urldefrag(unquote(link))
            there = (page.parent / path).resolve() if path else page
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{page}: {link}"
            assert not heading or there not in seen or heading in {"__skip", *seen[there].ids}, f"{page}: {link}"


def test_no_markup_is_left_as_text(site: Path) -> None:
    """A forge takes a list without an empty line before it, Markdown proper does not."""
    for page in pages(site):
        shown = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", page.read_text(), flags=re.DOTALL)
        for text in re.findall(r"<(?:p|li|td)>(.*?)</(?:p|li|td)>", shown, re.DOTALL):
            assert re.findall(r"^\s*(?:[-*|>] |#+ |```).*|\[[^\]]+\]\([^)]+\).*", text, re.M) == [], page


def test_a_dead_link_ends_the_build(tmp_path: Path) -> None:
    for part in PARTS:
        shutil.copytree(
            CLONE / part, tmp_path / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "static")
        )
    for file in FILES:
        shutil.copy(CLONE / file, tmp_path / file)
    with (tmp_path / "docs" / "data.md").open("a") as page:
        page.write("\n[a](gone.md) [b](../examples/gone.py) [c](teachers.md#no-such-heading)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for target in ("gone.md", "../examples/gone.py", "no-such-heading"):
        assert target in done.stderr
    assert "3 warnings in strict mode" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser(url: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, args=[*flags, "--disable-component-update"])
        yield made
        made.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(site: Path, url: str, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda m: messages.append(m.text))
    page.on("pageerror", lambda e: messages.append(str(e)))
    page.on("request", lambda r: requests.append(r.url))
    for built in pages(site):
        page.goto(f"{url}/{built.parent.relative_to(site)}/")
        wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert max(wide) <= width, built
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert page.evaluate(broken) == [], built
    page.goto(url)
    ready = "document.querySelector('.md-search-result__meta').textContent.includes('Type to start')"
    page.wait_for_function(ready, timeout=30_000)
    page.keyboard.press("/")
    page.keyboard.type("disagreement")
    page.locator(".md-search-result__item a").first.wait_for(timeout=30_000)
    page.locator(".md-search-result__item a").first.click()
    page.wait_for_url("**/?h=*")
    assert "disagreement" in page.inner_text("article").lower()
    assert messages == []
    assert [r for r in requests if not r.startswith((f"{url}/", "data:", "blob:"))] == []
