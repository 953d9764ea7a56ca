"""Hours under faults: a fault a minute, identical results, and memory, file handles and sockets of every process flat.

python benchmarks/soak_long.py train|evaluate|serve [--minutes 60] [--seed 0] [--save]

    command, begun again until the minutes are over <--- a fault a minute (chaos_faults.py)
    /proc of all its processes, every ten seconds ---> slopes of our own that lived for twenty minutes ---> verdict

``train``: one run of two peers on two hosts (network namespaces) with a slow link, on which 5,000 steps take about an hour.
``evaluate``: one evaluation by two workers, as long.
``serve``: two predictors under load, while a new version is published every minute.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import linear_regression
from typing import Any

import chaos_left
import chaos_what
from chaos_faults import FAULTS
from chaos_scene import Scene
from chaos_subject import Subject
from common import circumstances, save

SAMPLE = 10.0  # seconds between two looks
PAUSE = 60.0  # seconds between two faults
LIVED = 1200.0  # seconds after which a process is judged
WARM = 0.5  # of a process's life that is not judged: what allocators and caches take at first, 7 MiB in 150,000 requests, they keep
OURS = (
    "ray::",
    "sparring.py",
)  # words of processes that are judged: Ray's own take more with every worker that dies, and are noted
QUERIES = 400  # of Square per minute, in blocks of some seconds: else a fault a minute lets none end
RATE = "500kbit"  # of the link between the hosts: what it waits for costs no CPU
GOES_ON = (6, 8, 130)
STEEP = {
    "rss": 1.0,
    "files": 1.0,
    "sockets": 1.0,
}  # a process may gain in 1,000 steps (train) or in ten minutes: MiB, handles
NAMES = {
    "train": ("host's agent killed", "host's agent hung", "host's agent paused", "link cut"),
    "evaluate": ("agent killed", "agent hung", "agent paused", "raylet paused"),
    "serve": ("replica killed", "replica hung", "replica paused", "HAProxy killed", "controller killed"),
}


@dataclass(slots=True)
class Life:
    """What was seen of a process."""

    name: str
    seen: list[tuple[float, float, dict[str, float]]] = field(
        default_factory=list
    )  # seconds, progress, of STEEP's kinds

    def slopes(self, unit: float) -> dict[str, float]:
        """What it gains of each kind, per so much progress."""
        judged = self.seen[int(WARM * len(self.seen)) :]
        at = [progress for _, progress, _ in judged]
        if len(set(at)) < 2:
            return dict.fromkeys(STEEP, 0.0)
        return {kind: linear_regression(at, [held[kind] for _, _, held in judged]).slope * unit for kind in STEEP}


class Soak:
    """One subject for some minutes."""

    def __init__(self, kind: str, subject: Subject, place: Path, args: argparse.Namespace) -> None:
        self.kind, self.subject, self.scene = kind, subject, Scene(place, subject)
        self._draw, self._ends = random.Random(args.seed), time.monotonic() + 60 * args.minutes
        self._began = time.monotonic()
        self.lives: dict[int, Life] = {}
        self.faults: list[dict[str, Any]] = []
        self.commands: list[int] = []
        self.wrong: list[str] = []
        self._lifts: list[tuple[float, Callable[[], None]]] = []
        self._looked, self._hit = 0.0, time.monotonic()

    def go(self) -> None:
        """Until the minutes are over and the command that runs then is done."""
        before = chaos_left.there()
        while not self.commands or self.commands[-1] != 0:
            self.commands.append(self._command())
            if self.commands[-1] not in (0, *GOES_ON):
                self.wrong.append(f"exit {self.commands[-1]}: {self.scene.said()[-600:]}")
            if self.wrong:
                break
        self._lift(float("inf"))
        if not self.wrong and self.subject.result(self.scene.place) != self.subject.expected():
            self.wrong.append("the result is another than the undisturbed one")
        self.wrong += chaos_left.left(self.scene, before)
        self.wrong += [f"{pid} {self.lives[pid].name} gains {gained}" for pid, gained in self.steep()]

    def _command(self) -> int:
        process = self.scene.begin(again=bool(self.commands))
        if self.subject.cluster is not None:
            self.subject.cluster.slow(RATE)
        while process.poll() is None:
            now = time.monotonic()
            self._lift(now)
            if now - self._looked > SAMPLE:
                self._looked = now
                self._look(now - self._began)
            if now - self._hit > PAUSE and now < self._ends:
                self._hit = now
                self._fault(now)
            time.sleep(0.2)
        return process.wait()

    def _fault(self, now: float) -> None:
        name = self._draw.choice(NAMES[self.kind])
        hit, lift = FAULTS[name](self.scene)
        self.faults.append({"fault": name, "hit": hit, "at": round(now - self._began)})
        if lift is not None:
            self._lifts.append((now + self._draw.uniform(0.5, 6.0), lift))

    def _lift(self, now: float) -> None:
        for entry in [entry for entry in self._lifts if entry[0] <= now]:
            entry[1]()
            self._lifts.remove(entry)

    def _look(self, seconds: float) -> None:
        progress = seconds if self.kind != "train" else float(steps_of(self.subject.run(self.scene.place)))
        for pid, argv in self._processes().items():
            with contextlib.suppress(OSError):
                held = held_by(pid)
                life = self.lives.setdefault(pid, Life(""))
                life.name = named(argv)  # a worker of Ray's gets its own when it is given something to do
                life.seen.append((seconds, progress, held))

    def _processes(self) -> dict[int, list[str]]:
        cluster = self.subject.cluster
        return self.scene.processes() | (cluster.processes() if cluster is not None else {})

    def steep(self) -> list[tuple[int, dict[str, float]]]:
        """Processes that gain too much."""
        unit = 1000.0 if self.kind == "train" else 600.0
        ours = {pid: life for pid, life in self.lives.items() if any(word in life.name for word in OURS)}
        judged = [(pid, life.slopes(unit)) for pid, life in ours.items() if lived(life) > LIVED]
        return [(pid, found) for pid, found in judged if any(found[kind] > STEEP[kind] for kind in STEEP)]

    def record(self) -> dict[str, Any]:
        """What is kept."""
        unit = 1000.0 if self.kind == "train" else 600.0
        old = {pid: life for pid, life in self.lives.items() if lived(life) > LIVED}
        return {
            "n": sum(fault["hit"] is not None for fault in self.faults),
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "commands": self.commands,
            "faults": self.faults,
            "processes": [
                {
                    "name": life.name,
                    "minutes": round(lived(life) / 60, 1),
                    "last": life.seen[-1][2],
                    "gains": life.slopes(unit),
                }
                for life in old.values()
            ],
            "per": "1,000 steps" if self.kind == "train" else "ten minutes",
            "wrong": self.wrong,
        }


def named(argv: Sequence[str]) -> str:
    """The end of every argument's path, as far as a line holds."""
    return " ".join(word.rpartition("/")[2] for word in argv)[:60]


