"""PeerAiD: two steps, attacks alone, weight averaging, a whole run."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.trainers import attacks, optim
from sparring.trainers.config import Attack, OptimConfig
from sparring.trainers.losses import cross_entropy, kl
from sparring.trainers.methods.peeraid import Peeraid
from tests.reference.common import (
    ALPHA,
    EPS,
    LISTENING,
    TOLERANCE,
    Arrays,
    Recorded,
    Seen,
    Watched,
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

ROLES = ("peer", "student")


def method_of(meta: dict[str, Any], **options: Any) -> Peeraid:
    return Peeraid(
        gamma1=meta["gamma1"],
        gamma2=meta["gamma2"],
        lambda1=meta["lamb1"],
        lambda2=meta["lamb2"],
        lambda3=meta["lamb3"],
        peer_temperature=meta["re_kd_temperature"],
        temperature=meta["temperature"],
        **options,
    )


def optims(meta: dict[str, Any], **per_role: dict[str, Any]) -> dict[str, OptimConfig]:
    common = {"momentum": meta["momentum"], "weight_decay": meta["weight_decay"]}
    return {role: sgd(lr=meta[f"lr_{role}"], **common, **per_role.get(role, {})) for role in ROLES}


def two_steps(path: Path) -> None:
    """Every iterate, logit, loss, gradient, momentum and buffer; and the gradients with detached targets."""
    z = load(path)
    meta = json.loads(str(z["meta"]))
    models: dict[str, nn.Module] = {role: net(z, f"init/{role}/") for role in ROLES}
    dtype = next(models["peer"].parameters()).dtype
    eps = TOLERANCE[dtype]
    steps = ("step1", "step2")
    batches = Recorded([(z[f"{s}/x"], z[f"{s}/y"]) for s in steps])
    attack = Attack(eps=meta["eps"], step_size=meta["alpha"], steps=meta["k"], start="gaussian")
    method = method_of(meta)
    agents = team(method, models, batches, attack, optims(meta))
    seen, logits = Seen(models["student"]), _logits(models)
    with drawn([z[f"{s}/noise"] for s in steps]):
        for t, s in enumerate(steps):
            seen.clear()
            for values in logits.values():
                values.clear()
            with gradients_seen() as gradients:
                method.step(agents, t)  # type: ignore[arg-type]
            same_gradients(gradients, z[f"{s}/attack_grad"], tolerance=max(eps, 1e-9))
            close(agents["student"].crafted[-1], z[f"{s}/attack_x"][10], "x*", tolerance=eps)
            if LISTENING.get():
                close(torch.stack(seen.inputs[:11]), z[f"{s}/attack_x"], "iterates", tolerance=eps)
                assert seen.modes == [0] * 10 + [1] * 3
            recorded = (
                ("peer", 0, "peer_logits_clean_eval"),
                ("peer", 1, "peer_logits_adv"),
                ("student", 10, "student_logits_adv_target"),
                ("student", 11, "student_logits_adv"),
                ("student", 12, "student_logits_clean"),
            )
            for role, k, key in recorded if LISTENING.get() else ():
                close(logits[role][k], z[f"{s}/{key}"], f"{s} {key}", tolerance=eps)
            for role in ROLES:
                _same_learner(agents[role], z, role, t, s, tolerance=eps)
    if dtype == torch.float64:
        for targets in ("full", "det_both"):
            _detached(z, meta, targets)


def _same_learner(handle: Watched, z: Arrays, role: str, t: int, s: str, *, tolerance: float) -> None:
    assert handle.metrics is not None
    assert handle.agent.learner is not None
    v, model = handle.metrics.values, handle.agent.model
    close(v["peer_ce"] + v["peer_kl"], z[f"{s}/loss_peer"], "loss_peer", tolerance=tolerance)
    student = v["student_ce"] + v["student_kl"] + v["student_self"]
    close(student, z[f"{s}/loss_student"], "loss_student", tolerance=tolerance)
    close(v["total"], z[f"{s}/loss_total"], "loss_total", tolerance=tolerance)
    momenta = optim.state(model, handle.agent.learner.optimiser)
    for name, p in model.named_parameters():
        close(p.grad, z[f"{s}/grad_{role}/{name}"], f"{s} {role} gradient of {name}", tolerance=tolerance)
        key = next(k for k in (f"{s}/mom_{role}/{name}", f"after{t + 1}/mom_{role}/{name}") if k in z)
        close(momenta[f"{name}/momentum_buffer"], z[key], f"{s} {role} momentum of {name}", tolerance=tolerance)
    same_state(model, z, f"after{t + 1}/{role}/", tolerance=tolerance)


def _detached(z: Arrays, meta: dict[str, Any], targets: str) -> None:
    if f"step1/derived/{targets}/grad_student/fc.bias" not in z:
        return
    models: dict[str, nn.Module] = {role: net(z, f"init/{role}/") for role in ROLES}
    method = method_of(meta, detach_targets=targets == "det_both")
    attack = Attack(eps=meta["eps"], step_size=meta["alpha"], steps=meta["k"], start="gaussian")
    agents = team(method, models, Recorded([(z["step1/x"], z["step1/y"])]), attack, optims(meta))
    with drawn([z["step1/noise"]]):
        method.step(agents, 0)  # type: ignore[arg-type]
    for name, p in models["student"].named_parameters():
        close(p.grad, z[f"step1/derived/{targets}/grad_student/{name}"], f"{targets}: {name}")


def _logits(models: dict[str, nn.Module]) -> dict[str, list[Tensor]]:
    seen: dict[str, list[Tensor]] = {role: [] for role in models}
    for role, model in models.items() if LISTENING.get() else ():
        model.register_forward_hook(lambda m, args, out, role=role: seen[role].append(out.detach()))  # type: ignore[misc]
    return seen


def attacks_alone(path: Path) -> None:
    z = load(path)
    peer, student = net(z, "peer/").eval(), net(z, "student/").eval()
    x, y, rng = tensor(z["x"]), tensor(z["y"]), torch.Generator()
    with torch.no_grad():
        guide = peer(x)
    close(guide, z["peer_logits"], "peer_logits")
    for key in sorted({k.rpartition("/")[0] for k in z if k.endswith("/adv")}):
        kind, _, steps = key.rpartition("_k")
        if kind == "peer_attack":
            attack = Attack(eps=EPS, step_size=ALPHA, steps=int(steps), start="gaussian")
            with drawn([z[f"{key}/noise"]]):
                adv = attacks.run(attack, lambda v: kl(guide, student(v)), x, rng=rng)
        elif kind == "pgd":
            attack = Attack(eps=EPS, step_size=ALPHA, steps=int(steps), start="unclipped")
            with drawn([z[f"{key}/uniform"]] if f"{key}/uniform" in z else [], uniform=True):
                adv = attacks.run(attack, lambda v: cross_entropy(student(v), y), x, rng=rng)
        elif key == "fgsm":
            adv = attacks.fgsm(lambda v: cross_entropy(student(v), y), x, eps=EPS)
        else:
            raise LookupError(f"attack {key!r} is unknown")
        close(adv, z[f"{key}/adv"], key)
        with torch.no_grad():
            close(student(adv), z[f"{key}/student_logits"], f"{key} logits")


def weight_averaging(path: Path) -> None:
    """Four epochs: schedules, sums of losses, states of peer, student and the student's average after every epoch."""
    z = load(path)
    meta = json.loads(str(z["meta"]))
    count = sum(k.startswith("data/x") for k in z)
    models: dict[str, nn.Module] = {role: net(z, f"init/{role}/") for role in ROLES}
    batches = Recorded([(z[f"data/x{i}"], z[f"data/y{i}"]) for i in range(count)], per_epoch=count)
    steps = {role: {"schedule": "multistep", "milestones": tuple(meta[f"decay_{role}"])} for role in ROLES}
    steps["student"] |= {"swa": True, "swa_start": meta["swa_start"]}
    attack = Attack(eps=meta["eps"], step_size=meta["alpha"], steps=meta["k"], start="gaussian")
    method = method_of(meta)
    agents = team(method, models, batches, attack, optims(meta, **steps))
    learner = agents["student"].agent.learner
    assert learner is not None
    learner.averages["swa"].network.load_state_dict(net(z, "init/swa/").state_dict())
    swa = learner.averages["swa"]
    for epoch in range(meta["epochs"]):
        e, sums, right = f"epoch{epoch}", {"peer": 0.0, "student": 0.0}, {"peer": 0, "student": 0}
        with drawn([z[f"{e}/noise{i}"] for i in range(count)]):
            for i in range(count):
                method.step(agents, epoch * count + i)  # type: ignore[arg-type]
                v = agents["peer"].metrics.values  # type: ignore[union-attr]
                sums["peer"] += v["peer_ce"] + v["peer_kl"]
                sums["student"] += v["student_ce"] + v["student_kl"] + v["student_self"]
                size = len(z[f"data/y{i}"])
                for role in ROLES:
                    right[role] += round(agents[role].metrics.values["robust_accuracy"] * size)  # type: ignore[union-attr]
        for role in ROLES:
            close(agents[role].metrics.values["lr"], z[f"{e}/lr_{role}"], f"{e} lr of {role}")  # type: ignore[union-attr]
            close(sums[role], z[f"{e}/{role}_train_loss"], f"{e} loss of {role}")
            same_state(models[role], z, f"{e}/{role}/")
        same_state(swa.network, z, f"{e}/swa/")
        assert int(swa.n) == int(z[f"{e}/swa_n"])
        assert swa.network.training == bool(z[f"{e}/swa_training_flag"])
        assert right == {"peer": int(z[f"{e}/correct"]), "student": int(z[f"{e}/correct_student"])}


