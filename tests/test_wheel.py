"""The wheel and the sdist: the same bytes twice, and a walk through the product installed in a fresh environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.helpers import CLONE, PATIENCE
from tests.installed import environment, plant, walk
from tests.serve.live import free_port

pytestmark = pytest.mark.soak


def built(folder: Path) -> tuple[Path, Path]:
    """sdist and wheel of what git tracks here, built in a copy."""
    source = folder / "source"
    listed = subprocess.run(
        ["git", "-C", CLONE, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: cannot tell the project's files from others")
    for name in listed.stdout.splitlines():
        if (CLONE / name).is_file() and not name.startswith(("typing/", "tests/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CLONE / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(command, check=True, capture_output=True, env=env)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built(tmp_path_factory.mktemp("one"))


def test_the_same_commit_gives_the_same_bytes(made: tuple[Path, Path], tmp_path: Path) -> None:
    for first, second in zip(made, built(tmp_path), strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_what_is_in_them(made: tuple[Path, Path]) -> None:
    sdist, wheel = made
    assert wheel.stat().st_size < 1.5e6
    with zipfile.ZipFile(wheel) as archive:
        inside = {n.removeprefix("sparring-code/") for n in archive.namelist() if "dist-info" not in n}
    folders = ("trainers", "agents", "cluster", "serve")
    ours = {str(p.relative_to(CLONE)) for f in folders for p in (CLONE / f).rglob("*") if p.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    assert inside == ours | {"sparring.py"}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "setup.py"} <= names
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", sdist, wheel], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_the_readmes_first_commands(made: tuple[Path, Path], tmp_path: Path) -> None:
    """As they stand there, by the installed command, in an empty folder: a report, a model, a service that answers."""
    block = (CLONE / "README.md").read_text().partition("<!-- first -->\n```\n")[2].partition("```")[0]
    *commands, service = block.splitlines()
    assert service.startswith("sparring serve mine=")
    python, user = environment(tmp_path / "env", wheel=made[1]), tmp_path / "user"
    user.mkdir()
    env = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(command.split(), cwd=user, env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0 or command == "sparring doctor", (
            command,
            done.stderr,
        )  # which warns of what is not here
    assert (user / "runs/first/report.html").is_file()
    port = free_port()
    with subprocess.Popen(
        [*service.split(), f"--port={port}"], cwd=user, env=env, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline().startswith("serving mine on ")
            card = httpx.get(f"http://127.0.0.1:{port}/v1/models/mine/card").json()
            assert card["evaluations"][0]["n"] == 100
        finally:
            running.terminate()
            assert running.wait(PATIENCE) == 0


def test_a_walk_from_the_wheel(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside packages of the same names: train over Ray, evaluate, search, serve; then go on with a run of the clone's."""
    python, user = environment(tmp_path / "env", wheel=made[1]), tmp_path / "user"
    user.mkdir()
    nothing = (
        "import importlib.util as u; print([n for n in ('agents', 'trainers', 'cluster', 'serve') if u.find_spec(n)])"
    )
    found = subprocess.run(
        [python, "-c", f"import sparring; {nothing}"], cwd=user, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
    plant(python, user)
    said = walk(python, user, whole=True)
    assert "served True ['digits-plain', 'digits-robust']" in said
    assert f"home {tmp_path / 'env'}" in said  # also what Ray was given
    assert "site-packages/sparring-code" in said
    shutil.copytree(CLONE / "tests" / "written_by" / "0.1.0" / "runs" / "run", user / "runs" / "begun")
    command = python.parent / "sparring"
    done = subprocess.run([command, "resume", "runs/begun", "--team=ray"], cwd=user, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 30/30" in done.stderr


def test_the_import_costs_little(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Under 0.3 s of CPU, the interpreter's own start included; the least of five."""
    python = environment(tmp_path / "env", wheel=made[1])
    script = (
        "import sparring, resource, sys; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
    )
    seconds = [float(subprocess.run([python, "-c", script], capture_output=True, text=True).stdout) for _ in range(5)]
    assert min(seconds) < 0.3
