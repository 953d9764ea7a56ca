"""Runs across hosts: they end in the bytes of one process, also when a host is lost and another takes over."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import PATIENCE, bytes_of, small, small_flags
from tests.hosts import Hosts, can_make_namespaces, hosts, wait_for
from tests.opened import opened
from tests.trainers.encoded import layouts

OPTIONS: dict[str, Any] = {"max_steps": 60, "checkpoint__every": 10, "batch_size": 64, "network": "small_cnn:width=8"}
WAIT = ("--wait=60", "--placement.gpus-per-agent=1")  # workers may still be joining
SPARRING = (sys.executable, "-m", "sparring.cluster")
IMAGES = """import numpy as np
def make():
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8), np.arange(600) % 10
    return x[:500], y[:500], x[500:], y[500:]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("multihost")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Hosts]:
    """A head and two workers, each with two CPUs and two GPUs that nobody computes on."""
    (folder / "cache").mkdir()
    with hosts(folder / "cache") as made:
        made.add(2, gpus=2, labels="zone=a")
        made.add(2, gpus=2, labels="zone=b")
        yield made


def flags(folder: Path, method: str) -> dict[str, Any]:
    chosen = {**OPTIONS, "data__cache": str(folder / "cache"), "placement__cpus_per_agent": 1}
    if method == "mtard":
        chosen |= {
            "checkpoint__every": 50,
            "attack__steps": 15,
            "batch_size": 128,
            "max_steps": 160,
            "network": "small_cnn:width=16",
        }
        chosen |= {f"agents.{role}.init": str(folder / "teacher") for role in ("clean_teacher", "robust_teacher")}
    return chosen


@pytest.fixture(scope="module")
def teacher(folder: Path) -> None:
    launch.train(small("at", team="local", max_steps=3), runs_dir=folder, name="teacher", how=Circumstances(quiet=True))


def train(cluster: Hosts, folder: Path, method: str, name: str, **options: Any) -> subprocess.Popen[str]:
    chosen = small_flags(**flags(folder, method), address=cluster.address, **options)
    return cluster.run(
        *SPARRING, "train", method, f"--runs-dir={folder}", f"--name={name}", "--no-report", *WAIT, *chosen
    )


def recorded(run: Path) -> int:
    path = run / "metrics.jsonl"
    return json.loads(path.read_text().splitlines()[-1])["t"] if path.exists() and path.stat().st_size else 0


@pytest.mark.soak
@pytest.mark.parametrize("method", ["mat", "mtard"])
def test_a_lost_host_is_replaced(method: str, cluster: Hosts, folder: Path, teacher: None) -> None:
    """Agents on two hosts; one is killed in mid-run; a new one takes over, gets the images, and the bytes are the same."""
    local = launch.train(
        small(method, team="local", **flags(folder, method)),
        runs_dir=folder,
        name=f"local-{method}",
        how=Circumstances(quiet=True),
    )
    run = folder / method
    driver = train(
        cluster, folder, method, method, placement__strategy="STRICT_SPREAD" if method == "mat" else "SPREAD"
    )
    reader = threading.Thread(target=lambda: said.append(driver.communicate(timeout=PATIENCE)[1]))
    said: list[str] = []
    reader.start()
    wait_for(lambda: recorded(run) >= 24 or driver.poll() is not None)
    assert driver.poll() is None, reader.join() or said
    agents = json.loads((run / "env.json").read_text())["agents"]
    hosts_used = {a["node"] for a in agents.values()}
    assert len(hosts_used) == 2, agents
    lost = sorted(hosts_used)[-1]
    log = run / "log.txt"
    if method == "mtard":  # its host is to be taken away, and says so before
        cluster.drain(lost)
        early = r"checkpoint at step ([1-9]\d*)\n"  # regular ones name accuracies in the same line
        wait_for(lambda: re.search(early, log.read_text()), what=log.read_text())
        saved = re.findall(early, log.read_text())
        assert f"node {lost} is being drained: saving now" in log.read_text()
    cluster.kill(lost)
    wait_for(
        lambda: "waiting for another node" in log.read_text() or driver.poll() is not None,
        seconds=60,
        what=log.read_text(),
    )
    cluster.add(2, gpus=2, labels="zone=b")
    reader.join(timeout=PATIENCE)
    assert driver.returncode == 0, said
    text = log.read_text()
    assert "lost: " in text
    assert "waiting for another node, at most 600 s: " in text
    assert "recovered in " in text
    after = {a["node"] for a in json.loads((run / "env.json").read_text())["agents"].values()}
    assert lost not in after
    assert len(after) == 2
    (back,) = re.findall(r"every agent at step (\d+) again", text)
    assert int(back) % 10 == 0 if method == "mat" else int(back) >= int(saved[0])
    assert bytes_of(run) == bytes_of(local.path)


