"""``sparring new`` as a newcomer uses it: written in an empty folder, its own test passes, and fails for a planted fault."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from sparring.cluster import terminal
from sparring.cluster.config import run_config
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.settings import Checkpointing
from sparring.cluster.scaffolds import new
from sparring.trainers.config import Attack, DataConfig, OptimConfig
from tests.conftest import Command
from tests.helpers import CLONE

NAMES: dict[new.Kind, str] = {"method": "pairing", "network": "thin", "dataset": "stripes", "recipe": "mine"}
FAULTS: list[
    tuple[new.Kind, str, str]
] = [  # what a user could get wrong: a kind, what is written, what would stand there
    ("method", ".square().mean()", ".square().mean(1)"),
    ("method", "own.clean - own.adv", "own.clean - own.clean"),
    ("method", "(own.clean - own.adv).square()", "(own.clean - own.adv).abs().sqrt()"),
    ("network", "h.mean((2, 3))", "h.flatten(1)"),
    ("network", "self.head(h.mean((2, 3)))", "self.head(h.mean((2, 3))).softmax(1)"),
    ("network", "h = self.normalise(x)", "h = self.normalise((x > 0.5).float())"),
    ("dataset", ".astype(np.uint8), labels", " / 255, labels"),
    ("dataset", "default_rng(0)", "default_rng()"),
    ("dataset", "order[len(order) // 5 :]", "order"),
    ("recipe", "eps: 0.15", "eps: 0.3"),
    ("recipe", "lr: 0.1 ", "learning_rate: 0.1 "),
    ("recipe", "recipe: mine-digits", "recipe: mine"),
]
SLOW = "two_steps"  # of the tests that are written, those that train


def own_test(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The tests of a folder as pytest runs them there, with the command of this clone."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, "."]
    env = {**os.environ, "PYTHONPATH": str(CLONE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each kind."""
    folder = tmp_path_factory.mktemp("written")
    for kind, name in NAMES.items():
        new.write(kind, name, folder)
    return folder


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_said_is_there(kind: new.Kind, sparring: Command, tmp_path: Path) -> None:
    done = sparring("new", kind, NAMES[kind], "--out=own/files", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(told["files"]) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert told["test"].endswith(f"-m pytest own/files/test_{NAMES[kind]}.py")
    shown = sparring("new", kind, NAMES[kind]).stdout
    assert max(map(len, shown.replace(terminal.command(), "sparring").splitlines())) <= 80
    texts = [p.read_text() for p in tmp_path.glob("*") if p.is_file()]
    assert "CHANGE ME" in "".join(texts)
    assert not [line for text in texts for line in text.splitlines() if len(line) > 88 or "$" in line]


def test_all_pass_as_they_are_written(written: Path) -> None:
    """What does not train: shapes, ranges, gradients, names of settings."""
    done = own_test(written, "-k", f"not {SLOW}")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b6 passed, 4 deselected", done.stdout)


@pytest.mark.soak
@pytest.mark.parametrize("kind", NAMES)
def test_the_printed_command_passes(kind: new.Kind, tmp_path: Path, sparring: Command) -> None:
    """Two steps of training among them, without Ray; run as it is printed, in a shell."""
    done = sparring("new", kind, NAMES[kind], "--json")
    env = {**os.environ, "PYTHONPATH": str(CLONE)}
    command = ["bash", "-c", json.loads(done.stdout)["test"]]
    passed = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert passed.returncode == 0, passed.stdout
    assert SLOW in (tmp_path / f"test_{NAMES[kind]}.py").read_text()


@pytest.mark.soak
@pytest.mark.parametrize("kind", NAMES)
def test_the_command_that_uses_it(kind: new.Kind, sparring: Command) -> None:
    """Two steps by ``--team local``, from the folder in which it was written."""
    use = json.loads(sparring("new", kind, NAMES[kind], "--json").stdout)["use"]
    words = use.removeprefix(terminal.command()).split()
    done = sparring(*words, "--max-steps=2", "--team=local", "--no-report", "--data.cache=cache", "--name=a")
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stderr


def planted(written: Path, folder: Path, kind: new.Kind, text: str, fault: str) -> None:
    file = f"{NAMES[kind]}{new.SUFFIX[kind]}"
    source = (written / file).read_text()
    assert text in source
    (folder / file).write_text(source.replace(text, fault))
    test = f"test_{NAMES[kind]}.py"
    (folder / test).write_text((written / test).read_text())


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "text", "fault"), FAULTS, ids=[f"{f[0]}-{i}" for i, f in enumerate(FAULTS)])
def test_every_fault_is_seen(kind: new.Kind, text: str, fault: str, written: Path, tmp_path: Path) -> None:
    planted(written, tmp_path, kind, text, fault)
    done = own_test(tmp_path, "-k", f"not {SLOW}")
    assert done.returncode == 1, done.stdout


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("method", "mat"), 3, "'mat' is a method of Sparring's; take another name: sparring new method my_mat"),
    (("recipe", "trades"), 3, "'trades' is a recipe or method of Sparring's"),
    (("network", "resnet18"), 3, "'resnet18' is a network of Sparring's"),
    (("dataset", "digits"), 3, "'digits' is a data set of Sparring's"),
    (("method", "here"), 3, "here.py exists and stays as it is"),
    (("network", "tested"), 3, "test_tested.py exists and stays as it is"),
    (("recipe", "linked"), 3, "linked.yaml exists and stays as it is"),
    (("method", "Pairing"), 2, "expected a Python identifier: lower-case letters"),
    (("method", "two-views"), 2, "expected a Python identifier"),
    (("method", "class"), 2, "no keyword"),
    (("recipe", "a" * 25), 2, "at most 24"),
    (("network", "../x"), 2, "expected a Python identifier"),
    (("dataset", "torch"), 2, "would hide Python's own or an installed 'torch'; take another: my_torch"),
    (("network", "tuple"), 2, "would hide Python's own or an installed 'tuple'"),
    (("network", "nn"), 2, "the file uses 'nn' for something else"),
    (("method", "method"), 2, "the file uses 'Method' for something else"),
    (("method", "x", "--out=here.py"), 2, "--out here.py is a file"),
    (("method", "x", f"--out={CLONE / 'trainers' / 'methods'}"), 2, "is Sparring's own code"),
    (("method", "x", "--out=/proc/x"), 2, "/proc/x cannot be written"),
]


