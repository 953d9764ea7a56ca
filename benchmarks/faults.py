"""Faults during training: every run must end in the bytes of an undisturbed one.

python benchmarks/faults.py [--n 20] [--seed 0] [--exchange store|direct] [--json] [--save]

Six kinds in turn, on MAT, MTARD and PeerAiD: kill -9 of one actor, SIGSTOP of one actor, two killed at once, one killed while
checkpoints are being written, kill -9 of the driver and resume, an object store filled beyond its size. The moment and the agent are drawn
from the seed. ``recovery_s`` runs from detection until every agent is back at the checkpoint; for the driver from the start of
``resume`` until the first new step. A hang is detected after the call timeout, 5 s here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import CLONE, circumstances, save

from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.machines import session
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances
from tests.helpers import bytes_of

METHODS = {
    "mat": ["peer0", "peer1"],
    "mtard": ["student", "clean_teacher", "robust_teacher"],
    "peeraid": ["peer", "student"],
}
STORE = 256 * 2**20
STEPS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exchange", choices=["store", "direct"], default="store")
    parser.add_argument("--json", action="store_true", help="print the record instead of a line per fault")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/faults.json, or faults_direct.json"
    )
    args = parser.parse_args()
    started, draw = time.perf_counter(), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        address = session.start(num_cpus=4, object_store_memory=STORE)
        configs = {m: configuration(m, Path(folder)).replace({"exchange": args.exchange}) for m in METHODS}
        kinds, methods = list(KINDS), list(METHODS)
        chosen = [(kinds[i % len(kinds)], methods[(i + i // len(kinds)) % len(methods)]) for i in range(args.n)]
        undisturbed = {m: run_bytes(configs[m], Path(folder), f"{m}-undisturbed") for m in {m for _, m in chosen}}
        faults = []
        for i, (kind, method) in enumerate(chosen):
            fault = Fault(configs[method], METHODS[method], Path(folder) / f"fault-{i}", draw, address)
            recovery = KINDS[kind](fault)
            identical = bytes_of(fault.run) == undisturbed[method]
            faults.append({"kind": kind, "method": method, "identical": identical, "recovery_s": recovery})
            if not args.json:
                print(faults[-1], flush=True)
    import ray

    ray.shutdown()  # it prints about lost workers, and the record is to be the last line
    record = {**circumstances(seed=args.seed), "n": args.n, "steps": STEPS, "faults": faults}
    record |= {"identical": sum(f["identical"] for f in faults), "seconds": round(time.perf_counter() - started)}
    print(save("faults" if args.exchange == "store" else "faults_direct", record) if args.save else json.dumps(record))


def configuration(method: str, folder: Path) -> RunConfig:
    """A run of some seconds on digits."""
    changes: dict[str, Any] = {"network": "small_cnn:width=8", "batch_size": 64, "attack.steps": 7, "max_steps": STEPS}
    changes |= {"checkpoint.every": 10, "checkpoint.attack_steps": 2, "placement.cpus_per_agent": 0.5}
    if method == "mtard":
        teacher = folder / "teacher"
        if not teacher.exists():
            launch.train(
                recipe("at").replace({**changes, "team": "local", "max_steps": 5}),
                runs_dir=folder,
                name="teacher",
                how=Circumstances(quiet=True),
            )
        changes |= {f"agents.{role}.init": str(teacher) for role in ("clean_teacher", "robust_teacher")}
    return recipe(method).replace(changes)


def run_bytes(config: RunConfig, folder: Path, name: str) -> dict[str, Any]:
    return bytes_of(
        launch.train(config.replace({"team": "local"}), runs_dir=folder, name=name, how=Circumstances(quiet=True)).path
    )


class Fault:
    """One run and what happens to it."""

    def __init__(self, config: RunConfig, agents: list[str], run: Path, draw: random.Random, address: str) -> None:
        self.config, self.run, self.address = config, run, address
        self.agents = draw.sample(agents, len(agents))
        self.step = draw.randrange(8, STEPS - 12)

    def disturbed(self, when: Callable[[], bool], act: Callable[[], None], **changes: Any) -> float:
        """Train, and act once as soon as a condition holds; seconds of all recoveries."""
        acted: list[bool] = []

        def watch() -> None:
            while not when():
                time.sleep(0.002)
            acted.append(True)
            act()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        launch.train(
            self.config.replace(changes), runs_dir=self.run.parent, name=self.run.name, how=Circumstances(quiet=True)
        )
        assert acted, "the run ended before the fault"
        watcher.join()
        return sum(map(float, re.findall(r"recovered in ([\d.]+) s", (self.run / "log.txt").read_text())))

    def send(self, number: int, *agents: str) -> None:
        known = json.loads((self.run / "env.json").read_text())["agents"]
        for agent in agents:
            os.kill(known[agent]["pid"], number)

    def reached(self) -> bool:
        path = self.run / "metrics.jsonl"
        return path.exists() and path.read_bytes().count(b"\n") >= self.step * len(self.agents)


def actor_killed(fault: Fault) -> float:
    return fault.disturbed(fault.reached, lambda: fault.send(signal.SIGKILL, fault.agents[0]))


def actor_stopped(fault: Fault) -> float:
    return fault.disturbed(fault.reached, lambda: fault.send(signal.SIGSTOP, fault.agents[0]), call_timeout=5.0)


def two_killed(fault: Fault) -> float:
    return fault.disturbed(fault.reached, lambda: fault.send(signal.SIGKILL, *fault.agents[:2]))


def killed_during_save(fault: Fault) -> float:
    t = -(-fault.step // 10) * 10

    def saving() -> bool:
        return any((fault.run / "checkpoints").glob(f"step-{t:06d}.*.tmp/agents/*/*"))

    return fault.disturbed(saving, lambda: fault.send(signal.SIGKILL, fault.agents[0]))


def driver_killed(fault: Fault) -> float:
    """The driver with a Ray of its own; recovery is the restart's time to its first step."""
    fault.run.parent.mkdir(exist_ok=True)
    from sparring.cluster.config import run_config

    file = fault.run.with_suffix(".yaml")
    file.write_text(run_config.dump(fault.config))
    command = [sys.executable, "-m", "sparring.cluster"]
    train = [
        *command,
        "train",
        "-c",
        str(file),
        f"--runs-dir={fault.run.parent}",
        f"--name={fault.run.name}",
        "--quiet",
    ]
    driver = subprocess.Popen([*train, "--no-report"], cwd=CLONE, stderr=subprocess.DEVNULL)
    while not fault.reached():
        time.sleep(0.002)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL, "the run ended before the fault"
    seen, started = (fault.run / "metrics.jsonl").stat().st_mtime_ns, time.monotonic()
    resumed = subprocess.Popen([*command, "resume", str(fault.run), "--quiet"], cwd=CLONE, stdout=subprocess.DEVNULL)
    rewound = fault.run / "metrics.jsonl"
    first: float | None = None
    size = -1
    while resumed.poll() is None:
        now = rewound.stat()
        if first is None and now.st_mtime_ns != seen:  # rewound to the checkpoint, then the first step is added
            if size >= 0 and now.st_size > size:
                first = time.monotonic() - started
            size = now.st_size if size < 0 else size
        time.sleep(0.002)
    assert resumed.returncode == 0
    assert first is not None
    return round(first, 2)


def store_overfull(fault: Fault) -> float:
    """The store is nearly full of objects in use when the run starts, and gets as many again: Ray spills, and nothing is lost."""
    import ray

    held = [ray.put(np.zeros(STORE // 16, np.uint8)) for _ in range(14)]
    return fault.disturbed(
        fault.reached, lambda: held.extend(ray.put(np.zeros(STORE // 16, np.uint8)) for _ in range(16))
    )


KINDS: dict[str, Callable[[Fault], float]] = {
    "actor killed": actor_killed,
    "actor stopped": actor_stopped,
    "two killed at once": two_killed,
    "killed during save": killed_during_save,
    "driver killed": driver_killed,
    "store overfull": store_overfull,
}

if __name__ == "__main__":
    main()