@pytest.mark.soak
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("method", ["mat", "mtard", "peeraid", "mixacm"])
def test_direct_exchange_between_hosts(
    method: str, lanes: int, cluster: Hosts, folder: Path, teacher: None, ray_session: str
) -> None:
    """Sockets between hosts, pipes and memory within one: the bytes that the object store gives, and those of pipes alone."""
    config = small(method)
    frozen = [
        name for name in config.networks() if name not in (roles := config.method.roles()) or not roles[name].learns
    ]
    chosen = OPTIONS | {"max_steps": 20, "data__cache": str(folder / "cache"), "lanes": lanes}
    chosen |= {"placement__cpus_per_agent": 0.5} | {f"agents.{role}.init": str(folder / "teacher") for role in frozen}
    near = [
        launch.train(
            small(method, exchange=exchange, **chosen),
            runs_dir=folder,
            name=f"{method}-{exchange}-{lanes}",
            how=Circumstances(quiet=True),
        )
        for exchange in ("store", "direct")
    ]
    name = f"{method}-far-{lanes}"
    options = {"placement__strategy": "SPREAD", "placement__gpus_per_agent": 0, "wait": 60}
    flags = small_flags(**chosen, **options, exchange="direct", address=cluster.address)
    driver = cluster.run(*SPARRING, "train", method, f"--runs-dir={folder}", f"--name={name}", "--no-report", *flags)
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    agents = json.loads((folder / name / "env.json").read_text())["agents"]
    assert len({a["node"] for a in agents.values()}) == 2
    assert bytes_of(near[0].path) == bytes_of(near[1].path) == bytes_of(folder / name)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("iptables") is None, reason="no iptables to cut a link with")
def test_a_cut_link_is_a_loss_and_no_hang(cluster: Hosts, folder: Path) -> None:
    """Agents that exchange directly on two hosts whose link is cut in mid-run, both in the driver's sight: within the call's timeout
    they are lost to each other; once the link is back, the run ends in the same bytes."""
    local = launch.train(
        small("mat", team="local", **flags(folder, "mat")), runs_dir=folder, name="uncut", how=Circumstances(quiet=True)
    )
    run = folder / "cut"
    options = {"exchange": "direct", "placement__strategy": "STRICT_SPREAD", "call_timeout": 4}
    driver = train(cluster, folder, "mat", "cut", **options)
    wait_for(lambda: recorded(run) >= 24 or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()[1]
    one, other = sorted(a["node"] for a in json.loads((run / "env.json").read_text())["agents"].values())
    cluster.cut(one, other)
    log = run / "log.txt"
    wait_for(lambda: "lost: " in log.read_text() or driver.poll() is not None, seconds=60, what=log.read_text())
    cluster.cut(one, other, again=True)
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    assert "recovered in " in log.read_text()
    assert bytes_of(run) == bytes_of(local.path)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("tc") is None, reason="no tc to slow a link down with")
def test_a_slow_link_is_told_and_no_hang(cluster: Hosts, folder: Path) -> None:
    """1.6 MB a step and agent at 10 Mbit/s: over a second, in words; the bytes are the same."""
    chosen = flags(folder, "mat") | {"data__name": images(folder), "batch_size": 128, "max_steps": 14}
    chosen |= {"attack__steps": 1, "network": "small_cnn:width=4", "checkpoint__every": 14}
    local = launch.train(
        small("mat", team="local", **chosen), runs_dir=folder, name="near", how=Circumstances(quiet=True)
    )
    cluster.slow("10mbit")
    try:
        options = small_flags(**chosen, address=cluster.address, exchange="direct", placement__strategy="STRICT_SPREAD")
        command = (*SPARRING, "train", "mat", f"--runs-dir={folder}", "--name=slow", "--no-report", *WAIT, *options)
        driver = cluster.run(*command)
        _, said = driver.communicate(timeout=PATIENCE)
    finally:
        cluster.slow("10gbit")
    assert driver.returncode == 0, said
    told = re.findall(
        r"the link between .* sets the pace, at about (\d+) Mbit/s", (folder / "slow" / "log.txt").read_text()
    )
    assert len(told) == 1
    assert 3 <= int(told[0]) <= 30
    assert bytes_of(folder / "slow") == bytes_of(local.path)


