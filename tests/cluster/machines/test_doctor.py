"""What would mend what is not ok: each failure planted, its commands shown, and run where they can be."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sparring.cluster import terminal
from sparring.cluster.machines import doctor, fixes
from sparring.cluster.machines.doctor import Check
from tests.conftest import Command
from tests.helpers import CLONE


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and the command by its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "command", lambda: "sparring")


def answered(name: str) -> Check:
    return next(check for check in doctor.checks() if check.name == name)


def planted_python(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """3.10 runs this; 3.14 is a shim of a version that is not there, 3.12 is."""
    for name, exit_code in (("python3.14", 1), ("python3.12", 0)):
        (folder / name).write_text(f"#!/bin/sh\nexit {exit_code}\n")
        (folder / name).chmod(0o755)
    patch.setenv("PATH", str(folder))
    patch.setattr(sys, "version_info", (3, 10, 4))


def planted_absence(patch: pytest.MonkeyPatch, folder: Path) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    patch.setattr(importlib.metadata, "version", version)


def planted_age(patch: pytest.MonkeyPatch, folder: Path) -> None:
    known = importlib.metadata.version
    patch.setattr(importlib.metadata, "version", lambda name: "2.9.1+cpu" if name == "torch" else known(name))


def planted_driver(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """It sees a GPU; torch was built without CUDA."""
    (folder / "gpus" / "0000:01:00.0").mkdir(parents=True)
    patch.setattr(fixes, "GPUS", folder / "gpus")
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.version, "cuda", None)
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def planted_hiding(patch: pytest.MonkeyPatch, folder: Path) -> None:
    planted_driver(patch, folder)
    patch.setenv("CUDA_VISIBLE_DEVICES", "")


def planted_affinity(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(os, "sched_getaffinity", lambda pid: {0})


def planted_need(patch: pytest.MonkeyPatch, folder: Path) -> None:
    known = os.sysconf
    patch.setattr(os, "sysconf", lambda name: 1000 if name == "SC_AVPHYS_PAGES" else known(name))


def planted_fullness(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Every disk but one, which is mounted from another host."""
    (folder / "large").mkdir()
    (folder / "mounts").write_text(f"tmpfs {folder} tmpfs rw 0 0\nhost:/export {folder / 'large'} nfs rw 0 0\n")
    patch.setattr(fixes, "MOUNTS", folder / "mounts")
    free = {folder / "large": 50}
    patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free.get(Path(path), 1) * 2**30))


def planted_openness(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("RAY_AUTH_MODE", "disabled")


def planted_loss(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.delenv("RAY_AUTH_TOKEN", raising=False)
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "not there" / "token"))


INSTALL = rf"{re.escape(sys.executable)} -m pip install -e \S+ -c \S+/constraints\.txt"
PLANTED: list[tuple[str, str, Callable[[pytest.MonkeyPatch, Path], None], str]] = [
    (
        "python",
        "fail",
        planted_python,
        r"\S+/python3\.12 -m venv \.venv\n\.venv/bin/python -m pip install -e \S+ -c \S+",
    ),
    ("ray", "fail", planted_absence, INSTALL),
    ("torch", "fail", planted_age, INSTALL),
    ("cuda", "warn", planted_hiding, "unset CUDA_VISIBLE_DEVICES"),
    ("cuda", "warn", planted_driver, rf"\S+ -m pip install --force-reinstall --no-deps torch torchvision\n{INSTALL}"),
    ("cores", "warn", planted_affinity, r"sparring train mat --placement\.cpus-per-agent 0\.5"),
    ("memory", "warn", planted_need, "sparring train mat --team local"),
    ("disk", "warn", planted_fullness, r"sparring train mat --runs-dir \S+/large/runs"),
    ("token", "warn", planted_openness, "unset RAY_AUTH_MODE"),
    ("token", "fail", planted_loss, r"\(umask 077 && mkdir -p '.*/not there' && .* > '.*/not there/token'\)    # .*"),
]