# The program's own defaults; its command line and configuration file override them.
DEFAULTS = {
    "temperature": 6.0,
    "re_kd_temperature": 1.0,
    "momentum": 0.9,
    "weight_decay": 2e-4,
    "lr_peer": 0.1,
    "lr_student": 0.1,
}
DEFAULTS |= dict.fromkeys(("gamma1", "gamma2", "lamb1", "lamb2", "lamb3"), 1.0)


def whole_run(path: Path) -> None:
    """The authors' whole program: training, averaging, PGD-10 on test images after every epoch, and which states are best."""
    z = load(path)
    meta = json.loads(str(z["meta"]))
    arguments: dict[str, Any] = DEFAULTS | _flat(meta) | _command_line(meta.get("argv", []))
    count, tests = (sum(k.startswith(f"{part}/x") for k in z) for part in ("train", "test"))
    epochs = sum(k.startswith("noise/") for k in z) // count
    models: dict[str, nn.Module] = {role: net(z, f"init/{role}/") for role in ROLES}
    batches = Recorded([(z[f"train/x{i}"], z[f"train/y{i}"]) for i in range(count)], per_epoch=count)
    steps: dict[str, dict[str, Any]] = {
        role: {"schedule": "multistep", "milestones": _milestones(arguments, role)} for role in ROLES
    }
    start = steps["student"]["milestones"][0]
    steps["student"] |= {"swa": True, "swa_start": start}
    attack = Attack(eps=EPS, step_size=ALPHA, steps=10, start="gaussian")
    method = method_of(arguments)
    agents = team(method, models, batches, attack, optims(arguments, **steps))
    learner = agents["student"].agent.learner
    assert learner is not None
    swa = learner.averages["swa"]
    swa.network.load_state_dict(net(z, "init/swa/").state_dict())
    noise = [z[k] for k in sorted(k for k in z if k.startswith("noise/"))]
    uniform = iter([z[k] for k in sorted(k for k in z if k.startswith("uniform/"))])
    best: dict[str, tuple[float, list[int]]] = {"student": (-1.0, []), "swa": (-1.0, [])}
    states: dict[tuple[str, int], dict[str, Tensor]] = {}
    for epoch in range(epochs):
        with drawn(noise[epoch * count : (epoch + 1) * count]):
            for i in range(count):
                method.step(agents, epoch * count + i)  # type: ignore[arg-type]
        networks = {"student": models["student"], **({"swa": swa.network} if epoch >= start else {})}
        for name, model in networks.items():
            accuracy = _pgd_accuracy(model, z, tests, [next(uniform) for _ in range(tests)])
            if accuracy > best[name][0]:  # strictly: ties keep the older
                best[name] = (accuracy, [*best[name][1], epoch])
        for name, model in {**models, "swa": swa.network}.items():
            states[name, epoch] = deepcopy(model.state_dict())
    assert best["student"][1] == [0, 1, 2, 3, 6], f"best epochs of the student: {best['student'][1]}"
    assert best["swa"][1] == [3], f"best epochs of the average: {best['swa'][1]}"
    for name, model in {**models, "swa": swa.network}.items():
        same_state(model, z, f"final/{name}/")
    numbers = sorted({k.split("/")[1] for k in z if k.startswith("save/")})
    assert numbers, "no saved file is recorded"
    for number in numbers:
        _same_save(z, number, states, start)


