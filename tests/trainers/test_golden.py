"""Whole steps against arrays recorded from the authors' published code, in float64: attack iterates, losses, weights,
temperatures, gradients, parameters, momenta and batch-norm buffers after every optimiser step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.agent import Agent
from tests.helpers import CLONE, Handle
from trainers import attacks, optim
from trainers.config import Attack, OptimConfig
from trainers.data import Split
from trainers.methods.at import At
from trainers.methods.base import Method
from trainers.methods.mtard import Mtard
from trainers.methods.peeraid import Peeraid
from trainers.methods.rslad import Rslad
from trainers.methods.trades import Trades
from trainers.types import Batch, When

GOLDEN = CLONE / "tests" / "golden"
TOLERANCE = 1e-9
Arrays = Mapping[str, np.ndarray]


class Net(nn.Module):
    """The recorded networks: two convolutions of c1 and c2 channels with batch norm, global mean, linear layer."""

    def __init__(self, c1: int, c2: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, c1, 3, padding=1, bias=False), nn.BatchNorm2d(c1)
        self.conv2, self.bn2 = nn.Conv2d(c1, c2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c2)
        self.fc = nn.Linear(c2, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(h))).mean((2, 3)))


def tensor(a: Any) -> Tensor:
    return torch.from_numpy(np.array(a))


def net(z: Arrays, prefix: str) -> Net:
    """A network with the recorded weights behind ``prefix``."""
    state = {k.removeprefix(prefix): tensor(v) for k, v in z.items() if k.startswith(prefix)}
    made = Net(len(state["conv1.weight"]), len(state["conv2.weight"]), len(state["fc.bias"])).double()
    made.load_state_dict(state)
    return made


class Recorded:
    """Batches that are given, one per step."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = tensor(x), tensor(y)
        self.device, self.dtype, self.steps_per_epoch, self.sha256 = torch.device("cpu"), torch.float64, 1, ""

    def batch(self, t: int) -> Batch:
        return Batch(self.x[t], self.y[t])