@pytest.mark.parametrize(
    ("args", "code", "said"), REFUSED, ids=[" ".join(r[0][:2]).replace("a" * 25, "long") for r in REFUSED]
)
def test_refused(
    args: tuple[str, ...], code: int, said: str, sparring: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, and nothing is written."""
    monkeypatch.setattr(terminal, "command", lambda: "sparring")
    (tmp_path / "here.py").write_text("mine")
    (tmp_path / "test_tested.py").write_text("mine")
    (tmp_path / "linked.yaml").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    done = sparring("new", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "here.py").read_text() == (tmp_path / "test_tested.py").read_text() == "mine"


def test_where_pytest_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)  # find_spec: not there
    told = new.write("recipe", "mine", tmp_path)["test"]
    python = terminal.python()
    assert told == f"{python} -m pip install pytest && {python} -m pytest {tmp_path / 'test_mine.py'}"


def test_a_clone_that_is_not_installed_is_put_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert terminal.python() == f"PYTHONPATH={CLONE} {tmp_path}/bin/python"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sparring").write_text("")
    assert terminal.python() == f"{tmp_path}/bin/python"
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert terminal.python() == "python"


@pytest.mark.parametrize("name", ["a", "a_name_of_24_letters_in_"])
@pytest.mark.parametrize(
    "config", [["--isolated"], ["--config", str(CLONE / "pyproject.toml")]], ids=["alone", "clone"]
)
def test_clean_for_ruff(name: str, config: list[str], tmp_path: Path) -> None:
    """In a folder of nobody's, and in a clone."""
    for kind in NAMES:
        new.write(kind, name[:-1] + kind[0], tmp_path)
    for verb in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *verb, "--no-cache", *config, "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.soak
def test_clean_for_mypy(written: Path, tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\nfollow_imports = silent\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        f"--config-file={tmp_path / 'mypy.ini'}",
        f"--cache-dir={tmp_path / 'cache'}",
    ]
    command += [str(file) for file in sorted(written.glob("*.py"))]
    env = {**os.environ, "MYPYPATH": str(CLONE / "typing")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_recipe_says_what_is_allowed(written: Path) -> None:
    """Its values are those of the recipe on digits; behind a setting with names stand all of them."""
    text = (written / "mine.yaml").read_text()
    config = run_config.load(written / "mine.yaml")
    assert config.to_dict() | {"recipe": ""} == recipe("mat-digits").to_dict() | {"recipe": ""}
    sections = {"data": DataConfig, "attack": Attack, "optim": OptimConfig, "checkpoint": Checkpointing}
    for section, kind in sections.items():
        hints = get_type_hints(kind)
        for key in yaml.safe_load(text)[section]:
            names = [a for a in get_args(hints[key]) if isinstance(a, str)]
            line = next(li for li in text.partition(f"\n{section}:\n")[2].splitlines() if li.startswith(f"  {key}:"))
            assert ", ".join(names) in line, key