def lived(life: Life) -> float:
    """Seconds between the first look and the last."""
    return life.seen[-1][0] - life.seen[0][0]


def held_by(pid: int) -> dict[str, float]:
    """MiB of memory that are a process's own, open files and sockets."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean", "Private_Dirty")))
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    return {
        "rss": own / 1024,
        "files": float(len(links)),
        "sockets": float(sum(x.startswith("socket:") for x in links)),
    }


def steps_of(run: Path) -> int:
    """How far a run is."""
    try:
        *_, last = (run / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(last)["t"])
    except (OSError, ValueError, KeyError):
        return 0


def subject_of(kind: str, folder: Path, args: argparse.Namespace) -> Subject:
    """What runs."""
    if kind == "train":
        return chaos_what.on_hosts(
            folder, "store", max_steps=args.steps, checkpoint__every=50, max_failures=10_000, call_timeout=20.0
        )
    if kind == "evaluate":
        queries = int(args.minutes * QUERIES)
        return chaos_what.evaluating(folder, f"--attacks=clean,square-{queries}", "--block=2")
    made = chaos_what.serving(folder, f"--seconds={60 * args.minutes}", f"--versions={PAUSE}")
    return replace(made, expected=list)  # every answer is compared with the others of its version, while they come


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(NAMES))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=5000, help="of train, which ends with them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/soak_KIND.json")
    args = parser.parse_args(argv)
    chaos_left.with_own_memory()
    with tempfile.TemporaryDirectory(prefix="soak", dir="/tmp") as folder:
        soak = Soak(args.kind, subject_of(args.kind, Path(folder), args), Path(folder) / "s", args)
        try:
            soak.go()
        finally:
            soak.scene.end()
    record = {**circumstances(seed=args.seed), **soak.record()}
    print(save(f"soak_{args.kind}", record) if args.save else json.dumps(record))
    for line in soak.wrong:
        print(line, file=sys.stderr)
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
