"""Pages and numbers: tables equal their JSON, links lead somewhere, and no flag is invented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.trainers import methods
from tests.conftest import Command
from tests.helpers import CLONE

PAGES = [CLONE / "README.md", *sorted((CLONE / "docs").glob("*.md"))]


def test_tables_equal_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, "docs/tables.py", "--check"], cwd=CLONE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["pictures", "speed", "claimed"])
def test_pictures_are_drawn_from_methods_and_results(script: str) -> None:
    command = [sys.executable, f"docs/{script}.py", "--check"]
    done = subprocess.run(command, cwd=CLONE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_method_has_a_section_and_a_picture() -> None:
    page = (CLONE / "docs" / "methods.md").read_text()
    assert all(f"images/methods/{name}.svg" in page for name in methods.names())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:trainers|agents|cluster|tests|docs|benchmarks)/[\w/.-]+\.\w+)`", page.read_text()):
        assert (CLONE / path).exists() or "..." in path, path


def test_every_flag_shown_is_one(sparring: Command) -> None:
    shown = set(re.findall(r"sparring (\w+)([^\n`#]*)", "\n".join(p.read_text() for p in PAGES)))
    known: dict[str, str] = {}
    for command, rest in shown:
        if command in ("train", "evaluate", "resume", "demo", "fsck", "report"):
            method = next((w for w in rest.split()[:1] if w in methods.names()), "mat") if command == "train" else ""
            key = f"{command} {method}".strip()
            if key not in known:
                known[key] = sparring(*key.split(), "--help").stdout
            for flag in re.findall(r"(--[a-z][\w.-]*)", rest):
                assert flag in known[key] + " --peers --method.members", f"sparring {command} {flag}"


@pytest.mark.soak
def test_quickstart_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(CLONE / "examples" / "quickstart.py")]
    environment = {**os.environ, "PYTHONPATH": str(CLONE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "robust" in done.stdout


def test_data_set_page_is_a_working_example(sparring: Command, tmp_path: Path) -> None:
    page = (CLONE / "docs" / "adding-a-data-set.md").read_text()
    (tmp_path / "images.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    done = sparring(
        "train", "mat", "--data.name=images.py:make", "--epochs=1", "--team=local", "--network=small_cnn:width=2"
    )
    assert done.returncode == 0, done.stderr
