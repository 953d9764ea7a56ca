"""The papers' claims on real images: what mutual training and distillation bring on CIFAR-10 at 16x16, against equal cost.

python benchmarks/claims.py NAME|all --runs-dir RUNS [--data-root data/cifar10] [--seeds 0 1 2] [--minutes 60] [--save]

A piece is one run with one seed, or one of its networks attacked. Runs are kept in RUNS, and with ``--save`` every attacked network at once in
benchmarks/results/claims/pieces/NAME.json, so the same command goes on, also on another machine; claims/NAME.json is made from the
seeds of which all is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from common import CLONE, RESULTS, circumstances

from sparring.cluster.config.environment import cpu
from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.evaluation.block import BROKEN, read
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.frontier import cost
from sparring.cluster.models.examples import Examples
from sparring.cluster.models.initial import resolved
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

EPS = 8 / 255
SMOOTHED = str(CLONE / "benchmarks" / "claims_methods.py")
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # of Student's t with one degree of freedom less: two-sided 95 %
SETTING: dict[str, Any] = {
    "team": "local",
    "data.name": f"{CLONE / 'benchmarks' / 'claims_data.py'}:small",
    "data.fraction": 0.04,
    "data.augment": "none",
    "network": "wide_resnet:depth=10,widen=1",
    "attack.eps": EPS,
    "attack.steps": 5,
    "batch_size": 50,
    "epochs": 60,
    "checkpoint.every": 74,
}


@dataclass(frozen=True)
class Piece:
    """A run: ``Piece("mat", {"method.peers": 3})``."""

    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def config(self, seed: int, setting: Mapping[str, Any]) -> RunConfig:
        return recipe(self.method).replace({**setting, **self.changes, "seed": seed})


@dataclass(frozen=True)
class Row:
    """A network: of which run, by which name there."""

    piece: str
    agent: str
    checkpoints: tuple[str, ...] = ("best", "last")


@dataclass(frozen=True)
class Claim:
    """What is compared: networks by label, and pairs of them."""

    pieces: Mapping[str, Piece]
    rows: Mapping[str, Row]
    pairs: Sequence[tuple[str, str]]  # the claimed better one, the other


def part(claim: Claim, labels: Sequence[str]) -> Claim:
    """The claim with these networks alone."""
    rows = {label: claim.rows[label] for label in labels}
    pieces = {row.piece: claim.pieces[row.piece] for row in rows.values()}
    return Claim(pieces, rows, [pair for pair in claim.pairs if set(pair) <= set(labels)])


def longer(times: int) -> dict[str, Any]:
    return {"epochs": times * SETTING["epochs"]}


AT = {
    "at": Piece("at", {"optim.ema": 0.995, "optim.swa": True})
}  # averages are looked at beside; they change nothing of the run
MAT = Claim(
    pieces={
        **AT,
        "at_2x": Piece("at", longer(2)),
        "at_3x": Piece("at", longer(3)),
        "at_awp": Piece("at", {"optim.awp": 0.005}),
        "at_smoothed": Piece(SMOOTHED),
        "two_ats": Piece("mat", {"method.alpha": 0.0}),
        "mat_2": Piece("mat"),
        "mat_3": Piece("mat", {"method.peers": 3}),
    },
    rows={
        "at": Row("at", "model"),
        "at_2x": Row("at_2x", "model"),
        "at_3x": Row("at_3x", "model"),
        "at_ema": Row("at", "model.ema"),
        "at_swa": Row("at", "model.swa"),
        "at_awp": Row("at_awp", "model"),
        "at_smoothed": Row("at_smoothed", "model"),
        "two_ats_averaged": Row("two_ats", "ensemble"),
        "mat_2": Row("mat_2", "peer0"),
        "mat_2_ensemble": Row("mat_2", "ensemble"),
        "mat_3": Row("mat_3", "peer0"),
        "mat_3_ensemble": Row("mat_3", "ensemble"),
    },
    pairs=[
        *(("mat_2", other) for other in ("at", "at_2x", "at_ema", "at_swa", "at_awp", "at_smoothed")),
        *(("mat_3", other) for other in ("at", "at_3x")),
        ("mat_2_ensemble", "two_ats_averaged"),
        ("mat_2_ensemble", "at_2x"),
    ],
)
CLAIMS = {"mat": MAT}
ATTACKS = ("clean", "pgd-20", "autoattack")


class OutOfTimeError(Exception):
    """The minutes are over."""


def run(label: str, piece: Piece, seed: int, args: argparse.Namespace) -> RunFolder:
    """The run, trained to its end."""
    config = piece.config(seed, args.setting)
    made = launch.train(
        config,
        runs_dir=args.runs_dir,
        name=f"{label}-seed{seed}",
        resume_if_exists=True,
        how=Circumstances(quiet=True),
    )
    return RunFolder(made.path)


def attacked(folder: RunFolder, row: Row, checkpoint: str, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracies of one network, and per test image whether AutoAttack left it right."""
    name = f"claims-{row.agent}-{checkpoint}-{args.examples}"
    place = folder.path / "evaluation" / name
    if not (place / "report.json").exists():
        evaluate_run(
            folder,
            agents=[row.agent],
            checkpoint=checkpoint,
            attacks=ATTACKS,
            examples=Examples(args.examples),
            name=name,
            masking=0,
        )
    report = json.loads((place / "report.json").read_text())
    right = {"clean": [], **{a: [] for a in ATTACKS[1:]}}  # type: dict[str, list[np.ndarray]]
    for path in report["blocks"]:
        columns = read(place / path)
        clean = (columns["clean_prediction"] == columns["label"]).numpy()
        right["clean"].append(clean)
        for attack in ATTACKS[1:]:
            right[attack].append(clean & ~columns[f"{BROKEN}{attack}"].numpy())
    whole = {attack: np.concatenate(parts) for attack, parts in right.items()}
    agent = next(iter(report["agents"].values()))
    return {
        "step": agent["checkpoint"],
        **{attack: float(values.mean()) for attack, values in whole.items()},
        "right": np.packbits(whole["autoattack"]).tobytes().hex(),
    }


