"""What a shell offers while one types, asked by real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.cluster.commands import cli, completion
from tests.conftest import Command
from tests.helpers import CLONE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, a model, and the command by its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("")
    (tmp_path / "models" / "robust" / "1").mkdir(parents=True)
    (tmp_path / "models" / "robust" / "1" / "MANIFEST.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "sparring"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {CLONE / "sparring.py"} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def help_of(command: str) -> str:
    return f"usage of {command}: --models-dir PATH, --json, --attack.eps FLOAT"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ev"], ["evaluate"]),
        (["comp"], ["compare", "completion"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["evaluate", ""], ["runs/first", "runs/second", "models/robust"]),
        (["compare", "runs/first", "runs/s"], ["runs/second"]),
        (["rollout", ""], ["robust"]),
        (["serve", ""], ["robust=models/robust"]),
        (["frontier", "mtar"], ["mtard"]),
        (["train", "mat-cifar10-res"], ["mat-cifar10-resnet18"]),
        (["train", "--a"], ["--attack.eps"]),
        (["nothing", ""], []),
        ([], [*cli.COMMANDS, "completion"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_words(typed: list[str], offered: list[str]) -> None:
    assert completion.words(typed, list(cli.COMMANDS), help_of) == offered


def test_every_command_is_a_command() -> None:
    assert set(completion.TAKES) <= set(cli.COMMANDS)


def test_flags_are_those_of_the_help(sparring: Command) -> None:
    assert sparring("complete", "publish", "--wi").stdout == "--width\n"
    assert sparring("completion", "tcsh").returncode == 2


SHELLS = {
    "bash": 'source <(sparring completion bash); COMP_WORDS=(sparring compare runs/s); COMP_CWORD=2; _sparring; echo "${COMPREPLY[@]}"',
    "zsh": "compdef() {}; compadd() { print -l -- ${(P)2} }; source <(sparring completion zsh); words=(sparring compare runs/s); CURRENT=3; _sparring",
    "fish": 'sparring completion fish | source; complete -C "sparring compare runs/s"',
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.usefixtures("here")
def test_in_a_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    done = subprocess.run([shell, "-c", SHELLS[shell]], capture_output=True, text=True, check=False, timeout=60)
    assert {word.rstrip("/") for word in done.stdout.split()} == {"runs/second"}, (
        done.stderr
    )  # fish offers the folder too
