"""Settings for ImageNet at 224 pixels, as papers' code publishes them; what is not as there is said. As ``cluster/config/published.py``.

Every number that a source does not state is the project's default and named in ``differs``.
"""

from __future__ import annotations

from sparring.cluster.config.published import Setting
from sparring.trainers.config import Attack

NORMS = {  # radii that Singh et al. evaluate at: AA_eval.py
    "linf": Attack(norm="linf", eps=4 / 255, steps=2),
    "l2": Attack(norm="l2", eps=2.0),
    "l1": Attack(norm="l1", eps=75.0),
}
LINF = {"attack.norm": "linf", "attack.eps": 4 / 255}
ADAMW = {"optim.name": "adamw", "optim.decay": "weights", "optim.schedule": "cosine", "optim.milestones": ()}
HEAVY = {  # the augmentation that Singh et al. take from ConvNeXt's recipe
    "data.transforms.randaugment": 9,
    "data.transforms.erasing": 0.25,
    "data.transforms.erasing_value": "noise",
    "data.transforms.mixup": 0.8,
    "data.transforms.cutmix": 1.0,
    "method.label_smoothing": 0.1,
}
STEPS = {  # ARES: resnet50.yaml
    "epochs": 95,
    "batch_size": 512,
    "optim.lr": 0.2,
    "optim.weight_decay": 1e-4,
    "optim.decay": "weights",
    "optim.schedule": "multistep",
    "optim.milestones": (30, 60, 90),
    "optim.warmup": 5.0,
    "optim.ema": 0.9998,
    "data.transforms.brightness": 0.1,
    "data.transforms.contrast": 0.1,
    "data.transforms.saturation": 0.1,
    "attack.steps": 3,
    "attack.step_size": 8 / 255 / 3,
    "attack.start": "none",
}
CONVNEXT = {  # revisiting-at: main.py, parserr.py, run_train.sh
    "epochs": 50,
    "optim.lr": 1e-3,
    "optim.weight_decay": 0.05,
    "optim.betas": (0.9, 0.95),
    "optim.warmup": 10.0,
    "optim.ema": 0.9999,
    "attack.steps": 2,
}
ARES = "Liu et al., arXiv 2302.14301; code thu-ml/ares, robust_training/train_configs/resnet50.yaml and adversarial_training.py"
SINGH = "Singh et al., arXiv 2303.01870; code nmndeep/revisiting-at, main.py, parserr.py and run_train.sh"
XCIT = "Debenedetti et al., arXiv 2209.07399; code dedeswim/vits-robustness-torch, configs/xcit-adv-training.yaml"
CLEAN = "the source begins with clean weights: --agents.{role}.init FILE (docs/adding-a-network.md); without it, with random ones"
OPERATORS = "RandAugment's operators and ranges are torchvision's, erased bytes uniform; the source takes timm's"
HELD_OUT = "1 % of the training images are held out, by which checkpoints are compared; not in the source"

IMAGENET: dict[str, Setting] = {
    "at-imagenet-resnet50": Setting(
        "at",
        "imagenet",
        "timm:resnet50",
        STEPS | LINF | {"data.transforms.cutmix": 1.0, "method.label_smoothing": 0.1},
        {},
        ("clean 67.0, PGD-100 38.7, AutoAttack 34.1, n = 1000 (its README)",),
        ARES,
        (
            "the attack's step is whole from the beginning; the source lets it grow over 5 epochs",
            HELD_OUT,
        ),
    ),
    "at-imagenet-convnext_tiny": Setting(
        "at",
        "imagenet",
        "timm:convnext_tiny",
        ADAMW | CONVNEXT | HEAVY | LINF,
        {},
        ("of another network, ConvNeXt-T with a ConvStem, 300 epochs: clean 72.72, AutoAttack 49.46 (RobustBench)",),
        SINGH,
        (
            "a ConvNeXt-T as timm has it, without the source's ConvStem",
            "PGD-2 in the place of APGD with 2 steps",
            CLEAN.format(role="model"),
            "batch size of all GPUs together: not stated there",
            "weights of norms do not decay; there they do",
            OPERATORS,
            HELD_OUT,
        ),
    ),
    "at-imagenet-xcit_small_12_p16_224": Setting(
        "at",
        "imagenet",
        "timm:xcit_small_12_p16_224,drop_path_rate=0.05",
        ADAMW
        | LINF
        | {
            "epochs": 100,
            "batch_size": 512,
            "optim.lr": 5e-4,
            "optim.min_lr": 1e-5,
            "optim.weight_decay": 0.5,
            "optim.warmup": 10.0,
            "data.transforms.brightness": 0.4,
            "data.transforms.contrast": 0.4,
            "data.transforms.saturation": 0.4,
            "method.label_smoothing": 0.1,
            "attack.steps": 1,
            "attack.step_size": 6 / 255,
        },
        {},
        ("clean 72.34, AutoAttack 41.78 (RobustBench)",),
        XCIT,
        (
            "the radius is whole from the beginning; the source lets it grow over 10 epochs",
            "no 10 epochs more at the lowest rate",
            HELD_OUT,
        ),
    ),
    "peeraid-imagenet-resnet50-resnet18": Setting(
        "peeraid",
        "imagenet",
        "timm:resnet18",
        STEPS | LINF | {"agents.peer.network": "timm:resnet50"},
        {},
        (),
        f"method: PeerAiD, arXiv 2403.06668; all else as at-imagenet-resnet50 ({ARES})",
        (
            "no setting for ImageNet was read in the source: the method's weights are its defaults",
            "no cutmix and no label smoothing, which the method does not take",
            HELD_OUT,
        ),
    ),
    "mat_multi-imagenet-convnext_tiny": Setting(
        "mat_multi",
        "imagenet",
        "timm:convnext_tiny",
        ADAMW | CONVNEXT | LINF | {"data.transforms.randaugment": 9},
        {},
        (),
        f"method: MAT, arXiv 2112.05005; radii and all else: {SINGH}",
        (
            "no source trains these specialists on ImageNet",
            "steps under l2 and l1: not stated there",
            CLEAN.format(role="AGENT"),
            "no mixup, cutmix or label smoothing, which the method does not take",
            "batch size: not stated there",
            OPERATORS,
            HELD_OUT,
        ),
    ),
}
