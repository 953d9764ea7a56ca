"""Published settings of the baselines: distillation from one teacher, and LBGAT. As ``cluster/config/published.py``."""

from __future__ import annotations

from sparring.cluster.config.published import LONG, TRADES, WIDE, WIDE100, Setting

IAD = {"epochs": 200, "optim.milestones": (100,), "optim.weight_decay": 2e-4}  # its code lowers the rate once only
ADAAD = {"epochs": 200, "optim.milestones": (100, 150), "optim.weight_decay": 5e-4}
# Its code takes 0.02 in the whole first epoch; here the rate rises to 0.1 in it.
LBGAT = TRADES | {"epochs": 100, "optim.milestones": (75, 90), "optim.warmup": 1.0}
GUIDE = {"agents.guide.network": "resnet18_lbgat"}
IADS = {"teacher": "at-cifar10-resnet18"}
ADAS, ADAS100 = {"teacher": "at-cifar10-wrn-34-20"}, {"teacher": "at-cifar100-wrn-34-10"}

BASELINES: dict[str, Setting] = {
    "rslad-cifar10-resnet18": Setting(
        "rslad", "cifar10", "resnet18", LONG, WIDE, ("clean 83.38, AutoAttack 51.49 (its table 3)",)
    ),
    "rslad-cifar10-mobilenet_v2": Setting("rslad", "cifar10", "mobilenet_v2", LONG, WIDE),
    "rslad-cifar100-resnet18": Setting(
        "rslad",
        "cifar100",
        "resnet18",
        LONG,
        WIDE100,
        ("with a WRN-34-10 as teacher: clean 56.55, PGD-20 32.85, AutoAttack 28.00 (CGARD's table)",),
    ),
    "ard-cifar10-resnet18": Setting("ard", "cifar10", "resnet18", IAD, WIDE, ("AutoAttack 49.19 (RSLAD table 3)",)),
    "ard-cifar10-mobilenet_v2": Setting(
        "ard", "cifar10", "mobilenet_v2", IAD, WIDE, ("clean 82.63, PGD-20 50.42 (its table 6)",)
    ),
    "ard-cifar100-resnet18": Setting("ard", "cifar100", "resnet18", IAD | {"batch_size": 256}, WIDE100),
    "iad-cifar10-resnet18": Setting("iad", "cifar10", "resnet18", IAD, IADS, ("AutoAttack 48.66 (its table 2)",)),
    "iad_II-cifar10-resnet18": Setting(
        "iad",
        "cifar10",
        "resnet18",
        IAD | {"method.variant": "II", "method.begin": 40},
        {**IADS, "clean_teacher": "clean-cifar10-resnet18"},
        ("AutoAttack 48.58 (IAD table 2)",),
    ),
    "akd2-cifar10-resnet18": Setting(
        "akd2",
        "cifar10",
        "resnet18",
        IAD,
        {**IADS, "clean_teacher": "clean-cifar10-resnet18"},
        ("AutoAttack 48.08 (IAD table 2)",),
    ),
    "adaad-cifar10-resnet18": Setting(
        "adaad",
        "cifar10",
        "resnet18",
        ADAAD,
        ADAS,
        ("with Chen2021LTD's WRN-34-20 as teacher: clean 85.58, PGD-20 56.40, AutoAttack 51.37 (LISArD README)",),
    ),
    "adaad-cifar100-resnet18": Setting(
        "adaad",
        "cifar100",
        "resnet18",
        ADAAD | {"method.reduction": "batch"},
        ADAS100,
        ("with Chen2021LTD's WRN-34-10 as teacher: clean 62.19, PGD-20 32.52, AutoAttack 26.74 (LISArD README)",),
    ),
    "adaiad-cifar10-resnet18": Setting(
        "adaiad",
        "cifar10",
        "resnet18",
        ADAAD,
        ADAS,
        ("with Chen2021LTD's WRN-34-20 as teacher: AutoAttack 52.96 (AdaAD's paper)",),
    ),
    "lbgat-cifar10-wrn-34-10": Setting(
        "lbgat",
        "cifar10",
        "wrn-34-10",
        LBGAT | {"agents.guide.network": "resnet18_lbgat"},
        {},
        ("clean 88.22, AutoAttack 52.86 at eps 0.031 (its README)",),
    ),
    "lbgat-cifar100-wrn-34-10": Setting(
        "lbgat",
        "cifar100",
        "wrn-34-10",
        LBGAT | {"agents.guide.network": "resnet18_lbgat", "method.beta": 6.0},
        {},
        ("clean 60.64, AutoAttack 29.33 at eps 0.031 (its README)",),
    ),
    "rslad-cifar100-mobilenet_v2": Setting("rslad", "cifar100", "mobilenet_v2", LONG, WIDE100),
    "ard-cifar100-mobilenet_v2": Setting("ard", "cifar100", "mobilenet_v2", IAD | {"batch_size": 256}, WIDE100),
    "adaiad-cifar100-resnet18": Setting("adaiad", "cifar100", "resnet18", ADAAD, ADAS100),
    "lbgat-cifar10-wrn-34-20": Setting(
        "lbgat", "cifar10", "wrn-34-20", LBGAT | GUIDE, {}, ("clean 88.70, AutoAttack 53.57 at eps 0.031 (its README)",)
    ),
    "lbgat0-cifar100-wrn-34-10": Setting(
        "lbgat",
        "cifar100",
        "wrn-34-10",
        LBGAT | GUIDE,
        {},
        ("clean 70.25, AutoAttack 27.16 at eps 0.031 (its README)",),
    ),
    "lbgat-cifar100-wrn-34-20": Setting(
        "lbgat",
        "cifar100",
        "wrn-34-20",
        LBGAT | GUIDE | {"method.beta": 6.0},
        {},
        ("clean 62.55, AutoAttack 30.20 at eps 0.031 (its README)",),
    ),
}