class Pieces:
    """What was measured of a claim, by row and seed, for one setting: its file is begun anew when the setting changes."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.file, self._save = RESULTS / "claims" / "pieces" / f"{name}.json", args.save
        setting = {k: v for k, v in args.setting.items() if k != "data.name"} | {"examples": args.examples}
        self._whole: dict[str, Any] = {"setting": setting, "rows": {}}
        if self.file.exists():
            before = json.loads(self.file.read_text())
            if before["setting"] == setting:
                self._whole = before
        self.made: dict[str, dict[str, Any]] = self._whole["rows"]

    def keep(self) -> None:
        """Write them."""
        if self._save:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self._whole, indent=1) + "\n")


def measured(claim: Claim, seed: int, pieces: Pieces, args: argparse.Namespace) -> dict[str, Any]:
    """All rows of one seed.

    Raises:
        OutOfTimeError: between two pieces.
    """
    for label, row in claim.rows.items():
        known = pieces.made.setdefault(label, {}).setdefault(str(seed), {})
        for checkpoint in row.checkpoints:
            if checkpoint in known:
                continue
            in_time(args)
            folder = run(row.piece, claim.pieces[row.piece], seed, args)
            in_time(args)
            known |= {"seconds": sum(cost.spent(folder)), "steps": folder.total_steps, "cpu": cpu()}
            known[checkpoint] = attacked(folder, row, checkpoint, args)
            pieces.keep()
            shown = {k: v for k, v in known[checkpoint].items() if k != "right"}
            print(seed, label, checkpoint, shown, flush=True)
    return {label: pieces.made[label][str(seed)] for label in claim.rows}


def in_time(args: argparse.Namespace) -> None:
    """Raise when no further piece may begin."""
    if args.minutes is not None and time.monotonic() - args.begun > 60 * args.minutes:
        raise OutOfTimeError


def bits(text: str, n: int) -> np.ndarray:
    """Per test image, from its hexadecimal digits."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:n].astype(bool)