def images(folder: Path) -> str:
    """Random ones of 32x32 in colour, whose messages are large; the name of a function."""
    (folder / "images.py").write_text(IMAGES)
    return f"{folder / 'images.py'}:make"


@pytest.mark.soak
def test_a_hung_lane_on_another_host_is_ended(cluster: Hosts, folder: Path, ray_session: str) -> None:
    """Two peers of two lanes over two hosts; SIGSTOP where the driver cannot send signals itself: its host's Ray does, and the bundle is free for another."""
    options: dict[str, Any] = {"placement__strategy": "SPREAD", "call_timeout": 5, "lanes": 2}
    here = small("mat", **{**flags(folder, "mat"), "placement__cpus_per_agent": 0.5, "lanes": 2})
    undisturbed = launch.train(here, runs_dir=folder, name="undisturbed-hung", how=Circumstances(quiet=True))
    run = folder / "hung"
    driver = train(cluster, folder, "mat", "hung", **options)
    wait_for(lambda: recorded(run) >= 24 or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()[1]
    agents = json.loads((run / "env.json").read_text())["agents"]
    assert len({a["node"] for a in agents.values()}) == 2
    stopped = agents["peer1/1"]
    os.kill(stopped["pid"], signal.SIGSTOP)
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    assert "lost: " in (run / "log.txt").read_text()
    assert not Path(f"/proc/{stopped['pid']}").exists()
    assert bytes_of(run) == bytes_of(undisturbed.path)


@pytest.mark.soak
def test_pretraining_on_other_hosts(cluster: Hosts, folder: Path) -> None:
    """Workers of Ray Train on two hosts, whose disks have no images yet."""
    chosen = small_flags(**{**flags(folder, "at"), "max_steps": 6, "data__cache": str(folder / "cache" / "pretrain")})
    where = [f"--address={cluster.address}", "--placement.strategy=STRICT_SPREAD", "--device=cpu"]
    names = [f"--runs-dir={folder}", f"--models-dir={folder}/models", "--name=pretrained"]
    driver = cluster.run(*SPARRING, "pretrain", "at", "--workers=2", *chosen, *where, *names)
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    assert (folder / "models" / "at-digits-small_cnn" / "1" / "card.json").is_file()


@pytest.mark.soak
def test_an_evaluation_uses_the_cluster(cluster: Hosts, folder: Path, teacher: None) -> None:
    """Workers on the hosts; the numbers are those of one process."""
    base = [
        *SPARRING,
        "evaluate",
        str(folder / "teacher"),
        "--attacks=clean,fgsm",
        "--examples=64",
        "--masking=0",
        "--json",
    ]
    there = cluster.run(*base, "--workers=2", f"--address={cluster.address}", "--name=there", "--block=32")
    here = cluster.run(*base, "--name=here", "--block=32")
    answers = []
    for process in (there, here):
        out, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        answers.append(json.loads(out))
    assert answers[0]["threats"] == answers[1]["threats"]
    alone = cluster.run(*base, f"--address={cluster.address}")
    assert "--address needs --workers W" in alone.communicate(timeout=PATIENCE)[1]
    assert alone.returncode == 2


@pytest.mark.soak
def test_a_users_network_on_other_hosts(cluster: Hosts, folder: Path) -> None:
    """Trained by one host's driver and evaluated on two others by its name alone: the same bytes of every block."""
    nets = folder / "nets.py"
    nets.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(config.channels * config.height * config.width, config.classes)\n"
        "    def forward(self, x):\n"
        "        return {'logits': self.layer(x.flatten(1))}\n"
    )
    chosen = small_flags(**{**flags(folder, "at"), "max_steps": 6, "network": f"{nets}:Net"})
    train = [*SPARRING, "train", "at", *chosen, "--device=cpu", f"--address={cluster.address}", "--no-report"]
    trained = cluster.run(*train, f"--runs-dir={folder}", "--name=own", *WAIT[:1])
    assert trained.wait(timeout=PATIENCE) == 0, trained.communicate()[1]
    base = [*SPARRING, "evaluate", f"{folder}/own@model", "--attacks=clean,fgsm", "--examples=64", "--masking=0"]
    where = {"here": [], "there": ["--workers=2", f"--address={cluster.address}"]}
    for name, flags_of in where.items():
        process = cluster.run(*base, *flags_of, f"--name={name}", "--block=16")
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
    here, there = (
        {
            p.relative_to(folder / "own" / "evaluation" / name): p.read_bytes()
            for p in (folder / "own").rglob("*.parquet")
            if name in p.parts
        }
        for name in where
    )
    assert here == there != {}


