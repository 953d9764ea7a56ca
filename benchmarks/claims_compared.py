"""What the papers claim, as networks to train and pairs of them to compare.

All is CIFAR-10 at 16x16. ``few``: 2,000 images without augmentation, where the last checkpoint of adversarial training lies far below its
best one: there the peers of MAT can help. ``norms``: the same images, fewer epochs, since the best checkpoint alone is looked at, and that
of adversarial training is one of the first ten epochs. ``taught``: 10,000 images and a small student of teachers that have nine times its
parameters and have seen all images (``whole``): what the papers on distillation are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from common import CLONE, RESULTS

from sparring.cluster.config.recipes import recipe
from sparring.cluster.config.run_config import RunConfig

HERE = CLONE / "benchmarks"
TEACHERS = RESULTS / "claims" / "teachers"
SMOOTHED = str(HERE / "claims_methods.py")
COMMON: dict[str, Any] = {
    "team": "local",
    "data.name": f"{HERE / 'claims_data.py'}:small",
    "network": "wide_resnet:depth=10,widen=1",
    "attack.eps": 8 / 255,
    "attack.steps": 5,
}
FEW: dict[str, Any] = COMMON | {
    "data.fraction": 0.04,
    "data.augment": "none",
    "batch_size": 50,
    "epochs": 60,
    "checkpoint.every": 74,
}
SEVERAL = FEW | {"epochs": 24}
WHOLE: dict[str, Any] = COMMON | {
    "data.augment": "crop-flip",
    "data.padding": 2,
    "batch_size": 128,
    "epochs": 8,
    "checkpoint.every": 380,
}
TAUGHT = WHOLE | {"data.fraction": 0.2, "epochs": 10, "checkpoint.every": 260}
SETTINGS = {"few": FEW, "norms": SEVERAL, "taught": TAUGHT, "whole": WHOLE}
NORMS: dict[str, dict[str, float]] = {  # radii of MSD and E-AT for as many times fewer values as an image has here
    "linf": {"eps": 8 / 255, "steps": 5},
    "l2": {"eps": 0.25, "steps": 5},
    "l1": {"eps": 3.0, "steps": 10},
}
UNION = ("linf:8/255", "l2:0.25", "l1:3")
PLAIN = {"method.kd_weight": 0.0, "method.acm_weight": 0.0}


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

    setting: Literal["few", "norms", "taught"]
    pieces: Mapping[str, Piece]
    rows: Mapping[str, Row]
    pairs: Sequence[tuple[str, str]]  # the claimed better one, the other
    threats: tuple[str, ...] = ("linf:8/255",)  # robust: right under all of them
    measure: Literal["robust", "weighted"] = "robust"  # weighted: the mean of clean and robust


def part(claim: Claim, labels: Sequence[str]) -> Claim:
    """The claim with these networks alone."""
    rows = {label: claim.rows[label] for label in labels}
    pieces = {row.piece: claim.pieces[row.piece] for row in rows.values()}
    return replace(claim, pieces=pieces, rows=rows, pairs=[pair for pair in claim.pairs if set(pair) <= set(labels)])


def longer(times: int) -> dict[str, Any]:
    return {"epochs": times * FEW["epochs"]}


def several(method: str, *norms: str) -> Piece:
    """A method against several norms."""
    return Piece(method, {f"attacks.{p}.{key}": value for p in norms for key, value in NORMS[p].items()})


def taught(method: str, *roles: str, **changes: Any) -> Piece:
    """A student of the committed teachers, by role."""
    kinds = {role: "clean" if "clean" in role else "robust" for role in roles}
    return Piece(method, {f"agents.{role}.init": str(TEACHERS / kind) for role, kind in kinds.items()} | changes)


LARGER = {"network": "wide_resnet:depth=10,widen=3", "precision": "bf16"}
TEACHING = {"robust": Piece("at", LARGER), "clean": Piece("clean", LARGER)}

BEST, LAST = (
    ("best",),
    ("last",),
)  # in few only some are looked at where they overfit; in taught the rate falls to 0 at the last
AVERAGES = {"optim.ema": 0.995, "optim.swa": True}  # they are looked at beside, and change nothing of the run
MAT = Claim(
    setting="few",
    pieces={
        "at": Piece("at", AVERAGES),
        "at_2x": Piece("at", longer(2)),
        "at_3x": Piece("at", longer(3)),
        "at_awp": Piece("at", {"optim.awp": 0.005}),
        "at_smoothed": Piece(SMOOTHED),
        "two_ats": Piece("mat", {"method.alpha": 0.0}),
        "mat_2": Piece("mat"),
        "mat_3": Piece("mat", {"method.peers": 3}),
    },
    rows={  # the peers first: what the claim is about is known soonest
        "at": Row("at", "model"),
        "mat_2": Row("mat_2", "peer0"),
        "at_2x": Row("at_2x", "model"),
        "at_ema": Row("at", "model.ema", BEST),
        "at_swa": Row("at", "model.swa", BEST),
        "at_awp": Row("at_awp", "model", BEST),
        "at_smoothed": Row("at_smoothed", "model", BEST),
        "mat_2_ensemble": Row("mat_2", "ensemble", BEST),
        "two_ats_averaged": Row("two_ats", "ensemble", BEST),
        "mat_3": Row("mat_3", "peer0"),
        "at_3x": Row("at_3x", "model", BEST),
        "mat_3_ensemble": Row("mat_3", "ensemble", BEST),
    },
    pairs=[
        *(("mat_2", other) for other in ("at", "at_2x", "at_ema", "at_swa", "at_awp", "at_smoothed")),
        *(("mat_3", other) for other in ("at", "at_3x")),
        ("mat_2_ensemble", "two_ats_averaged"),
        ("mat_2_ensemble", "at_2x"),
    ],
)
MULTI_NORM = Claim(
    setting="norms",
    pieces={
        "at": Piece("at", AVERAGES),
        "avg": several("avg", *NORMS),
        "max": several("max", *NORMS),
        "msd": several("msd", *NORMS),
        "eat": several("eat", "linf", "l1"),
        "mat_multi": several("mat_multi", *NORMS),
    },
    rows={
        "at": Row("at", "model", BEST),
        "avg": Row("avg", "model", BEST),
        "max": Row("max", "model", BEST),
        "msd": Row("msd", "model", BEST),
        "eat": Row("eat", "model", BEST),
        "mat_multi": Row("mat_multi", "generalist", BEST),
    },
    pairs=[("mat_multi", other) for other in ("at", "avg", "max", "msd", "eat")],
    threats=UNION,
)
SWA = {"optim.swa": True}
STUDENTS = {
    "at": Piece("at", SWA),
    "ard": taught("ard", "teacher"),
    "rslad": taught("rslad", "teacher"),
}
STUDENT_ROWS = {
    "at": Row("at", "model", LAST),
    "ard": Row("ard", "student", LAST),
    "rslad": Row("rslad", "student", LAST),
}
PEERAID = Claim(
    setting="taught",
    pieces=STUDENTS | {"adaad": taught("adaad", "teacher"), "peeraid": Piece("peeraid", SWA)},
    rows={
        **STUDENT_ROWS,
        "at_swa": Row("at", "model.swa", LAST),
        "adaad": Row("adaad", "student", LAST),
        "peeraid": Row("peeraid", "student", LAST),
        "peeraid_swa": Row("peeraid", "student.swa", LAST),
        "peeraid_peer": Row("peeraid", "peer", LAST),
    },
    pairs=[
        *(("peeraid", other) for other in ("at", "ard", "rslad", "adaad")),
        ("peeraid_swa", "at_swa"),
    ],
)
MTARD = Claim(
    setting="taught",
    pieces=STUDENTS
    | {
        "mtard_eccv": taught("mtard_eccv-digits", "clean_teacher", "robust_teacher"),
        "mtard": taught("mtard", "clean_teacher", "robust_teacher"),
    },
    rows={
        **STUDENT_ROWS,
        "mtard_eccv": Row("mtard_eccv", "student", LAST),
        "mtard": Row("mtard", "student", LAST),
    },
    pairs=[(own, other) for own in ("mtard_eccv", "mtard") for other in ("at", "ard", "rslad")],
    measure="weighted",
)
MIXACM = Claim(
    setting="taught",
    pieces={
        "at": STUDENTS["at"],
        "n_fgsm": Piece("n_fgsm"),
        "iad": taught("iad", "teacher"),
        "mixup": taught("mixacm", "teacher", **PLAIN),
        "mixacm": taught("mixacm", "teacher"),
    },
    rows={
        "at": STUDENT_ROWS["at"],
        "n_fgsm": Row("n_fgsm", "model", LAST),
        "iad": Row("iad", "student", LAST),
        "mixup": Row("mixup", "student", LAST),
        "mixacm": Row("mixacm", "student", LAST),
    },
    pairs=[("mixacm", other) for other in ("mixup", "at", "n_fgsm", "iad")],
)
CLAIMS = {"mat": MAT, "multi_norm": MULTI_NORM, "peeraid": PEERAID, "mtard": MTARD, "mixacm": MIXACM}
