"""A new method is one new file: docs/adding-a-method.md as a test. The method is the one written out there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.conftest import Command
from tests.helpers import CLONE, bytes_of, small, small_flags

PAGE = CLONE / "docs" / "adding-a-method.md"


@pytest.fixture
def source() -> str:
    """The one complete file shown in the page."""
    blocks = re.findall(r"```python\n(\"\"\".*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_from_a_folder_of_the_users(source: str, tmp_path: Path, pooled: None, sparring: Command) -> None:
    """The path of a file is a method's name: trained over Ray, evaluated, and equal to one process in every byte."""
    file = tmp_path / "methods" / "ensemble_at.py"
    file.parent.mkdir()
    file.write_text(source)
    done = sparring(
        "train", str(file), *small_flags(max_steps=6), "--method.members=3", "--name=over-ray", "--json", "--no-report"
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["agents"]) == {"member0", "member1", "member2"}
    config = small(str(file), max_steps=6, method__members=3, team="local")
    local = launch.train(config, runs_dir=tmp_path / "runs", name="local", how=Circumstances(quiet=True))
    assert bytes_of(local.path) == bytes_of(tmp_path / "runs" / "over-ray")
    assert sparring("evaluate", "runs/over-ray", "--attacks=fgsm", "--examples=20", "--masking=0").returncode == 0
    launch.resume(tmp_path / "runs" / "over-ray", how=Circumstances(quiet=True))
    assert [p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith("ensemble_at")] == []


@pytest.mark.soak
def test_dropped_into_the_methods_folder(source: str, tmp_path: Path) -> None:
    """In a clone: it shows up in methods, recipes and train, with no other edit."""
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copy(CLONE / "sparring.py", clone)
    for layer in ("trainers", "agents", "cluster"):
        shutil.copytree(CLONE / layer, clone / layer)
    (clone / "trainers" / "methods" / "ensemble_at.py").write_text(source)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sparring.cluster.commands.main import main; "
        "sys.exit(main(['methods']) or main(['recipes']) or main(['train', 'ensemble_at', *sys.argv[2:]]))"
    )
    command = [sys.executable, "-c", code, str(clone), *small_flags(max_steps=2), "--team=local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ensemble_at-digits" in done.stdout
    assert "member1" in done.stdout
    assert (tmp_path / "runs" / "ensemble_at-digits-1" / "checkpoints" / "step-000002" / "COMMITTED").is_file()
