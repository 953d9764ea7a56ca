"""The parts of a run's configuration that the computation needs: data, attack, optimiser.

Frozen dataclasses of plain values, checked when they are made: a ``ValueError`` says what was wrong, the value seen and
what is allowed. Importing this module costs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, get_args

from sparring.trainers import uris
from sparring.trainers.augment.settings import AugmentConfig as AugmentConfig
from sparring.trainers.optim_config import OptimConfig as OptimConfig
from sparring.trainers.values import fraction as fraction
from sparring.trainers.values import number as number
from sparring.trainers.values import require as require

NormName = Literal["linf", "l2", "l1"]
NORM_NAMES: tuple[str, ...] = get_args(NormName)


def check_threat(norm: str, eps: float) -> None:
    """Refuse a norm that does not exist and a radius in the wrong unit.

    Raises:
        ValueError: unknown norm; eps negative or not finite; linf eps above 1, the whole pixel range.
    """
    require(norm in NORM_NAMES, f"norm {norm!r} is unknown; allowed: {', '.join(NORM_NAMES)}")
    require(isfinite(eps) and eps >= 0, f"eps = {eps} must be a finite number >= 0")
    if norm == "linf" and eps > 1:
        raise ValueError(
            f"eps = {eps:g} exceeds the pixel range: images are in [0, 1] and linf eps is at most 1. Did you mean {eps:g}/255?"
        )


@dataclass(frozen=True, slots=True)
class Threat:
    """A perturbation set: every x + d in [0, 1] with ``||d||_norm <= eps``; eps in pixels of [0, 1]."""

    norm: NormName
    eps: float

    def __post_init__(self) -> None:
        check_threat(self.norm, self.eps)

    @classmethod
    def parse(cls, text: str) -> Threat:
        """``"linf:8/255"`` -> ``Threat("linf", 0.03137...)``.

        Raises:
            ValueError: the text is not NORM:EPS, or the values are not allowed.
        """
        norm, separator, eps = text.partition(":")
        require(bool(separator), f"threat {text!r} is not NORM:EPS; write for example linf:8/255 or l2:0.5")
        return cls(norm, fraction(eps))  # type: ignore[arg-type]  # checked in __post_init__

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps:.6g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A projected gradient attack, completely described. eps and step_size are in pixels of [0, 1]."""

    kind: Literal["pgd", "fgsm"] = "pgd"
    """pgd: ``steps`` steps. fgsm: one step of length eps from the clean image (unless step_size or start say otherwise)."""
    norm: NormName = "linf"
    """Norm of the perturbation."""
    eps: float = 8 / 255
    """Radius of the ball."""
    steps: int = 10
    """Gradient steps; fgsm takes one."""
    step_size: float | None = None
    """Length of a step in the norm; default 2.5 * eps / steps, for fgsm eps."""
    start: Literal["uniform", "unclipped", "gaussian", "none"] | None = None
    """uniform in the ball, clipped to the box; unclipped: not clipped, as ARD's code; gaussian: x + 0.001 N(0, 1), not clipped;
    none: x itself. Default uniform, for fgsm none."""
    restarts: int = 1
    """Independent starts; the example with the highest objective is kept."""
    bn: Literal["eval", "train"] = "eval"
    """Mode of the attacked network. train uses batch statistics and moves the running ones, as some published code does."""

    def __post_init__(self) -> None:
        check_threat(self.norm, self.eps)
        require(self.steps >= 0, f"attack.steps = {self.steps} must be >= 0")
        require(self.restarts >= 1, f"attack.restarts = {self.restarts} must be >= 1")
        require(self.step_size is None or self.step_size > 0, f"attack.step_size = {self.step_size} must be > 0")

    @property
    def iterations(self) -> int:
        """Number of gradient steps."""
        return 1 if self.kind == "fgsm" else self.steps

    @property
    def length(self) -> float:
        """Length of one step in the norm, the default filled in."""
        if self.step_size is not None:
            return self.step_size
        return self.eps if self.kind == "fgsm" else 2.5 * self.eps / max(self.steps, 1)

    @property
    def initial(self) -> Literal["uniform", "unclipped", "gaussian", "none"]:
        """The start, the default filled in."""
        return self.start or ("none" if self.kind == "fgsm" else "uniform")


@dataclass(frozen=True, slots=True)
class Measure:
    """How networks are compared on held-out images: right after every one of these attacks, which all raise one loss."""

    attacks: tuple[Attack, ...]
    loss: str  # a name in losses.RAISED
    images: int | None = None  # so many of them, every class in its proportion; None: all


