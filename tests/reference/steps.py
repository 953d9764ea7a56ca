"""One recorded optimiser step of each baseline: order and mode of every forward pass, attack, loss, gradients, state."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sparring.trainers.config import Attack
from sparring.trainers.methods.adaad import Adaad
from sparring.trainers.methods.adaiad import Adaiad
from sparring.trainers.methods.akd2 import Akd2
from sparring.trainers.methods.ard import Ard
from sparring.trainers.methods.at import At
from sparring.trainers.methods.base import Method
from sparring.trainers.methods.iad import Iad
from sparring.trainers.methods.lbgat import Lbgat
from sparring.trainers.methods.rslad import Rslad
from sparring.trainers.methods.trades import Trades
from tests.reference.common import (
    LISTENING,
    Arrays,
    Recorded,
    Seen,
    close,
    drawn,
    gradients_seen,
    load,
    net,
    same_gradients,
    same_state,
    sgd,
    team,
    tensor,
)

Options = Mapping[str, Any]


class Read:
    """Recorded arguments under whichever of their names the code uses."""

    def __init__(self, values: Options) -> None:
        self.values = {k.lower(): v for k, v in values.items()}

    def __call__(self, *names: str, default: Any) -> Any:
        return next((self.values[n] for n in names if n in self.values), default)


def _iad(variant: Any) -> Callable[[Read, str], Method]:
    def make(a: Read, name: str) -> Method:
        return Iad(
            variant=variant,
            alpha=a("alpha", "iad_alpha", default=1.0) if variant == "I" else 1.0,
            alpha1=a("alpha1", "a1", default=0.5),
            alpha2=a("alpha2", "a2", default=0.25),
            temperature=a("temp", "temperature", default=1.0),
            trust=a("beta", "iad_beta", default=0.1),
            begin=a("begin", "iad_begin", default=None),
        )

    return make


def _ard(reduction: Any) -> Callable[[Read, str], Method]:
    def make(a: Read, name: str) -> Method:
        plain = 30.0 if reduction == "elements" else 1.0
        return Ard(
            alpha=a("alpha", default=1.0), temperature=a("temp", "temperature", default=plain), reduction=reduction
        )

    return make


def _adaad(a: Read, name: str) -> Method:
    return Adaad(
        weight=a("adaad_alpha", "alpha_adaad", default=1.0), reduction="batch" if "c100" in name else "elements"
    )


def _adaiad(a: Read, name: str) -> Method:
    return Adaiad(
        alpha=a("iad_alpha", default=1.0),
        temperature=a("temp", "temperature", default=30.0),
        trust=a("iad_beta", default=0.1),
        begin=a("iad_begin", default=60),
    )


def _rslad(a: Read, name: str) -> Method:
    return Rslad(scale=10.0 if "c100" in name else 1.0)


MTARD: dict[str, Callable[[Read, str], Method]] = {
    "rslad": _rslad,
    "trades": lambda a, name: Trades(beta=a("beta", default=6.0)),
    "ard": _ard("elements"),
    "iad1": _iad("I"),
    "iad2": _iad("II"),
    "sat": lambda a, name: At(),
}
PEERAID: dict[str, Callable[[Read, str], Method]] = {
    "pgdat": lambda a, name: At(),
    "lbgat": lambda a, name: Lbgat(beta=a("beta", default=6.0 if "lbgat6" in name else 0.0)),
    "rslad": _rslad,
    "ard": _ard("batch"),
    "akd2": lambda a, name: Akd2(
        alpha1=a("alpha1", "a1", default=0.5),
        alpha2=a("alpha2", "a2", default=0.25),
        temperature=a("temp", default=1.0),
    ),
    "iad1": _iad("I"),
    "iad2": _iad("II"),
    "adaad": _adaad,
    "adaiad": _adaiad,
}


def _method(table: dict[str, Callable[[Read, str], Method]], name: str, arguments: Options) -> Method:
    family = max((f for f in table if name.startswith(f)), key=len, default=None)
    if family is None:
        raise LookupError(f"baseline {name!r} is unknown")
    return table[family](Read(arguments), name)


def mtard_baseline(path: Path) -> None:
    z = load(path)
    name = path.stem.removeprefix("mtard_base_")
    arguments = {k: v for key in ("args", "kwargs") if key in z for k, v in json.loads(str(z[key])).items()}
    method = _method(MTARD, name, arguments)
    noise = next((k for k in ("randn", "uniform", "npuniform") if k in z), "")
    if not noise:
        raise LookupError(f"no random start among {sorted(z)}")
    steps, a = 10, Read(arguments)
    attack = Attack(
        eps=a("epsilon", default=0.031 if name == "trades_official" else 8 / 255),
        step_size=a("step_size", default=0.007 if name == "trades_official" else 2 / 255),
        steps=a("perturb_steps", default=steps),
        start={"randn": "gaussian", "uniform": "unclipped", "npuniform": "uniform"}[noise],  # type: ignore[arg-type]
        bn="train" if name.startswith(("ard", "iad")) else "eval",
    )
    student = net(z, "student_before__")
    frozen = {"teacher": net(z, "teacher__")} if "teacher__fc.bias" in z else {}
    if "teacher_st__fc.bias" in z:
        frozen["clean_teacher"] = net(z, "teacher_st__")
    _step(method, z, student, frozen, attack, noise=z[noise], epoch=int(z["epoch"]) if "epoch" in z else 0)
    for p_name, p in student.named_parameters():
        close(p.grad, z[f"grad__{p_name}"], f"gradient of {p_name}")
    same_state(student, z, "student_after__")


def peeraid_baseline(path: Path) -> None:
    z = load(path)
    name = path.stem.removeprefix("peeraid_base_")
    meta = json.loads(str(z["meta"]))
    nested = meta.get("args", {})
    values = {**meta, **(nested if isinstance(nested, dict) else {})}
    if not isinstance(nested, dict) or "alpha" not in nested:
        values.pop("alpha", None)  # the one beside the arguments is the attack's step
    if "_a09" in name:
        values["alpha"] = 0.9
    if "_a05" in name:
        values["adaad_alpha"] = 0.5
    if "_t30" in name:
        values["temp"] = 30.0
    method = _method(PEERAID, name, values)
    noise = "randn/0" if "randn/0" in z else "uniform/0"
    attack = Attack(
        eps=meta["eps"],
        step_size=meta["alpha"],
        steps=meta.get("k", len(z["attack_grads"])),
        start="gaussian" if noise == "randn/0" else "unclipped",
        bn="train" if name.startswith(("ard", "iad", "akd2")) else "eval",
    )
    student = net(z, "init/student/")
    frozen = {"teacher": net(z, "init/teacher/")} if "init/teacher/fc.bias" in z else {}
    if "init/teacher_st/fc.bias" in z:
        frozen["clean_teacher"] = net(z, "init/teacher_st/")
    guide = frozen.get("teacher")
    _step(
        method,
        z,
        student,
        frozen,
        attack,
        noise=z[noise],
        epoch=int(meta.get("epoch", 0)),
        weight_decay=meta["wd"],
        lr=meta["lr"],
    )
    for p_name, p in student.named_parameters():
        close(p.grad, z[f"grad_student/{p_name}"], f"gradient of {p_name}")
    same_state(student, z, "after/student/")
    if guide is not None and "after/teacher/fc.bias" in z:
        same_state(guide, z, "after/teacher/")
        for p_name, p in guide.named_parameters() if "grad_teacher/fc.bias" in z else ():
            close(p.grad, z[f"grad_teacher/{p_name}"], f"gradient of the guide's {p_name}")


def _step(
    method: Method,
    z: Arrays,
    student: nn.Module,
    others: Mapping[str, nn.Module],
    attack: Attack,
    *,
    noise: np.ndarray,
    epoch: int,
    **optim: Any,
) -> None:
    """Carry out the step and compare attack, order of the passes and loss."""
    roles = method.roles()
    learner = next(iter(roles))
    models = {learner: student, **others}
    if "guide" in roles:
        models["guide"] = models.pop("teacher")
    beside = {name: models.pop(name).eval().requires_grad_(False) for role in roles.values() for name in role.beside}
    seen = Seen(student)
    agents = team(method, models, Recorded([(z["x"], z["y"])], epoch=epoch), attack, sgd(**optim), beside=beside)
    if "guide" in roles:
        models["guide"].train()
    with drawn([noise], uniform=attack.start != "gaussian"), gradients_seen() as gradients:
        method.step(agents, 0)  # type: ignore[arg-type]
    metrics = agents[learner].metrics
    assert metrics is not None
    examples = [key for key in ("adv", "x_adv", "pert_inputs") if key in z]
    assert examples or "student_inputs" in z, "neither the examples nor the student's inputs are recorded"
    for key in examples:
        close(agents[learner].crafted[0], z[key], "x'")
    if "attack_grads" in z:
        same_gradients(gradients, z["attack_grads"])
    close(metrics.values["total"], z["loss"], "loss")
    if "student_inputs" not in z or not LISTENING.get():
        return
    theirs = list(zip(z["student_modes"].tolist(), z["student_inputs"], strict=True))
    trained = [x for mode, x in theirs if mode]
    ours = [x for mode, x in zip(seen.modes, seen.inputs, strict=True) if mode]
    assert len(ours) == len(trained), f"{len(ours)} train-mode passes, recorded {len(trained)}"
    for k, (a, b) in enumerate(zip(ours, trained, strict=True)):
        close(a, b, f"input of train-mode pass {k}")
    attacked = [x for mode, x in theirs if not mode]
    for x in (x for mode, x in zip(seen.modes, seen.inputs, strict=True) if not mode):
        nearest = min(
            float((x - tensor(a)).abs().max()) for a in attacked
        )  # theirs repeat the clean pass in the attack
        assert nearest < 1e-9, f"an attack pass is {nearest} away from all of theirs"
