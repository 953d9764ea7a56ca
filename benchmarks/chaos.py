"""Any fault at any time: every command must end as promised.

python benchmarks/chaos.py [--minutes 10] [--seed 0] [--only SEED ...] [--what NAME ...] [--json] [--save]

A scenario is drawn from its seed alone: what runs (``chaos_what.py``), one to three faults (``chaos_faults.py``) and their moments, uniform over
the time that the undisturbed command takes, or as soon after that as it saves, or recovers from a fault before. A command that ends is begun again, as its own sentence says, until it is done.

    seed ---> what, faults, moments ---> command, faults, command again, ... ---> what is there at the end, against the undisturbed one

As promised is: exit 0 and the undisturbed result; before that only exit codes and a sentence that say how to go on, or a kill of our own; no
command that hangs, no committed checkpoint that changes, nothing left behind (``chaos_left.py``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import chaos_left
import chaos_what
from chaos_faults import FAULTS, ONCE
from chaos_scene import Lift, Scene
from chaos_subject import Subject
from chaos_what import Planned
from common import circumstances, save

WAITS = 0.3  # of the undisturbed duration: so long a fault waits for its moment
HANGS = 300.0  # seconds without an end after which a command counts as hung
ANOTHER = 10.0  # seconds until a command is begun again that was told that another process holds the run
ATTEMPTS = 8  # commands until one is done
AT_START = "Failed to register worker to Raylet"  # in the very second in which a command connects, Ray itself ends it
GOES_ON = (6, 8, 130, 143)  # exit codes that a fault may cause; 143: a service that is ending is told to end


@dataclass(slots=True)
class Outcome:
    """What became of a scenario."""

    seed: int
    what: str
    faults: list[dict[str, Any]]  # as planned, with what was hit and when
    commands: list[dict[str, Any]] = field(default_factory=list)  # exit code, seconds, sentence
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all ended as promised."""
        return not self.wrong


class Running:
    """One scenario while it happens."""

    def __init__(self, seed: int, subject: Subject, planned: list[Planned], place: Path) -> None:
        self.subject, self.planned = subject, list(planned)
        self.expected, self.usual = subject.undisturbed()
        self.scene = Scene(place, subject)
        self.outcome = Outcome(seed, subject.name, [asdict(p) for p in planned])
        self.watched = chaos_left.Committed(subject.run(place))
        self.lifts: list[tuple[float, Lift, str]] = []  # when a fault ends, how, and which it is
        self.once: list[tuple[int, Lift]] = []  # during which command such a fault happened, and how it ends

    def go(self) -> Outcome:
        """Until a command is done, or something is wrong."""
        began = time.monotonic()
        before = chaos_left.there()
        for attempt in range(ATTEMPTS):
            code = self._command(attempt, began)
            if code == 0 or self.outcome.wrong:
                break
            self._seen_once()
            self._until_writable()
            time.sleep(ANOTHER if code == 3 else 0.0)
        else:
            self.outcome.wrong.append(f"not done after {ATTEMPTS} commands")
        self._seen_once(end=True)
        while self.lifts:
            self._lift(float("inf"))
        self._others()
        if not self.outcome.wrong:
            self.outcome.wrong += self._unlike()
        self.outcome.wrong += self.watched.changed()
        self.outcome.wrong += chaos_left.left(self.scene, before)
        self.outcome.seconds = round(time.monotonic() - began, 1)
        return self.outcome

    def _command(self, attempt: int, began: float) -> int:
        started = time.monotonic()
        process = self.scene.begin(again=attempt > 0)
        while process.poll() is None:
            self._faults(began)
            self.watched.look()
            if time.monotonic() - started > HANGS:
                self.outcome.wrong.append(f"{self.subject.name} hangs: {self.scene.said()[-300:]}")
                self.scene.killed_by_us = True
                self.scene.end()
                break
            time.sleep(0.02)
        said = self.scene.said()
        killed = self.scene.killed_by_us
        code = process.wait()
        sentence = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        self.outcome.commands.append(
            {"code": code, "seconds": round(time.monotonic() - started, 1), "sentence": sentence[:300]}
        )
        if code != 0 and not killed and not (code == 1 and AT_START in said):
            if "Traceback (most recent call last)" in said:
                self.outcome.wrong.append(f"exit {code} with a traceback: {said[-1500:]}")
            elif code not in (*GOES_ON, *self.scene.allowed) or "sparring: " not in said:
                self.outcome.wrong.append(f"exit {code}: {said[-600:]}")
        return code

    def _unlike(self) -> list[str]:
        """What of the result is unlike the undisturbed one."""
        try:
            found = self.subject.result(self.scene.place)
        except (OSError, ValueError, LookupError) as error:
            return [
                f"the result cannot be read: {type(error).__name__}: {error}; the command said {self.scene.said()[-600:]}"
            ]
        return [f"the result is another than the undisturbed one: {at}" for at in unlike(self.expected, found)[:1]]

    def _others(self) -> None:
        """Commands that were typed a second time end too, and say why."""
        for number, other in enumerate(self.scene.others):
            said = (self.scene.place / f"other-{number}.txt").read_text(errors="replace")
            try:
                code = other.wait(HANGS)
            except subprocess.TimeoutExpired:
                self.outcome.wrong.append(f"the second command hangs: {said[-300:]}")
                continue
            if "Traceback (most recent call last)" in said or code not in (0, 3, *GOES_ON):
                self.outcome.wrong.append(f"the second command: exit {code}: {said[-600:]}")

    def _seen_once(self, *, end: bool = False) -> None:
        """What the next command found is as before, once that has ended."""
        for entry in [entry for entry in self.once if end or self.scene.begun > entry[0]]:
            entry[1]()
            self.once.remove(entry)

    def _until_writable(self) -> None:
        """Nobody begins again before there is a head, a disk takes files and a bucket answers, but everybody before a process goes on."""
        time.sleep(0.2)
        while any(word in name for _, _, name in self.lifts for word in ("disk", "bucket", "fsync", "head", "moved")):
            self._lift(time.monotonic())
            time.sleep(0.05)

    def _lift(self, now: float) -> None:
        for entry in [entry for entry in self.lifts if entry[0] <= now]:
            try:
                entry[1]()
            except OSError:  # as a full disk is not emptied while it is read-only
                continue
            self.lifts.remove(entry)

    def _faults(self, began: float) -> None:
        now = time.monotonic()
        self._lift(now)
        for i, planned in enumerate(self.planned):
            done = self.outcome.faults[i]
            late = (now - began) / self.usual - planned.share
            if "hit" in done or late < 0 or not (late > WAITS or self._moment(planned.moment)):
                continue
            hit, lift = FAULTS[planned.fault](self.scene)
            if hit is None:
                continue  # what it is aimed at is not there yet
            done |= {"hit": hit, "at": round(now - began, 2)}
            if lift is not None and planned.fault in ONCE:
                self.once.append((self.scene.begun, lift))
            elif lift is not None:
                self.lifts.append((now + planned.lasts, lift, planned.fault))

    def _moment(self, name: str) -> bool:
        return name == "uniform" or bool(getattr(self.scene, name)())


