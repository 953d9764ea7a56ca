"""Pages and numbers: tables equal their JSON, links lead somewhere, and no flag is invented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.helpers import CLONE

PAGES = [CLONE / "README.md", *sorted((CLONE / "docs").glob("*.md"))]


def test_tables_equal_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, "docs/tables.py", "--check"], cwd=CLONE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
        if command in ("train", "evaluate", "resume", "demo", "fsck"):
            if command not in known:
                known[command] = sparring(command, *(["mat"] if command == "train" else []), "--help").stdout
            for flag in re.findall(r"(--[a-z][\w.-]*)", rest):
                assert flag in known[command] + " --peers --method.members", f"sparring {command} {flag}"