def _same_save(z: Arrays, number: str, states: dict[tuple[str, int], dict[str, Tensor]], start: int) -> None:
    """A file that the program wrote holds the state, after its epoch, of the network that its name says."""
    file = Path(str(z[f"save/{number}/file"])).name
    name = "swa" if "swa" in file else "student" if "student" in file else "peer"
    epoch, prefix = int(z[f"save/{number}/epoch"]), f"save/{number}/state_dict/"
    recorded = {k.removeprefix(prefix).removeprefix("module."): v for k, v in z.items() if k.startswith(prefix)}
    assert recorded, f"save {number} holds no state"
    for key, value in states[name, epoch].items():
        close(value, recorded[key], f"save {number} ({file}): {key} of {name} after epoch {epoch}")
    if f"save/{number}/swa_n_student" in z:
        assert int(z[f"save/{number}/swa_n_student"]) == max(0, epoch - start + 1), f"save {number}: swa_n_student"


def _command_line(argv: Any) -> dict[str, Any]:
    """``--name value`` pairs with numbers as numbers."""
    words = argv.split() if isinstance(argv, str) else list(argv)
    found: dict[str, Any] = {}
    for name, value in pairwise(words):
        if str(name).startswith("--"):
            try:
                found[str(name).lstrip("-")] = float(value)
            except ValueError:
                continue
    return found


