"""The papers' claims on real images: what mutual training and distillation bring on CIFAR-10 at 16x16, against equal cost.

python benchmarks/claims.py NAME|all|teachers --runs-dir RUNS [--data-root data/cifar10] [--seeds 0 1 2] [--minutes 60] [--save]

What is compared stands in claims_compared.py. A piece is one run with one seed, or one of its networks attacked. Runs are kept in RUNS, and
with ``--save`` every attacked network at once in benchmarks/results/claims/pieces/SETTING-UNDER.json, so the same command goes on, also on
another machine; claims/NAME.json is made from the seeds of which all is there. ``teachers`` trains and publishes those of the distillation
methods, once; they are committed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from claims_compared import CLAIMS, SETTINGS, TEACHERS, TEACHING, Claim, Piece, Row, part
from common import RESULTS, circumstances

from sparring.agents.checkpoint import to_json
from sparring.cluster.config.environment import cpu
from sparring.cluster.evaluation.block import BROKEN, read
from sparring.cluster.evaluation.evaluation import evaluate_run
from sparring.cluster.frontier import cost
from sparring.cluster.models.card import publish
from sparring.cluster.models.examples import Examples
from sparring.cluster.models.initial import resolved
from sparring.cluster.models.resolve import single
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.training import launch
from sparring.cluster.training.job import Circumstances

T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # of Student's t with one degree of freedom less: two-sided 95 %
ATTACKS = ("clean", "pgd-20", "autoattack")
COLUMNS = ("label", "clean_prediction", *(BROKEN + attack for attack in ATTACKS[1:]))
TEACHERS_SEED = 100
TEACHERS_EXAMPLES = 200  # a teacher has nine times a student's parameters, and is attacked for its card alone


class OutOfTimeError(Exception):
    """The minutes are over."""


def run(label: str, piece: Piece, seed: int, args: argparse.Namespace) -> RunFolder:
    """The run, trained to its end."""
    made = launch.train(
        piece.config(seed, args.setting),
        runs_dir=args.runs_dir / args.named,  # the settings have runs of one name
        name=f"{label}-seed{seed}",
        resume_if_exists=True,
        how=Circumstances(quiet=True),
    )
    return RunFolder(made.path)


def teachers(args: argparse.Namespace) -> None:
    """Train, attack and publish the networks that students learn from."""
    for name, piece in TEACHING.items():
        args.setting = settings(args, "whole")
        folder = run(f"teacher-{name}", piece, TEACHERS_SEED, args)
        if not (folder.path / "evaluation" / "card" / "report.json").exists():
            evaluate_run(folder, attacks=ATTACKS, checkpoint="last", examples=Examples(TEACHERS_EXAMPLES), name="card")
        where = TEACHERS if args.save else args.runs_dir / "teachers"
        version = publish(*single(f"{folder.path}@model"), name=name, models_dir=where)
        card = json.loads((version / "card.json").read_bytes())
        card["data"]["root"] = "data"  # not where it lay on the machine that trained
        (version / "card.json").write_bytes(to_json(card))
        print(version)


def attacked(folder: RunFolder, row: Row, checkpoint: str, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracies of one network, and per test image whether it is right, and still right after AutoAttack under every threat."""
    name = f"claims-{row.agent}-{checkpoint}-{args.examples}-{len(args.threats)}"
    place = folder.path / "evaluation" / name
    if not (place / "report.json").exists():
        evaluate_run(
            folder,
            agents=[row.agent],
            checkpoint=checkpoint,
            attacks=ATTACKS,
            threats=args.threats,
            examples=Examples(args.examples),
            name=name,
            masking=0,
        )
    report = json.loads((place / "report.json").read_text())
    blocks: dict[str, list[dict[str, Any]]] = {}  # by threat
    for path in report["blocks"]:
        blocks.setdefault(Path(path).parent.name, []).append(read(place / path))
    whole = {
        threat: {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in COLUMNS}
        for threat, parts in blocks.items()
    }
    first = next(iter(whole.values()))
    clean = first["clean_prediction"] == first["label"]
    right = {threat: {a: clean & ~columns[BROKEN + a] for a in ATTACKS[1:]} for threat, columns in whole.items()}
    union = {a: np.logical_and.reduce([r[a] for r in right.values()]) for a in ATTACKS[1:]}
    return {
        "step": next(iter(report["agents"].values()))["checkpoint"],
        "clean": float(clean.mean()),
        **{a: float(values.mean()) for a, values in union.items()},
        "threats": {threat: float(r["autoattack"].mean()) for threat, r in right.items()},
        "right_clean": digits(clean),
        "right": digits(union["autoattack"]),
    }


