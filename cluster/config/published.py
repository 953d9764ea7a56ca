"""Settings that papers and their code publish, by recipe; what each needs first, and the accuracies reported for it.

Results are percentages as their sources print them, at linf 8/255 unless said otherwise; none was measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Setting:
    """One published setting: what it changes in the common recipe for images."""

    method: str
    data: str
    network: str
    changes: Mapping[str, object] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)  # frozen role -> recipe of the network that stands there
    results: tuple[str, ...] = ()
    source: str = ""  # the paper and the file that the numbers are read from
    differs: tuple[str, ...] = ()  # what is not as there, and what is not stated there


LONG = {"epochs": 300, "optim.milestones": (215, 260, 285), "optim.weight_decay": 2e-4}  # RSLAD, MTARD, B-MTARD
TRADES = {
    "epochs": 76,
    "optim.milestones": (74,),
    "optim.weight_decay": 2e-4,
    "attack.eps": 0.031,
    "attack.step_size": 0.007,
}
MIXACM = {"epochs": 200, "optim.schedule": "cosine", "optim.milestones": (), "optim.nesterov": True}
MULTI = {"epochs": 50, "optim.schedule": "triangle", "optim.milestones": ()}  # MSD, E-AT


def _peeraid(data: str, network: str, epochs: int, drops: tuple[int, ...], **options: float) -> Setting:
    results = {
        ("cifar10", "resnet18"): ("clean 85.01, PGD-20 54.36, AutoAttack 52.57 (LISArD README)",),
        ("cifar100", "resnet18"): (
            "clean 59.35, PGD-20 29.69, AutoAttack 27.33 (LISArD README; 29.69 also on the poster)",
        ),
        ("tiny-imagenet", "resnet18"): ("clean 55.19, AutoAttack 21.67 (PeerAiD, CVPR 2024 poster)",),
        ("tiny-imagenet", "wrn-34-10"): ("clean 58.07, AutoAttack 24.82 (PeerAiD, CVPR 2024 poster)",),
    }
    changes: dict[str, object] = {"epochs": epochs, "optim.milestones": drops, "optim.weight_decay": 2e-4}
    changes |= {f"method.{k}": v for k, v in options.items()} | {"data.padding": 4}
    changes |= {"agents.student.optim.swa": True, "agents.student.optim.swa_start": drops[0]}
    return Setting("peeraid", data, network, changes, results=results.get((data, network), ()))


C10 = {"clean_teacher": "clean-cifar10-resnet56", "robust_teacher": "trades-cifar10-wrn-34-10"}
C100 = {"clean_teacher": "clean-cifar100-wrn-22-6", "robust_teacher": "trades-cifar100-wrn-70-16"}
TINY = {
    "clean_teacher": "clean-tiny-imagenet-preact_resnet34",
    "robust_teacher": "trades-tiny-imagenet-preact_resnet34",
}
WIDE, WIDE100 = {"teacher": C10["robust_teacher"]}, {"teacher": C100["robust_teacher"]}
TINY_LENGTH = {"epochs": 100, "optim.milestones": (75, 90), "optim.weight_decay": 2e-4}  # inferred
ECCV = {"method.variant": "eccv"}
BMTARD = "B-MTARD, TPAMI table 3"
MAT = ("no row of its paper could be read; abstract: about 8 points over AT under PGD-100 (arXiv 2112.05005)",)

PUBLISHED: dict[str, Setting] = {
    # robust and clean networks that serve as teachers
    "trades-cifar10-resnet18": Setting(
        "trades", "cifar10", "resnet18", TRADES, {}, ("clean 81.93, AutoAttack 49.23 (RSLAD table 3)",)
    ),
    "trades-cifar10-wrn-34-10": Setting(
        "trades", "cifar10", "wrn-34-10", TRADES, {}, ("clean 84.92, AutoAttack 53.08 at eps 0.031 (RobustBench)",)
    ),
    "trades-cifar100-resnet18": Setting("trades", "cifar100", "resnet18", TRADES),
    "trades-cifar100-wrn-70-16": Setting(
        "trades",
        "cifar100",
        "wrn-70-16:swish=True",
        TRADES,
        {},
        ("cifar100_linf_wrn70-16_without.pt (Gowal et al. 2020): clean 60.86, AutoAttack 30.03 (RobustBench)",),
    ),
    "trades-tiny-imagenet-preact_resnet34": Setting("trades", "tiny-imagenet", "preact_resnet34", TINY_LENGTH),
    "clean-cifar10-resnet56": Setting(
        "clean", "cifar10", "resnet56", {}, {}, ("clean 93.18 (name of the authors' file)",)
    ),
    "clean-cifar100-wrn-22-6": Setting(
        "clean", "cifar100", "wrn-22-6", {}, {}, ("clean 76.49 (measured by a third party)",)
    ),
    "clean-tiny-imagenet-preact_resnet34": Setting("clean", "tiny-imagenet", "preact_resnet34", TINY_LENGTH),
    "at-cifar10-wrn-34-20": Setting(
        "at", "cifar10", "wrn-34-20", {}, {}, ("clean 85.34, AutoAttack 53.42 (Rice et al., RobustBench)",)
    ),
    "at-cifar10-mobilenet_v2": Setting(
        "at", "cifar10", "mobilenet_v2", {}, {}, ("clean 80.50, PGD-20 46.90 (ARD table 6)",)
    ),
    "trades-cifar10-mobilenet_v2": Setting(
        "trades", "cifar10", "mobilenet_v2", TRADES, {}, ("clean 83.59, PGD-20 44.79 (ARD table 6)",)
    ),
    # MTARD and B-MTARD
    "mtard-cifar10-resnet18": Setting(
        "mtard",
        "cifar10",
        "resnet18",
        LONG,
        C10,
        (f"clean 88.20, PGD-20 51.68, AutoAttack 47.44 ({BMTARD}); W-Robust 69.94 computed from these",),
    ),
    "mtard-cifar10-mobilenet_v2": Setting(
        "mtard", "cifar10", "mobilenet_v2", LONG, C10, ("clean 89.09, FGSM 58.79 (CIARD's table)",)
    ),
    "mtard-cifar100-resnet18": Setting(
        "mtard",
        "cifar100",
        "resnet18",
        LONG,
        C100,
        (f"clean 65.08, PGD-20 28.50, AutoAttack 23.98 ({BMTARD}); W-Robust 46.79 computed from these",),
    ),
    "mtard-cifar100-mobilenet_v2": Setting("mtard", "cifar100", "mobilenet_v2", LONG, C100),
    "mtard-tiny-imagenet-preact_resnet18": Setting("mtard", "tiny-imagenet", "preact_resnet18", TINY_LENGTH, TINY),
    "mtard-tiny-imagenet-mobilenet_v2": Setting("mtard", "tiny-imagenet", "mobilenet_v2", TINY_LENGTH, TINY),
    "mtard_eccv-cifar10-resnet18": Setting("mtard", "cifar10", "resnet18", LONG | ECCV, C10),
    "mtard_eccv-cifar10-mobilenet_v2": Setting(
        "mtard", "cifar10", "mobilenet_v2", LONG | ECCV, C10, ("clean 89.26, FGSM 57.84 (CIARD's table)",)
    ),
    "mtard_eccv-cifar100-resnet18": Setting("mtard", "cifar100", "resnet18", LONG | ECCV, C100),
    "mtard_eccv-cifar100-mobilenet_v2": Setting("mtard", "cifar100", "mobilenet_v2", LONG | ECCV, C100),
    # PeerAiD: configs/*.json of its code
    "peeraid-cifar10-resnet18": _peeraid("cifar10", "resnet18", 300, (214, 259, 284)),
    "peeraid-cifar10-wrn-34-10": _peeraid("cifar10", "wrn-34-10", 300, (214, 259, 284)),
    "peeraid-cifar100-resnet18": _peeraid("cifar100", "resnet18", 300, (214, 259, 284), gamma2=1.0),
    "peeraid-cifar100-wrn-34-10": _peeraid("cifar100", "wrn-34-10", 300, (214, 259, 284), gamma2=1.0),
    "peeraid-tiny-imagenet-resnet18": _peeraid(
        "tiny-imagenet",
        "resnet18",
        200,
        (99, 149),
        temperature=1.0,
        gamma2=100.0,
        lambda1=0.035,
        lambda2=35.0,
        lambda3=20.0,
    ),
    "peeraid-tiny-imagenet-wrn-34-10": _peeraid(
        "tiny-imagenet",
        "wrn-34-10",
        100,
        (49, 79),
        temperature=1.0,
        gamma2=100.0,
        lambda1=0.035,
        lambda2=35.0,
        lambda3=20.0,
    ),
    # MixACM: the loss is read, the rest inferred
    "mixacm-cifar10-resnet18": Setting(
        "mixacm",
        "cifar10",
        "resnet18",
        MIXACM,
        WIDE,
        (
            "ACM 48.38, + soft labels 49.53, ACM + mixup 52.29, all 56.65: robust accuracy, network and attack not named (its supplement A.4)",
        ),
    ),
    "mixacm-cifar10-wrn-34-10": Setting("mixacm", "cifar10", "wrn-34-10", MIXACM, WIDE),
    "mixacm-cifar10-mobilenet_v2": Setting("mixacm", "cifar10", "mobilenet_v2", MIXACM, WIDE),
    "mixacm-cifar100-resnet18": Setting("mixacm", "cifar100", "resnet18", MIXACM, {"teacher": "at-cifar100-wrn-34-10"}),
}
RESULTS: dict[str, tuple[str, ...]] = {  # of the common recipes
    "at-cifar10-resnet18": (
        "clean 83.38, AutoAttack 45.83 (RSLAD table 3); best checkpoint 82.57, PGD-20 51.28 (LetheSec's README)",
    ),
    "at-cifar100-resnet18": ("clean 57.52, PGD-20 28.50, AutoAttack 24.68 (CGARD's table)",),
    "at-cifar10-preact_resnet18": ("AutoAttack 48.21 at the best checkpoint, 42.46 at the last (CURE table 3)",),
    **{
        f"mat-{data}-{net}": MAT
        for data, net in (
            ("cifar10", "resnet18"),
            ("cifar10", "preact_resnet18"),
            ("cifar10", "wrn-34-10"),
            ("cifar100", "resnet18"),
        )
    },
}
