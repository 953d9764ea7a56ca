"""Images on a node that has none: they come once through the object store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from sparring.trainers.datasets import cache, prepare
from tests.helpers import PATIENCE, bytes_of, small


def can_unshare() -> bool:
    """Whether this process may give another one a file system of its own."""
    return bool(shutil.which("unshare")) and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


@pytest.fixture
def second_node(ray_session: str, tmp_path: Path) -> Iterator[Path]:
    """A second raylet of the session's cluster, for which the folder of the cache is an empty disk of its own."""
    if not can_unshare():
        pytest.skip("needs root and unshare, to give a second node a disk of its own")
    folder = tmp_path / "cache"
    folder.mkdir()
    start = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        f"--address={ray_session}",
        "--num-cpus=2",
        "--block",
    ]
    script = f"mount -t tmpfs none {folder} && exec {' '.join(start)}"
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while sum(n["Alive"] for n in ray.nodes()) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield folder
    os.killpg(process.pid, 15)
    process.wait(timeout=PATIENCE)
    while sum(n["Alive"] for n in ray.nodes()) > 1:
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)


@pytest.mark.soak
def test_a_node_without_the_images_gets_them(second_node: Path, tmp_path: Path) -> None:
    """Two peers on two nodes with separate disks; the second one's cache is filled, and the bytes are those of one process."""
    options = {"data__cache": str(second_node), "placement__strategy": "STRICT_SPREAD", "max_steps": 4}
    run = launch.train(small("mat", **options), runs_dir=tmp_path / "runs", name="ray", how=Circumstances(quiet=True))
    key = prepare(small("mat", **options).data).key
    local = launch.train(
        small("mat", **options, team="local"), runs_dir=tmp_path / "runs", name="local", how=Circumstances(quiet=True)
    )
    assert bytes_of(run.path) == bytes_of(local.path)
    assert cache.problems(second_node / key) == []

    @ray.remote(num_cpus=0)
    def there(folder: str) -> tuple[str, list[str]]:
        return os.readlink("/proc/self/ns/mnt"), sorted(os.listdir(folder))

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    seen = dict(
        ray.get(
            there.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)).remote(
                str(second_node)
            )
        )
        for n in ray.nodes()
        if n["Alive"]
    )
    assert len(seen) == 2  # two file systems
    assert all(key in names for names in seen.values())