def difference(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], checkpoint: str, n: int
) -> dict[str, Any]:
    """AutoAttack accuracy of ``a`` minus that of ``b``, per seed; its mean with two 95 % intervals.

    Over seeds: Student's t of the seeds' differences, that is, other initial weights, images and orders. Over examples: the normal
    interval of the mean over test images of the seeds' paired differences, that is, other test images.
    """
    paired = np.stack(
        [
            bits(x[checkpoint]["right"], n).astype(float) - bits(y[checkpoint]["right"], n)
            for x, y in zip(a, b, strict=True)
        ]
    )
    seeds, images = paired.mean(1), paired.mean(0)
    mean = float(paired.mean())
    over_images = 1.96 * float(images.std(ddof=1)) / sqrt(n)
    made = {"mean": mean, "seeds": seeds.tolist(), "over_examples": [mean - over_images, mean + over_images]}
    if len(seeds) > 1:
        over_seeds = T95[len(seeds)] * stdev(seeds.tolist()) / sqrt(len(seeds))
        made["over_seeds"] = [mean - over_seeds, mean + over_seeds]
        made["verdict"] = verdict(made)
    return made


def verdict(found: Mapping[str, Any]) -> str:
    """seen: above 0 over seeds and over examples. refuted: below 0 over both. Else not seen."""
    intervals = (found["over_seeds"], found["over_examples"])
    if all(low > 0 for low, _ in intervals):
        return "seen"
    return "refuted" if all(high < 0 for _, high in intervals) else "not seen"


def concluded(
    name: str, claim: Claim, seeds: Mapping[int, Mapping[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    """What is written: rows over seeds, pairs, costs."""
    first = next(iter(seeds))
    rows = {label: [found[label] for found in seeds.values()] for label in claim.rows}
    passes = {label: cost.counted(resolved(piece.config(first, args.setting))) for label, piece in claim.pieces.items()}
    return {
        **circumstances(seed=first),
        "n": args.examples,
        "seeds": list(seeds),
        "threat": "linf:8/255",
        "setting": {k: v for k, v in args.setting.items() if k != "data.name"}
        | {"data": "CIFAR-10 at 16x16, means of 2x2"},
        "rows": {
            label: {
                "passes": passes[claim.rows[label].piece] * found[0]["steps"],
                "seconds": fmean(f["seconds"] for f in found),
                **{
                    checkpoint: {a: [f[checkpoint][a] for f in found] for a in ATTACKS}
                    | {k: [f[checkpoint][k] for f in found] for k in ("step", "right")}
                    for checkpoint in claim.rows[label].checkpoints
                },
            }
            for label, found in rows.items()
        },
        "pairs": [
            {"a": a, "b": b, "checkpoint": checkpoint, **difference(rows[a], rows[b], checkpoint, args.examples)}
            for a, b in claim.pairs
            for checkpoint in ("best", "last")
            if checkpoint in claim.rows[a].checkpoints and checkpoint in claim.rows[b].checkpoints
        ],
    }


def names(asked: str) -> Iterator[str]:
    """One claim, or all."""
    yield from CLAIMS if asked == "all" else [asked]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*CLAIMS, "all"])
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--data-root", default="data/cifar10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--minutes", type=float, help="begin no piece after so long; everything is kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="another setting, for trying it out")
    parser.add_argument("--only", nargs="*", metavar="ROW", help="these networks, for trying it out; not with --save")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/claims/NAME.json")
    args = parser.parse_args()
    if args.only and args.save:
        parser.error("--only is for trying it out: without --save")
    os.environ["CIFAR10"] = str(Path(args.data_root).resolve())
    args.begun, args.setting = time.monotonic(), dict(SETTING)
    for text in args.set:
        path, _, value = text.partition("=")
        args.setting[path] = json.loads(value) if value[:1].isdigit() else value
    stopped = False
    for name in names(args.name):
        done: dict[int, Any] = {}
        claim = part(CLAIMS[name], args.only) if args.only else CLAIMS[name]
        pieces = Pieces(name, args)
        try:
            for seed in args.seeds:
                done[seed] = measured(claim, seed, pieces, args)
        except OutOfTimeError:
            stopped = True
            print(f"{name}: {args.minutes:g} minutes are over; the same command goes on", file=sys.stderr)
        if done:
            record = concluded(name, claim, done, args)
            for pair in record["pairs"]:
                print({k: v for k, v in pair.items() if k != "seeds"})
            if args.save:
                (RESULTS / "claims").mkdir(exist_ok=True)
                (RESULTS / "claims" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 130 if stopped else 0


if __name__ == "__main__":
    raise SystemExit(main())