IMPOSSIBLE = {
    "too-many": (["--peers=9"], "9 agents need 1 CPU, 1 GPU each", "Set --placement.gpus-per-agent 0.33"),
    "strict": (
        ["--peers=4", "--placement.strategy=STRICT_SPREAD"],
        "4 agents need 1 CPU, 1 GPU each (STRICT_SPREAD)",
        "Set --placement.strategy SPREAD",
    ),
    "label": (
        ["--agents.peer1.label=zone=x"],
        "No node has the label zone=x",
        "zone=a, zone=b. Change --agents.peer1.label",
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_placed_is_refused_at_once(case: str, cluster: Hosts, folder: Path) -> None:
    options, need, fix = IMPOSSIBLE[case]
    wait_for(lambda: alive(cluster, 4.0), what="the workers' GPUs")
    started = time.monotonic()
    options = [
        *options,
        "--placement.cpus-per-agent=0.25",
        f"--address={cluster.address}",
        f"--data.cache={folder}/cache",
    ]
    driver = cluster.run(*SPARRING, "train", "mat", f"--runs-dir={folder}/none", *options)
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 6, said
    assert need.replace("1 CPU", "0.25 CPU") in said
    assert fix in said
    limit = 30 if "PYTEST_XDIST_WORKER" in os.environ else 10  # beside other tests the start alone takes longer
    assert time.monotonic() - started < limit
    assert not list((folder / "none").iterdir())


def alive(cluster: Hosts, gpus: float) -> bool:
    """Whether the cluster has so many GPUs now."""
    script = (
        f"import ray; ray.init({cluster.address!r}, logging_level='ERROR'); print(ray.cluster_resources().get('GPU'))"
    )
    return cluster.run(sys.executable, "-c", script).communicate(timeout=PATIENCE)[0].strip() == str(gpus)


@pytest.mark.soak
def test_a_stranger_is_refused(cluster: Hosts, folder: Path) -> None:
    """Without the cluster's token nobody gets in; the error says which variable is missing."""
    other = folder / "other-token"
    other.write_text("0" * 64)
    refused = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": str(other)})
    command = [*SPARRING, "train", "mat", f"--runs-dir={folder}/strangers", f"--address={cluster.address}"]
    for driver in [cluster.run(*command, env=env) for env in refused]:
        _, said = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == 6, said
        assert "Most likely the cluster's token is not here" in said
    assert not list((folder / "strangers").iterdir())


@pytest.mark.soak
@pytest.mark.skipif(not can_make_namespaces(), reason="needs root: workers' disks are those of the driver otherwise")
def test_runs_that_only_the_driver_sees_are_refused(cluster: Hosts, folder: Path) -> None:
    """The data folder is a disk of its own on each worker: nothing written there could be read after a failure."""
    driver = train(cluster, folder / "cache", "at", "private")
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 5, said
    assert "is not there, or is another folder of that name" in said
    assert "Every node must see the run's files at the same path" in said
    assert not (folder / "cache" / "private").exists()


@pytest.mark.soak
@pytest.mark.parametrize(("workers", "times"), [(1, 2), (0, 4)])
def test_each_host_decodes_once(workers: int, times: int, cluster: Hosts, folder: Path) -> None:
    """Two agents on each of two hosts: an image of a step is read twice, and four times where every agent decodes for itself."""
    here = folder / f"encoded-{workers}"
    splits: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "val": [("cat", "v.JPEG", layouts.file())]}
    splits["train"] += [("cat", f"{i}.JPEG", layouts.file(seed=i, size=(24, 18))) for i in range(200)]
    layouts.folders(here, splits)
    own = {"name": "folder", "root": here, "encoded": True, "size": 12, "augment": "resized-crop", "validation": 0.1}
    changes = {f"data__{key}": value for key, value in own.items()} | {"loader__workers": workers, "method__peers": 4}
    with opened([here / "train" / "cat"]) as seen:
        driver = train(cluster, folder, "mat", f"decoded-{workers}", placement__strategy="SPREAD", **changes)
        _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    agents = json.loads((folder / f"decoded-{workers}" / "env.json").read_text())["agents"]
    nodes = [a["node"] for a in agents.values()]
    assert sorted(nodes.count(n) for n in set(nodes)) == [2, 2]
    trained = OPTIONS["max_steps"] // 3 * 180  # an epoch: three steps
    ahead, looked_at = 2 * 9 * 64, 6 * 200 + 7 * 4 * 20  # statistics by whom they are measured, held-out images
    assert (
        0.95 * times * trained < len(seen) < times * trained + ahead + looked_at
    )  # one that follows itself at once is told once