def _pgd_accuracy(model: nn.Module, z: Arrays, tests: int, starts: list[np.ndarray]) -> float:
    attack = Attack(eps=EPS, step_size=ALPHA, steps=10, start="unclipped")
    right, n = 0, 0
    with attacks.frozen(model), drawn(starts, uniform=True):
        for i in range(tests):
            x, y = tensor(z[f"test/x{i}"]), tensor(z[f"test/y{i}"])
            adv = attacks.run(attack, lambda v, y=y: cross_entropy(model(v), y), x, rng=torch.Generator())  # type: ignore[misc]
            right, n = right + int((model(adv).argmax(1) == y).sum()), n + len(y)
    return 100 * right / n


def _flat(values: Any) -> dict[str, Any]:
    """Numbers and lists of a nested record, and of JSON texts in it, under their own names."""
    if isinstance(values, str) and values.lstrip().startswith("{"):
        values = json.loads(values)
    if not isinstance(values, dict):
        return {}
    flat: dict[str, Any] = {}
    for k, v in values.items():
        inner = _flat(v)
        flat |= inner or {k: v}
    return flat


def _milestones(arguments: dict[str, Any], role: str) -> tuple[int, ...]:
    names = (f"lr_decay_epochs_{role}", f"decay_{role}", f"lr_decay_{role}", "lr_decay_epochs")
    found = next((arguments[n] for n in names if n in arguments), None)
    assert found is not None, f"no milestones of the {role} in meta: {sorted(arguments)}"
    values = found.split(",") if isinstance(found, str) else found
    return tuple(int(v) for v in values)


def training_curve(path: Path) -> None:
    """A third party's curves of 300 epochs. Nothing in it can be computed again; what is known of it holds."""
    z = load(path)
    curves = [v for v in z.values() if v.ndim == 1 and len(v) == 300 and v.dtype.kind == "f"]
    for what, first in (("peer", 818.2), ("student", 27.68)):
        assert any(abs(c[0] - first) < 0.1 for c in curves), f"no curve of the {what}'s loss sums begins at {first}"
    jumps = [(float(c[213]), float(c[214])) for c in curves]
    assert any(abs(a - 47.5) < 0.1 and abs(b - 52.8) < 0.1 for a, b in jumps), "no PGD-10 curve jumps at epoch 214"
    best = set(np.asarray(z["best_epochs"]).ravel().tolist())
    assert {222, 234} <= best, f"best epochs {best}"
