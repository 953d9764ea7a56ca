"""MTARD and B-MTARD: losses, weights and temperatures on given logits, attacks, whole steps, schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.trainers import attacks, optim
from sparring.trainers.config import Attack, OptimConfig
from sparring.trainers.losses import cross_entropy, margin
from sparring.trainers.methods.mtard import Mtard, Passes
from sparring.trainers.types import Adversarial, Answer, Batch, When
from tests.reference.common import (
    ALPHA,
    EPS,
    LISTENING,
    Arrays,
    Recorded,
    Seen,
    close,
    drawn,
    first_of,
    gradients_seen,
    load,
    net,
    same_gradients,
    same_state,
    sgd,
    team,
    tensor,
)

LOGITS = ("student_adv", "student_nat", "teacher_adv", "teacher_nat")


def eccv_on_logits(path: Path) -> None:
    z = load(path)
    method = Mtard(
        variant="eccv", weight_rate=float(z["out__weight_learn_rate"]), scale=10.0 if "c100" in path.name else 1.0
    )
    _on_logits(method, {}, z, "")


def balanced_on_logits(path: Path) -> None:
    z = load(path)
    for name, scenario in json.loads(str(z["__scenarios"])).items():
        o = scenario["overrides"]
        method = Mtard(
            weight_rate=float(z[f"{name}__out__weight_learn_rate"]),
            temperature_rate=float(z[f"{name}__out__temp_learn_rate"]),
            scale=1.0,
        )
        start = {"tau_adv": float(o.get("temp_adv", 1)), "tau_nat": float(o.get("temp_nat", 1))}
        _on_logits(method, start, z, f"{name}__")


ALWAYS = {"kl_adv", "kl_nat", "w_adv", "w_nat", "total", "grad_student_adv", "grad_student_nat"}
BALANCED = {"temp_adv_used", "temp_nat_used", "temp_adv_next", "temp_nat_next", "negent_adv", "negent_nat"}


def _on_logits(method: Mtard, start: dict[str, float], z: Arrays, prefix: str) -> None:
    wanted = ALWAYS | (BALANCED if method.variant == "balanced" else set())
    for kind, dtype in (("out", torch.float64), ("out32", torch.float32)):
        state: dict[str, Any] = method.start_state("student") | start
        # in float32 the recorded code keeps weights in float64 fed by float32 losses; its totals are rounded
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        for t in range(len(z[f"{prefix}out__total"])):
            given = {k: tensor(z[f"{prefix}in__{k}"][t]).to(dtype) for k in LOGITS}
            own = Passes(given["student_adv"].requires_grad_(), given["student_nat"].requires_grad_())
            loss = method.loss(
                "student",
                own,
                Batch(torch.zeros(1), torch.zeros(len(own.adv), dtype=torch.int64)),
                state=state,
                when=When(t, 0, 1.0),
                adv=Adversarial(torch.zeros(1)),
                clean=Answer(given["teacher_nat"]),
                robust=Answer(given["teacher_adv"]),
            )
            values = {k: v.item() for k, v in (loss.terms | loss.stats).items()}
            used = dict(state)
            weights, state = method.balance("student", values, state, When(t, 0, 1.0))
            total = weights["adv"] * loss.terms["adv"] + weights["nat"] * loss.terms["nat"]
            total.backward()
            ours = {
                "kl_adv": values["adv"],
                "kl_nat": values["nat"],
                "w_adv": weights["adv"],
                "w_nat": weights["nat"],
                "total": total,
                "grad_student_adv": own.adv.grad,
                "grad_student_nat": own.nat.grad,
                "temp_adv_used": used["tau_adv"],
                "temp_nat_used": used["tau_nat"],
                "temp_adv_next": state["tau_adv"],
                "temp_nat_next": state["tau_nat"],
                "negent_adv": values["E_adv"],
                "negent_nat": values["E_nat"],
            }
            for name, value in ours.items():
                if name in wanted:
                    close(
                        value,
                        z[f"{prefix}{kind}__{name}"][t],
                        f"{prefix}{kind} {name} of step {t}",
                        tolerance=tolerance,
                    )
        for i, name in enumerate(("adv", "nat")):
            close(state["first"][i], z[f"{prefix}{kind}__init_loss_{name}"], f"first loss {name}", tolerance=tolerance)


def attacks_on_a_tiny_net(path: Path) -> None:
    z = load(path)
    x, y = tensor(z["x"]), tensor(z["y"])
    for tag, eps, step in (("train", EPS, ALPHA), ("defaults", 0.031, 0.003)):
        attack = Attack(eps=eps, step_size=step, steps=10, start="gaussian")
        student, teacher = net(z, f"{tag}__student_before__"), net(z, "teacher_adv__")
        models = {"student": student, "robust_teacher": teacher, "clean_teacher": net(z, "teacher_adv__")}
        agents = team(Mtard(), models, Recorded([(z["x"], z["y"])]), attack, sgd())
        seen, asked = Seen(student), Seen(teacher)
        with drawn([z[f"{tag}__randn"]]), gradients_seen() as gradients:
            adv = agents["student"].craft(0)
        answer = agents["robust_teacher"].answer(0, adv)
        close(adv.x, z[f"{tag}__x_adv"], f"{tag} x_adv")
        same_state(student, z, f"{tag}__student_before__")  # the attack moved nothing
        assert student.training
        close(student(adv.x), z[f"{tag}__student_logits"], f"{tag} student")
        close(answer.logits, z[f"{tag}__teacher_logits"], f"{tag} teacher")
        if LISTENING.get():
            close(torch.stack(seen.inputs), z[f"{tag}__x_steps"], f"{tag} iterates")
            assert seen.modes == z[f"{tag}__student_modes"].tolist()
            assert asked.modes == z[f"{tag}__teacher_modes"].tolist()
        same_gradients(gradients, z[f"{tag}__grads"])
        same_state(student, z, f"{tag}__student_after__")
    model = net(z, "train__student_before__").eval()
    for tag, step in (("pgd_trades", 0.003), ("pgd_sat", ALPHA)):
        seen = Seen(model)
        attack = Attack(eps=EPS, step_size=step, steps=20)
        with drawn([z[f"{tag}__uniform"]], uniform=True):
            adv = attacks.run(attack, lambda v: cross_entropy(model(v), y), x, rng=torch.Generator())
        close(adv, z[f"{tag}__x_adv"], f"{tag} x_adv")
        if LISTENING.get():
            close(torch.stack(seen.inputs), z[f"{tag}__x_steps"], f"{tag} iterates")
            assert seen.modes == z[f"{tag}__student_modes"].tolist()


def whole_steps(path: Path) -> None:
    """Attack iterates, losses, weights, temperatures, gradients, parameters, momenta and buffers of every step."""
    z = load(path)
    balanced = "bmtard" in path.name
    method = Mtard(
        variant="balanced" if balanced else "eccv",
        scale=10.0 if "c100" in path.name else 1.0,
        temperature_rate=0.5 if "fast" in path.name else 0.001,
    )
    models = {
        "student": net(z, "student_init__"),
        "clean_teacher": net(z, "teacher_nat__"),
        "robust_teacher": net(z, "teacher_adv__"),
    }
    settings = json.loads(str(z["optim"])) if "optim" in z else {}
    config = sgd(
        lr=settings.get("lr", 0.1),
        momentum=settings.get("momentum", 0.9),
        weight_decay=settings.get("weight_decay", settings.get("wd", 2e-4)),
    )
    attack = Attack(eps=EPS, step_size=ALPHA, steps=10, start="gaussian")
    agents = team(method, models, Recorded(list(zip(z["x"], z["y"], strict=True))), attack, config)
    student, seen = agents["student"], Seen(models["student"])
    said: dict[str, Tensor] = {}
    for role in ("clean_teacher", "robust_teacher") if LISTENING.get() else ():
        models[role].register_forward_hook(lambda m, args, out, role=role: said.__setitem__(role, out))  # type: ignore[misc]
    logits: list[Tensor] = []
    if LISTENING.get():
        models["student"].register_forward_hook(lambda m, args, out: logits.append(out.detach()))
    with drawn(list(z["randn"])):
        for t in range(len(z["x"])):
            used = dict(student.agent.method_state)
            seen.clear()
            logits.clear()
            method.step(agents, t)  # type: ignore[arg-type]
            assert student.metrics is not None
            values, state = student.metrics.values, student.agent.method_state
            ours: dict[str, Any] = {"x_adv": student.crafted[-1]}
            if LISTENING.get():
                assert seen.modes == z["student_modes"][t].tolist()
                ours |= {"logits_student_adv": logits[10], "logits_student_nat": logits[11]}
                ours |= {"logits_teacher_adv": said["robust_teacher"], "logits_teacher_nat": said["clean_teacher"]}
            ours |= {
                "kl_adv": values["adv"],
                "kl_nat": values["nat"],
                "total": values["total"],
                "w_adv": state["w_adv"],
                "w_nat": state["w_nat"],
                "temp_adv_used": used["tau_adv"],
                "temp_nat_used": used["tau_nat"],
                "temp_adv_next": state["tau_adv"],
                "temp_nat_next": state["tau_nat"],
                "negent_adv": values["E_adv"],
                "negent_nat": values["E_nat"],
            }
            for name, value in ours.items():
                if balanced or name not in BALANCED:
                    close(value, z[name][t], f"{name} of step {t}")
            for name, p in models["student"].named_parameters():
                close(p.grad, z[f"step{t}__grad__{name}"], f"gradient of {name} in step {t}")
            same_state(models["student"], z, f"step{t}__student__")
    assert student.agent.learner is not None
    momenta = optim.state(models["student"], student.agent.learner.optimiser)
    for name, _ in models["student"].named_parameters():
        close(momenta[f"{name}/momentum_buffer"], z[f"final_momentum__{name}"], f"momentum of {name}")
    for role, prefix in (("clean_teacher", "teacher_nat__"), ("robust_teacher", "teacher_adv__")):
        same_state(models[role], z, prefix)  # untouched


def schedules(path: Path) -> None:
    """Learning rates of every epoch, and the rates of weights and temperatures that follow them."""
    for name, recorded in json.loads(path.read_text()).items():
        config = OptimConfig(lr=0.1, schedule="multistep", milestones=(215, 260, 285))
        starts = {p["from_epoch"]: p for p in recorded["piecewise"]}
        now: dict[str, Any] = {}
        for epoch in range(1, recorded["epochs"] + 1):  # theirs are counted from 1
            now = starts.get(epoch, now)
            scale = optim.when(config, epoch - 1, steps_per_epoch=1, total_steps=recorded["epochs"]).lr_scale
            close(config.lr * scale, now["lr"], f"{name}: learning rate of epoch {epoch}")
            for key, rate in (
                ("weight_learn_rate", Mtard().weight_rate),
                ("temp_learn_rate", Mtard().temperature_rate),
            ):
                if now.get(key) is not None:
                    close(rate * scale, now[key], f"{name}: {key} of epoch {epoch}")


def evaluation_attacks(path: Path) -> None:
    z = load(path)
    model = net(z, "net__").eval()
    x, y = tensor(z["x"]), tensor(z["y"])
    rng = torch.Generator()
    close(attacks.fgsm(lambda v: cross_entropy(model(v), y), x, eps=EPS), z["fgsm"], "fgsm")
    attack = Attack(eps=EPS, step_size=ALPHA, steps=30, start="none")
    close(attacks.run(attack, lambda v: margin(model(v), y), x, rng=rng), z["cw_inf"], "cw_inf")
    for tag, step in (("pgd_trades", 0.003), ("pgd_sat", ALPHA)):
        noise = first_of(z, f"{tag}_uniform", f"{tag}__uniform")
        recorded = first_of(z, tag, f"{tag}_x_adv", f"{tag}__x_adv", f"{tag}_adv")
        found = []
        for start in ("unclipped", "uniform"):  # its description does not say whether the start is clipped
            attack = Attack(eps=EPS, step_size=step, steps=20, start=start)  # type: ignore[arg-type]
            with drawn([noise], uniform=True):
                found.append(attacks.run(attack, lambda v: cross_entropy(model(v), y), x, rng=rng))
        nearest = min(found, key=lambda adv: float((adv - tensor(recorded)).abs().max()))
        close(nearest, recorded, tag)
