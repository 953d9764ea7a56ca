"""What a user waits for before the first step, and what each process costs: of this clone, or of two in turn.

    python benchmarks/start.py [--against CLONE] [--rounds 5] [--save]

``sparring train mat --max-steps 2`` (digits, two agents over Ray, with its report) in a fresh process: seconds to the first step and
by part, as it says itself; seconds in all; of the driver and of every agent CPU seconds and the peak of its memory, read from
/proc while it runs (Linux). Beside it the floor: a process that imports torch, starts the same Ray and says so. With ``--against`` both
clones take turns, and the ratios are this one's over the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from common import CLONE, circumstances, save

MARK = "SPARRING_BENCHMARK"
LOOK = 0.1  # seconds between looks at the processes
TICK = os.sysconf("SC_CLK_TCK")
BARE = """
import torch, ray
ray.init(address="local", include_dashboard=False, log_to_driver=False)
print("there", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another clone, to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/start.json")
    args = parser.parse_args()
    clones = {"this": CLONE} | ({"other": args.against.resolve()} if args.against else {})
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in clones}
    floor: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.rounds):
            for name in sorted(clones, reverse=i % 2 == 1):
                samples[name].append(started(clones[name], Path(folder) / f"{name}-{i}"))
                print(name, json.dumps(samples[name][-1]), file=sys.stderr, flush=True)
            floor.append(bare())
    result = circumstances(seed=0) | {"n": args.rounds, "samples": samples, "floor": floor}
    if args.against:
        result["other"] = _commit(args.against)
        result["ratios"] = ratios(samples)
    if args.save:
        save("start", result)
    print(json.dumps(result, indent=None if args.json else 1))


def bare() -> float:
    """Seconds until a process has torch and a Ray of its own."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        return time.perf_counter() - began


def started(clone: Path, folder: Path) -> dict[str, Any]:
    """One run of two steps."""
    folder.mkdir()
    mark = secrets.token_hex(8)
    command = [sys.executable, str(clone / "sparring.py"), "train", "mat", "--max-steps", "2"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {MARK: mark}
    seen = Processes(mark)
    began = time.perf_counter()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            seen.look(process.pid)
            time.sleep(LOOK)
        wall = time.perf_counter() - began
        said.seek(0)
        text = said.read()
    assert process.returncode == 0, text
    line = next(line for line in text.splitlines() if line.startswith("first step "))
    parts = [p.rpartition(" ") for p in line.partition("(")[2].rstrip(")").split(", ")]
    return {
        "wall": wall,
        "first step": float(line.split()[2]),
        "parts": {name: float(value) for name, _, value in parts},
        "processes": {name: found.__dict__ for name, found in seen.named()},
    }


@dataclass
class Cost:
    """Of a process so far."""

    cpu: float = 0.0  # seconds, user and system
    peak: float = 0.0  # MiB of resident memory


@dataclass
class Processes:
    """The driver and the agents of a run, recognised by a variable of their environment."""

    mark: str
    driver: dict[int, Cost] = field(default_factory=dict)
    agents: dict[int, Cost] = field(default_factory=dict)

    def look(self, driver: int) -> None:
        for path in Path("/proc").glob("[0-9]*"):
            pid = int(path.name)
            try:
                if pid != driver and not is_agent(path, self.mark):
                    continue
                where = self.driver if pid == driver else self.agents
                where[pid] = _cost(path)
            except (OSError, LookupError):  # it has ended
                continue

    def named(self) -> Iterator[tuple[str, Cost]]:
        yield from (("driver", c) for c in self.driver.values())
        yield from ((f"agent {i}", c) for i, c in enumerate(self.agents.values()))


def is_agent(path: Path, mark: str) -> bool:
    """Whether the process of this folder of /proc is an agent of the run that was started with ``mark``.

    Raises:
        OSError: it has ended.
    """
    if not (path / "cmdline").read_bytes().startswith(b"ray::_Actor"):
        return False
    return f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0")


def _cost(path: Path) -> Cost:
    fields = (path / "stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in (path / "status").read_text().splitlines())
    return Cost((int(fields[11]) + int(fields[12])) / TICK, int(status["VmHWM"].split()[0]) / 1024)


def ratios(samples: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Medians over rounds of this clone's figure over the other's."""
    pairs = list(zip(samples["this"], samples["other"], strict=True))
    found = {key: median(a[key] / b[key] for a, b in pairs) for key in ("wall", "first step")}
    lighter = {
        f"{what} less, {process}": median(
            b["processes"][process][what] - a["processes"][process][what] for a, b in pairs
        )
        for process in ("driver", "agent 0", "agent 1")
        for what in ("cpu", "peak")
    }
    return found | lighter


def _commit(clone: Path) -> str:
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True)
    return said.stdout.strip()


if __name__ == "__main__":
    main()