@pytest.mark.parametrize(("name", "status", "plant", "fix"), PLANTED, ids=[p[2].__name__ for p in PLANTED])
def test_what_would_mend_it(
    name: str,
    status: str,
    plant: Callable[[pytest.MonkeyPatch, Path], None],
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check = answered(name)
    assert check.status == status
    assert re.fullmatch(fix, check.fix or ""), check.fix
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("plant", [planted_openness, planted_loss], ids=lambda p: p.__name__)
def test_it_mends(
    plant: Callable[[pytest.MonkeyPatch, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as they are shown, in a shell."""
    plant(monkeypatch, tmp_path)
    fix = answered("token").fix
    done = subprocess.run(
        ["bash", "-ec", f"{fix}\nenv -0"], capture_output=True, check=True, text=True, env={**os.environ}
    )
    left = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    for gone in set(os.environ) - set(left):
        monkeypatch.delenv(gone)
    assert answered("token").status == "ok"
    if plant is planted_loss:
        token = tmp_path / "not there" / "token"
        assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)
        asked = [str(Path(sys.executable).parent / "ray"), "get-auth-token"]
        shown = subprocess.run(asked, capture_output=True, text=True, check=False, env={**os.environ})
        assert shown.stdout == token.read_text(), shown.stderr


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which somebody listens, with the next one taken too where that is possible."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        port = int(first.getsockname()[1])
        first.listen()
        try:
            second.bind(("127.0.0.1", port + 1))
            second.listen()
        except OSError:
            pass  # somebody else's, which is as well
        yield port


def test_a_port_that_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RAY_PORT", taken)
    check = answered("ray port")
    join, begin = (check.fix or "").splitlines()
    assert join.startswith(f"sparring train mat --address 127.0.0.1:{taken} ")
    port = int(begin.split()[4])
    assert begin.startswith("ray start --head --port ")
    assert port > taken + 1
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", port))


def test_what_no_command_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparring: Command) -> None:
    """No GPU, no disk with room: said, and no command invented."""
    monkeypatch.setattr(fixes, "GPUS", tmp_path / "no driver")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert [answered(name).fix for name in ("cuda", "disk")] == [None, None]
    assert re.search(r"^no command mends: cuda.*, disk$", sparring("doctor", "--fix").stdout, re.MULTILINE)


def test_shown_only_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sparring: Command) -> None:
    planted_openness(monkeypatch, tmp_path)
    plain, shown = (sparring("doctor", *flags).stdout.splitlines() for flags in ((), ("--fix",)))
    assert [line for line in plain if "sparring doctor --fix" in line] == plain[-1:]
    assert plain[:-1] == [line for line in shown if line[:6].strip() in ("ok", "warn", "fail")]
    assert shown[shown.index("token:") + 1] == "  unset RAY_AUTH_MODE"
    found = json.loads(sparring("doctor", "--json").stdout)["checks"]
    assert {check["name"]: check["fix"] for check in found}["token"] == "unset RAY_AUTH_MODE"
    monkeypatch.setattr(doctor, "checks", lambda: iter([Check("disk", "ok", "")]))
    assert sparring("doctor").stdout == "ok    disk      \n"


def test_flags_exist(sparring: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planted_fullness(monkeypatch, tmp_path)
    shown = "\n".join([fixes.one_core(), fixes.little_memory(), fixes.full_disk(2) or "", fixes.port_taken(1)])
    flags = {flag for line in shown.splitlines() if line.startswith("sparring") for flag in re.findall(r"--\S+", line)}
    assert flags == {"--placement.cpus-per-agent", "--team", "--runs-dir", "--address"}
    help_ = sparring("train", "mat", "--help").stdout
    assert all(flag in help_ for flag in flags)


WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
from sparring.cluster.commands.main import main
sys.exit(main(["doctor", "--json"]))
"""


def test_without_torch_every_question_is_answered() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(CLONE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["cuda"]["status"] == found["bfloat16"]["status"] == "fail"
    assert found["token"]["status"] == "ok"
    assert re.fullmatch(INSTALL, found["cuda"]["fix"])
