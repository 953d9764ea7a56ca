"""Clients of other makers, with their default calls: tritonclient and kserve, over HTTP and gRPC.

Each lives in a folder of its own, since their dependencies are not ours: ``make clients``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparring.agents import model_folder
from tests.helpers import CLONE, PATIENCE
from tests.serve.live import Service, free_port, running
from tests.serve.made import pixels
from tests.serve.test_service import MODELS

pytestmark = pytest.mark.soak
CLIENTS = CLONE / ".clients"
HERE = Path(__file__).parent / "clients"


@pytest.fixture(scope="module", params=["local", "ray"])
def service(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[Service, int]]:
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    shutil.copytree(MODELS, folder / "models", ignore=shutil.ignore_patterns("evaluation"))
    with running(folder, f"--host-by={request.param}", f"--grpc-port={port}") as started:
        yield started, port


def asked(kind: str, package: str, addresses: str, file: Path) -> list[Any]:
    """What a client's script found, run where only its own packages are."""
    if not (CLIENTS / package).is_dir():
        pytest.skip(f"needs {package} (make clients)")
    command = [sys.executable, str(HERE / f"{kind}.py"), addresses, "digits-robust", str(file)]
    env = {**os.environ, "PYTHONPATH": str(CLIENTS / package)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("kind", ["triton_http", "triton_grpc", "kserve_both"])
def test_default_calls_give_the_networks_logits_to_the_bit(
    kind: str, service: tuple[Service, int], tmp_path: Path
) -> None:
    started, port = service
    x = pixels(5)
    np.save(tmp_path / "x.npy", x)
    http, grpc = started.url.removeprefix("http://"), f"127.0.0.1:{port}"
    addresses = {"triton_http": http, "triton_grpc": grpc, "kserve_both": f"{http},{grpc}"}[kind]
    found = asked(kind, kind.partition("_")[0], addresses, tmp_path / "x.npy")
    with torch.inference_mode():
        right = model_folder.load(MODELS / "digits-robust" / "1")(torch.from_numpy(x)).numpy()
    assert len(found) >= 2
    for logits in found:
        assert np.array_equal(np.asarray(logits, dtype=np.float32), right)