def team(
    method: Method, models: Mapping[str, nn.Module], batches: Recorded, attack: Attack, config: OptimConfig
) -> dict[str, Handle]:
    made = {}
    for i, role in enumerate(method.roles()):
        held = Split(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
        agent = Agent(
            me=role,
            index=i,
            method=method,
            model=models[role],
            batches=batches,  # type: ignore[arg-type]
            held_out=held,
            config=config,
            attacks={"train": attack},
            seed=0,
            total_steps=10**9,
            classes=10,
        )
        made[role] = Handle(agent)
    return made


@contextmanager
def starts(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch, *, uniform: bool = False) -> Iterator[None]:
    """Attacks start at the recorded draws, one per step: 0.001 N(0, 1) unclipped, or uniform and clipped to the box."""
    draws = iter(tensor(noise))

    def initial(attack: Attack, x: Tensor, *, rng: torch.Generator) -> Tensor:
        return (x + next(draws)).clamp(0, 1) if uniform else x + 0.001 * next(draws)

    monkeypatch.setattr(attacks, "initial", initial)
    yield


class Seen:
    """Every input of a network and the mode it was in."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        self.modes: list[int] = []
        model.register_forward_pre_hook(self._note)

    def _note(self, model: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.inputs.append(args[0].detach().clone())
        self.modes.append(int(model.training))

    def clear(self) -> None:
        self.inputs.clear()
        self.modes.clear()


def close(a: Any, b: Any, what: str) -> None:
    a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v, dtype=np.float64) for v in (a, b))
    np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=what)


def same_state(model: nn.Module, z: Arrays, prefix: str) -> None:
    for name, value in model.state_dict().items():
        close(value, z[f"{prefix}{name}"], f"{prefix}{name}")


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as z:
        return {k: z[k] for k in z.files}


EPS, ALPHA = 8 / 255, 2 / 255
SGD = OptimConfig(lr=0.1, momentum=0.9, weight_decay=2e-4, schedule="constant")


@pytest.mark.parametrize("name", ["mtard_train_tiny_mtard", "mtard_train_tiny_bmtard"])
def test_mtard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six whole steps: the ECCV and the balanced variant."""
    z = load(name)
    balanced = "bmtard" in name
    method = Mtard(variant="balanced" if balanced else "eccv", scale=1.0)
    models = {
        "student": net(z, "student_init__"),
        "clean_teacher": net(z, "teacher_nat__"),
        "robust_teacher": net(z, "teacher_adv__"),
    }
    attack = Attack(eps=EPS, step_size=ALPHA, steps=10, start="gaussian")
    agents = team(method, models, Recorded(z["x"], z["y"]), attack, SGD)
    student, seen = agents["student"], Seen(models["student"])
    with starts(z["randn"], monkeypatch):
        for t in range(len(z["x"])):
            used = dict(student.agent.method_state)
            seen.clear()
            method.step(agents, t)  # type: ignore[arg-type]
            assert seen.modes == z["student_modes"][t].tolist()
            close(seen.inputs[10], z["x_adv"][t], "x_adv")
            assert student.metrics is not None
            values, state = student.metrics.values, student.agent.method_state
            for ours, theirs in (("adv", "kl_adv"), ("nat", "kl_nat"), ("total", "total")):
                close(values[ours], z[theirs][t], f"{theirs} of step {t}")
            close(state["w_adv"], z["w_adv"][t], "w_adv")
            close(state["w_nat"], z["w_nat"][t], "w_nat")
            if balanced:
                close(used["tau_adv"], z["temp_adv_used"][t], "temperature used")
                close(used["tau_nat"], z["temp_nat_used"][t], "temperature used")
                close(state["tau_adv"], z["temp_adv_next"][t], "next temperature")
                close(state["tau_nat"], z["temp_nat_next"][t], "next temperature")
                close(values["E_adv"], z["negent_adv"][t], "entropy")
                close(values["E_nat"], z["negent_nat"][t], "entropy")
            for p_name, p in models["student"].named_parameters():
                close(p.grad, z[f"step{t}__grad__{p_name}"], f"gradient of {p_name}")
            same_state(models["student"], z, f"step{t}__student__")
    momenta = optim.state(models["student"], student.agent.optimizer)
    for p_name, _ in models["student"].named_parameters():
        close(momenta[f"{p_name}/momentum_buffer"], z[f"final_momentum__{p_name}"], p_name)
    for role, prefix in (("clean_teacher", "teacher_nat__"), ("robust_teacher", "teacher_adv__")):
        same_state(models[role], z, prefix)  # untouched


def test_bmtard_balance_in_every_recorded_scenario() -> None:
    """Losses, weights and temperatures on given logits: bounds, crossings, equal and overconfident teachers, 100 classes."""
    z = load("mtard_bmtard_logits")
    scenarios = json.loads(str(z["__scenarios"]))
    assert len(scenarios) >= 7
    for name, scenario in scenarios.items():
        s = {k.split("__", 1)[1]: v for k, v in z.items() if k.startswith(f"{name}__")}
        changed = scenario["overrides"]
        method = Mtard(
            scale=1.0,  # the recorded lines have no factor, on 100 classes neither
            weight_rate=changed.get("weight_learn_rate", 0.025),
            temperature_rate=changed.get("temp_learn_rate", 0.001),
        )
        state = method.start_state("student") | {
            "tau_adv": changed.get("temp_adv", 1.0),
            "tau_nat": changed.get("temp_nat", 1.0),
        }
        when = When(0, 0, 1.0)
        for t in range(len(s["in__student_adv"])):
            close(state["tau_adv"], s["out__temp_adv_used"][t], f"{name} tau_adv {t}")
            close(state["tau_nat"], s["out__temp_nat_used"][t], f"{name} tau_nat {t}")
            logits = {k: tensor(s[f"in__{k}"][t]) for k in ("student_adv", "student_nat", "teacher_adv", "teacher_nat")}
            values = loss_of(method, logits, state, when)
            for ours, theirs in (
                ("adv", "kl_adv"),
                ("nat", "kl_nat"),
                ("E_adv", "negent_adv"),
                ("E_nat", "negent_nat"),
            ):
                close(values[ours], s[f"out__{theirs}"][t], f"{name} {theirs} {t}")
            weights, state = method.balance("student", values, state, when)
            close(weights["adv"], s["out__w_adv"][t], f"{name} w_adv {t}")
            close(weights["nat"], s["out__w_nat"][t], f"{name} w_nat {t}")
            close(state["tau_adv"], s["out__temp_adv_next"][t], f"{name} next tau_adv {t}")
            close(state["tau_nat"], s["out__temp_nat_next"][t], f"{name} next tau_nat {t}")


def loss_of(method: Mtard, logits: Mapping[str, Tensor], state: Any, when: When) -> dict[str, float]:
    from trainers.methods.mtard import Passes
    from trainers.types import Adversarial, Answer

    batch = Batch(torch.zeros(1), torch.zeros(len(logits["student_adv"]), dtype=torch.int64))
    loss = method.loss(
        "student",
        Passes(logits["student_adv"], logits["student_nat"]),
        batch,
        state=state,
        when=when,
        adv=Adversarial(torch.zeros(1)),
        clean=Answer(logits["teacher_nat"]),
        robust=Answer(logits["teacher_adv"]),
    )
    return {k: v.item() for k, v in (loss.terms | loss.stats).items()}


def test_peeraid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of peer and student as separate agents: every iterate, loss, gradient, momentum and buffer."""
    z = load("peeraid_step_c10_f64")
    meta = json.loads(str(z["meta"]))
    method = Peeraid(
        gamma1=meta["gamma1"],
        gamma2=meta["gamma2"],
        lambda1=meta["lamb1"],
        lambda2=meta["lamb2"],
        lambda3=meta["lamb3"],
        peer_temperature=meta["re_kd_temperature"],
        temperature=meta["temperature"],
    )
    models = {"peer": net(z, "init/peer/"), "student": net(z, "init/student/")}
    steps = ("step1", "step2")
    batches = Recorded(np.stack([z[f"{s}/x"] for s in steps]), np.stack([z[f"{s}/y"] for s in steps]))
    attack = Attack(eps=meta["eps"], step_size=meta["alpha"], steps=meta["k"], start="gaussian")
    agents = team(method, models, batches, attack, SGD)
    seen = Seen(models["student"])
    with starts(np.stack([z[f"{s}/noise"] for s in steps]), monkeypatch):
        for t, s in enumerate(steps):
            seen.clear()
            method.step(agents, t)  # type: ignore[arg-type]
            close(torch.stack([*seen.inputs[:10], seen.inputs[10]]), z[f"{s}/attack_x"], "iterates")
            assert seen.modes == [0] * 10 + [1] * 3
            for role in ("peer", "student"):
                metrics = agents[role].metrics
                assert metrics is not None
                v = metrics.values
                close(v["peer_ce"] + v["peer_kl"], z[f"{s}/loss_peer"], "loss_peer")
                close(v["student_ce"] + v["student_kl"] + v["student_self"], z[f"{s}/loss_student"], "loss_student")
                momenta = optim.state(models[role], agents[role].agent.optimizer)
                for name, p in models[role].named_parameters():
                    close(p.grad, z[f"{s}/grad_{role}/{name}"], f"{role} gradient of {name}")
                    recorded = (
                        z[f"{s}/mom_{role}/{name}"]
                        if f"{s}/mom_{role}/{name}" in z
                        else z[f"after{t + 1}/mom_{role}/{name}"]
                    )
                    close(momenta[f"{name}/momentum_buffer"], recorded, f"{role} momentum of {name}")
                same_state(models[role], z, f"after{t + 1}/{role}/")
            totals = [agents[r].metrics.values["total"] for r in ("peer", "student")]  # type: ignore[union-attr]
            assert totals[0] == totals[1]  # both report the whole joint loss


def test_peeraid_detached_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    z = load("peeraid_step_c10_f64")
    models = {"peer": net(z, "init/peer/"), "student": net(z, "init/student/")}
    batches = Recorded(z["step1/x"][None], z["step1/y"][None])
    method = Peeraid(detach_targets=True)
    agents = team(method, models, batches, Attack(eps=EPS, step_size=ALPHA, start="gaussian"), SGD)
    with starts(z["step1/noise"][None], monkeypatch):
        method.step(agents, 0)  # type: ignore[arg-type]
    for name, p in models["student"].named_parameters():
        close(p.grad, z[f"step1/derived/det_both/grad_student/{name}"], name)


BASELINES: dict[str, tuple[Method, str, str]] = {
    "mtard_base_rslad_c10": (Rslad(), "student", "randn"),
    "mtard_base_trades_8over255": (Trades(), "model", "randn"),
    "mtard_base_sat": (At(), "model", "npuniform"),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One official step each: every forward in order and mode, loss, gradients, state after SGD."""
    z = load(name)
    method, learner, noise = BASELINES[name]
    models: dict[str, nn.Module] = {learner: net(z, "student_before__")}
    if "teacher" in method.roles():
        models["teacher"] = net(z, "teacher__")
    seen = Seen(models[learner])
    attack = Attack(eps=EPS, step_size=ALPHA, steps=10, start="gaussian")
    agents = team(method, models, Recorded(z["x"][None], z["y"][None]), attack, SGD)
    with starts(z[noise][None], monkeypatch, uniform=noise == "npuniform"):
        method.step(agents, 0)  # type: ignore[arg-type]
    metrics = agents[learner].metrics
    assert metrics is not None
    close(metrics.values["total"], z["loss"], "loss")
    theirs = list(zip(z["student_modes"].tolist(), z["student_inputs"], strict=True))
    train = [x for mode, x in theirs if mode]
    ours = [x for mode, x in zip(seen.modes, seen.inputs, strict=True) if mode]
    assert len(ours) == len(train)
    for a, b in zip(ours, train, strict=True):
        close(a, b, "train-mode passes in order")
    attacked = [x for mode, x in zip(seen.modes, seen.inputs, strict=True) if not mode]
    recorded = [x for mode, x in theirs if not mode]
    for x in attacked:  # each iterate is one of theirs (they repeat the clean pass inside the attack)
        assert min(np.abs(x.numpy() - r).max() for r in recorded) < TOLERANCE
    for p_name, p in models[learner].named_parameters():
        close(p.grad, z[f"grad__{p_name}"], p_name)
    same_state(models[learner], z, "student_after__")


def test_golden_files_are_read_without_pickles() -> None:
    for path in sorted(Path(GOLDEN).glob("*.npz")):
        with np.load(path, allow_pickle=False) as z:
            assert z.files