def unlike(expected: Any, found: Any, at: str = "") -> list[str]:
    """Places in which two results differ, with both values."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted(expected.keys() | found.keys(), key=str)
        return [x for k in names for x in unlike(expected.get(k), found.get(k), f"{at}/{k}")]
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        return [x for i, pair in enumerate(zip(expected, found, strict=True)) for x in unlike(*pair, f"{at}/{i}")]
    return [] if expected == found else [f"{at}: {str(expected)[:200]} != {str(found)[:200]}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="scenarios are 1000 SEED, 1000 SEED + 1, ...")
    parser.add_argument("--only", type=int, nargs="*", help="these scenarios, by their own seeds")
    parser.add_argument("--what", nargs="*", choices=list(chaos_what.SUBJECTS), default=list(chaos_what.SUBJECTS))
    parser.add_argument("--json", action="store_true", help="print the record instead of a line per scenario")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/chaos/SEED.json")
    args = parser.parse_args()
    chaos_left.with_own_memory()
    began, outcomes = time.monotonic(), []
    seeds = iter(args.only) if args.only else iter(range(1000 * args.seed, 1000 * args.seed + 1000))
    with tempfile.TemporaryDirectory(prefix="chaos", dir="/tmp") as folder:  # Ray's sockets need a short path
        for seed in seeds:
            if not args.only and time.monotonic() - began > 60 * args.minutes:
                break
            what, planned = chaos_what.drawn(seed, args.what)
            running = Running(seed, chaos_what.made(what, Path(folder)), planned, Path(folder) / str(seed))
            try:
                outcome = running.go()
            finally:
                running.scene.end()
            outcomes.append(outcome)
            if not args.json:
                print(line(outcome), flush=True)
    faults = sum("hit" in fault for o in outcomes for fault in o.faults)
    record = {**circumstances(seed=args.seed), "n": faults, "scenarios": [asdict(o) | {"ok": o.ok} for o in outcomes]}
    record |= {"ok": sum(o.ok for o in outcomes), "minutes": round((time.monotonic() - began) / 60, 1)}
    if args.save:
        save(f"chaos/{args.seed}", record)
    print(
        json.dumps(record) if args.json else f"{faults} faults in {len(outcomes)} scenarios, {record['ok']} as promised"
    )
    sys.exit(0 if all(o.ok for o in outcomes) else 1)


def line(outcome: Outcome) -> str:
    """For a person."""
    faults = ", ".join(f"{f['fault']} ({f.get('hit', 'too late')})" for f in outcome.faults)
    codes = " ".join(str(c["code"]) for c in outcome.commands)
    text = f"{outcome.seed} {outcome.what}: {faults}; exits {codes}; {outcome.seconds} s; {'ok' if outcome.ok else 'WRONG'}"
    return "\n    ".join([text, *outcome.wrong])


if __name__ == "__main__":
    main()