@dataclass(frozen=True, slots=True)
class Msd:
    """Multi steepest descent: in every step the norm is chosen, per example, whose step raises the objective most.

    Source: Maini, Wong, Kolter, arXiv 1909.04068. Starts at the images; the best iterate seen is kept.
    """

    attacks: tuple[Attack, ...]  # one per norm: ball and length of a step
    steps: int

    def __post_init__(self) -> None:
        require(bool(self.attacks), "msd needs at least one attack")

    @property
    def bn(self) -> Literal["eval", "train"]:
        """Mode of the attacked network: that of the first attack."""
        return self.attacks[0].bn


@dataclass(frozen=True, slots=True)
class NoiseStep:
    """One linf step from strong noise, clipped to the box but not to a ball.

    Source: de Jorge et al., arXiv 2202.01181, algorithm 1.
    """

    noise: float  # half width of the uniform noise, in pixels of [0, 1]
    step_size: float  # in pixels of [0, 1]
    bn: Literal["eval", "train"] = "eval"  # mode of the attacked network


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which images, and how they are split and augmented."""

    name: str = "digits"
    """digits, cifar10, cifar100, tiny-imagenet, mini-imagenet, folder, or file.py:function."""
    root: str = "data"
    """Folder (or zip) that holds the data set; of images that stay encoded a URI too (s3://bucket/imagenet)."""
    download: bool = True
    """Download CIFAR-10 or CIFAR-100 into root when they are not there."""
    cache: str = "~/.cache/sparring"
    """Folder for decoded images."""
    size: int | None = None
    """Side to which a folder's images are resized; of images that stay encoded 224, where nothing is said."""
    middle: float = 1.0
    """What share of an encoded image's middle is seen where no random part is drawn: by evaluation, reports, the service. 0.875 scales the
    shorter side to size / 0.875 and cuts the middle out."""
    encoded: bool = False
    """Keep a folder's images encoded and decode them anew whenever they are seen, as imagenet, tar and parquet do by themselves."""
    scaled: bool = False
    """Decode JPEGs of random parts at a half, a quarter or an eighth, where the part stays larger than the run's images: faster, other pixels."""
    bad: Literal["refuse", "skip"] = "refuse"
    """What to do with encoded images that 'sparring data check' found bad."""
    fraction: float = 1.0
    """Share of the training images used, the same of every class."""
    validation: float = 0.1
    """Share of the training images held out, drawn by the seed, on which checkpoints are compared."""
    augment: Literal["none", "shift", "crop-flip", "resized-crop"] = "none"
    """shift: random crop after zero padding. crop-flip: the same and a random horizontal flip. resized-crop: a part of random area and
    aspect ratio, scaled to the image's size, and a flip."""
    padding: int = 1
    """Zero pixels on each side before the random crop (CIFAR: 4)."""
    transforms: AugmentConfig = field(default_factory=AugmentConfig)
    extra: str | None = None
    """File.npz with generated images: image (uint8 NHWC) and label."""
    extra_fraction: float = 0.7
    """Share of every batch that comes from the extra images."""

    def __post_init__(self) -> None:
        uris.check(self.root, "data.root ")
        require(0 < self.validation < 1, f"data.validation = {self.validation} must lie between 0 and 1")
        require(0 < self.fraction <= 1, f"data.fraction = {self.fraction} must lie in (0, 1]")
        require(0 <= self.extra_fraction < 1, f"data.extra_fraction = {self.extra_fraction} must lie in [0, 1)")
        require(self.padding >= 0, f"data.padding = {self.padding} must be >= 0")
        require(0 < self.middle <= 1, f"data.middle = {self.middle} must lie in (0, 1]")
        require(self.size is None or self.size >= 4, f"data.size = {self.size} must be >= 4")

    @property
    def one_by_one(self) -> bool:
        """Whether training images are changed each by itself."""
        return self.augment == "resized-crop" or self.transforms.operates


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """Processes that decode images which stay encoded, one set of them a node for all its agents; they change no number."""

    workers: int | None = None
    """Processes of a node that decode. Default: one less than it has cores. 0: every agent decodes for itself."""
    memory: int = 512
    """MiB in which a node keeps decoded steps, at most; two steps are kept however large they are."""

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 0, f"loader.workers = {self.workers} must be >= 0")
        require(self.memory >= 1, f"loader.memory = {self.memory} must be >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedConfig:
    """How fast a step is computed; every value but the first precision changes numbers, or takes other memory or time."""

    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    micro_batch: int | None = None
    checkpointing: bool = False  # blocks are computed again for the backward pass: the same numbers in less memory
    folded: bool = (
        True  # batch norm goes into convolutions where a network is in eval mode: the same numbers to rounding
    )

    def __post_init__(self) -> None:
        require(self.micro_batch is None or self.micro_batch >= 1, f"micro_batch = {self.micro_batch} must be >= 1")
        require(
            not (self.compile and self.checkpointing),
            "compile and checkpointing do not go together: a compiled network decides itself what is computed again",
        )