class Pieces:
    """What was measured in one setting under some threats, by row and seed: its file is begun anew when the setting changes."""

    def __init__(self, claim: Claim, args: argparse.Namespace) -> None:
        under = "union" if len(claim.threats) > 1 else "linf"
        self.file, self._save = RESULTS / "claims" / "pieces" / f"{claim.setting}-{under}.json", args.save
        setting = described(args.setting) | {"threats": list(claim.threats), "examples": args.examples}
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
            shown = {k: v for k, v in known[checkpoint].items() if not k.startswith("right")}
            print(seed, label, checkpoint, shown, flush=True)
    return {label: pieces.made[label][str(seed)] for label in claim.rows}


def in_time(args: argparse.Namespace) -> None:
    """Raise when no further piece may begin."""
    if args.minutes is not None and time.monotonic() - args.begun > 60 * args.minutes:
        raise OutOfTimeError


def digits(right: np.ndarray) -> str:
    """Per test image, as hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def bits(text: str, n: int) -> np.ndarray:
    """Per test image, from its hexadecimal digits."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:n].astype(float)


def scores(made: Mapping[str, Any], measure: str, n: int) -> np.ndarray:
    """Per test image: 1 when right after AutoAttack; weighted: the mean of that and of being right without one."""
    robust = bits(made["right"], n)
    return robust if measure == "robust" else (robust + bits(made["right_clean"], n)) / 2


def difference(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], checkpoint: str, n: int, measure: str = "robust"
) -> dict[str, Any]:
    """The measure of ``a`` minus that of ``b``, per seed; its mean with two 95 % intervals.

    Over seeds: Student's t of the seeds' differences, that is, other initial weights, images and orders. Over examples: the normal
    interval of the mean over test images of the seeds' paired differences, that is, other test images.
    """
    pairs = zip(a, b, strict=True)
    paired = np.stack([scores(x[checkpoint], measure, n) - scores(y[checkpoint], measure, n) for x, y in pairs])
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


def concluded(claim: Claim, seeds: Mapping[int, Mapping[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """What is written: rows over seeds, pairs, costs."""
    first = next(iter(seeds))
    rows = {label: [found[label] for found in seeds.values()] for label in claim.rows}
    passes = {label: cost.counted(resolved(piece.config(first, args.setting))) for label, piece in claim.pieces.items()}
    kept = ("step", "threats", "right", "right_clean")
    return {
        **circumstances(seed=first),
        "n": args.examples,
        "seeds": list(seeds),
        "threats": list(claim.threats),
        "measure": claim.measure,
        "setting": described(args.setting),
        "rows": {
            label: {
                "passes": passes[claim.rows[label].piece] * found[0]["steps"],
                "seconds": fmean(f["seconds"] for f in found),
                **{
                    checkpoint: {k: [f[checkpoint][k] for f in found] for k in (*ATTACKS, *kept)}
                    for checkpoint in claim.rows[label].checkpoints
                },
            }
            for label, found in rows.items()
        },
        "pairs": [
            {
                "a": a,
                "b": b,
                "checkpoint": checkpoint,
                **difference(rows[a], rows[b], checkpoint, args.examples, claim.measure),
            }
            for a, b in claim.pairs
            for checkpoint in claim.rows[a].checkpoints
            if checkpoint in claim.rows[b].checkpoints
        ],
    }


def described(setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting without paths."""
    return {k: v for k, v in setting.items() if k != "data.name"} | {"data": "CIFAR-10 at 16x16, means of 2x2"}


def settings(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """A setting with what ``--set`` changes; its name is kept."""
    args.named = name
    made = dict(SETTINGS[name])
    for text in args.set:
        path, _, value = text.partition("=")
        made[path] = json.loads(value) if value[:1].isdigit() else value
    return made


def compared(name: str, args: argparse.Namespace) -> bool:
    """Measure one claim as far as time allows and write what can be said; whether nothing is left."""
    claim = part(CLAIMS[name], args.only) if args.only else CLAIMS[name]
    args.setting, args.threats = settings(args, claim.setting), claim.threats
    pieces, done = Pieces(claim, args), {}
    try:
        for seed in args.seeds:
            done[seed] = measured(claim, seed, pieces, args)
    except OutOfTimeError:
        print(f"{name}: {args.minutes:g} minutes are over; the same command goes on", file=sys.stderr)
    if done:
        record = concluded(claim, done, args)
        for pair in record["pairs"]:
            print({k: v for k, v in pair.items() if k != "seeds"})
        if args.save:
            (RESULTS / "claims").mkdir(exist_ok=True)
            (RESULTS / "claims" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return len(done) == len(args.seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*CLAIMS, "all", "teachers"])
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
    args.begun = time.monotonic()
    if args.name == "teachers":
        teachers(args)
        return 0
    asked = list(CLAIMS) if args.name == "all" else [args.name]
    finished = [compared(name, args) for name in asked]
    return 0 if all(finished) else 130


if __name__ == "__main__":
    raise SystemExit(main())
