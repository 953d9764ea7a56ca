"""The settings of a run that no method changes. Importing this costs no torch, so ``sparring train --help`` is quick."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from sparring.cluster.config import tracking
from sparring.trainers.config import Attack, DataConfig, LoaderConfig, OptimConfig, SpeedConfig, Threat, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What each agent gets."""

    gpus_per_agent: float | None = None
    """GPUs of one agent; a fraction shares a GPU. Default 1 where the cluster has GPUs, else 0."""
    cpus_per_agent: float = 1.0
    """Logical CPUs of one agent."""
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray spreads the agents over nodes; PACK keeps the exchange on one host where it fits."""
    label: str | None = None
    """Node label that agents need, as key=value (ray start --labels); default any node."""
    wait: float = 0.0
    """Seconds to wait at the start for nodes that an autoscaler adds; 0: what does not fit now is refused at once."""
    replacement: float = 600.0
    """Seconds to wait for a node that takes over from one that was lost."""

    def __post_init__(self) -> None:
        require(self.cpus_per_agent >= 0, f"placement.cpus_per_agent = {self.cpus_per_agent} must be >= 0")
        _require_gpus("placement.gpus_per_agent", self.gpus_per_agent)
        _require_label("placement.label", self.label)
        require(self.wait >= 0, f"placement.wait = {self.wait} must be >= 0")
        require(self.replacement > 0, f"placement.replacement = {self.replacement} must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointing:
    """When all agents are saved and compared on the held-out images."""

    every: int = 100
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Newest checkpoints kept; the best of each agent is kept besides."""
    attack: Literal["scaled-pgd", "margin-pgd", "pgd"] = "scaled-pgd"
    """What the robust accuracy on the held-out images is measured by. scaled-pgd: PGD on the cross entropy of logits at one scale, which
    softened logits cannot inflate; margin-pgd: on the margin; pgd: on the cross entropy, as the papers do. A configuration file
    without this setting means pgd."""
    attack_steps: int = 10
    """Its steps."""
    threat: str | None = None
    """Threat model of that accuracy, as linf:8/255; default the run's own."""
    looking: float = 0.1
    """What comparing networks may cost: this share of the passes between two checkpoints decides on how many held-out images, 32 at
    least. 0: on all of them, which a configuration file without this setting means."""

    def __post_init__(self) -> None:
        require(self.every >= 1, f"checkpoint.every = {self.every} must be >= 1")
        require(self.keep >= 1, f"checkpoint.keep = {self.keep} must be >= 1")
        require(self.attack_steps >= 0, f"checkpoint.attack_steps = {self.attack_steps} must be >= 0")
        require(self.looking >= 0, f"checkpoint.looking = {self.looking} must be >= 0")
        if self.threat is not None:
            Threat.parse(self.threat)

    @property
    def name(self) -> str:
        """Of the measure, as ``scaled-pgd-10``."""
        return f"{self.attack}-{self.attack_steps}"

    def going_on(self, begun: Checkpointing) -> Checkpointing:
        """These settings in a run that was begun by pgd and on all images, as all were once: defaults give way, nothing else does."""
        default = Checkpointing()
        attack = "pgd" if begun.attack == "pgd" and self.attack == default.attack else self.attack
        looking = 0.0 if begun.looking == 0 and self.looking == default.looking else self.looking
        return replace(self, attack=attack, looking=looking)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnOptim:
    """What one agent's optimiser has otherwise than the run's; see --optim."""

    name: Literal["sgd", "adamw", "lamb"] | None = None
    lr: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    decay: Literal["all", "weights"] | None = None
    clip: float | None = None
    layer_decay: float | None = None
    schedule: Literal["constant", "linear", "cosine", "multistep", "triangle"] | None = None
    min_lr: float | None = None
    milestones: tuple[int, ...] | None = None
    gamma: float | None = None
    warmup: float | None = None
    ema: float | None = None
    swa: bool | None = None
    swa_start: int | None = None
    awp: float | None = None
    awp_warmup: int | None = None

    def over(self, optim: OptimConfig) -> OptimConfig:
        """The run's optimiser with these changes."""
        return replace(optim, **{k: v for k, v in asdict(self).items() if v is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What one agent has otherwise than the rest."""

    network: str | None = None
    """Its network; default that of its init, else the run's."""
    init: str | None = None
    """Weights to start from: RUN or RUN@AGENT, a published models/NAME, or a .safetensors or .pt file (with its network)."""
    mapping: str | None = None
    """YAML that turns such a file's names into ours: keys, drop, mean, std (docs/adding-a-network.md)."""
    gpus: float | None = None
    """Its GPUs, when other than --placement.gpus-per-agent."""
    label: str | None = None
    """Node label that it needs, as key=value, when other than --placement.label."""
    optim: OwnOptim = field(default_factory=OwnOptim)

    def __post_init__(self) -> None:
        _require_gpus("agents.*.gpus", self.gpus)
        _require_label("agents.*.label", self.label)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything of a run but its method."""

    network: str = "small_cnn"
    """Network of every agent, options after a colon: small_cnn:width=16; or timm:NAME, file.py:function."""
    agents: dict[str, Own] = field(default_factory=dict)
    """What single agents have otherwise, by role."""
    data: DataConfig = field(default_factory=DataConfig)
    attack: Attack = field(default_factory=Attack)
    attacks: dict[str, Attack] = field(default_factory=dict)
    """Attacks by norm, for methods that train against several."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 20
    """Passes over the training images."""
    max_steps: int | None = None
    """Length of the run in steps, instead of epochs."""
    batch_size: int = 128
    """Images per step."""
    seed: int = 0
    """Seed of weights, order, augmentation and attacks."""
    lanes: int = 1
    """Replicas of every agent, each on a share of the batch; their gradients are averaged, batch statistics are their own."""
    team: Literal["ray", "local"] = "ray"
    """ray: every agent an actor. local: all in this process, without Ray."""
    address: str | None = None
    """Address of a running Ray cluster (host:port); default: a Ray of its own on this machine."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU where the agent has one. cpu: never."""
    threads_per_agent: int = 1
    """CPU threads of each agent; part of the promise of identical bytes."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of attacks and of networks while they train. tf32: NVIDIA GPUs round the factors of every product. bf16: so
    does everything, to 8 bits. Losses, weights and every evaluation stay in float32."""
    compile: bool = False
    """Compile what attacks run (torch.compile): half a minute and more at the start, then faster steps."""
    micro_batch: int | None = None
    """Images that go through a network at once, where a whole batch does not fit in memory; batch norm then sees such parts."""
    checkpointing: bool = False
    """Networks of timm's: keep less for the backward pass and compute it again, block by block. The same bytes, in less memory and
    more time."""
    window: int = 2
    """Steps in flight."""
    exchange: Literal["store", "direct", "auto"] = "store"
    """How messages travel between agents on Ray. store: through Ray's object store. direct: from process to process, a step being one
    call per agent. auto: direct where agents have something to exchange. The same bytes either way."""
    call_timeout: float = 600.0
    """Seconds after which a step that does not end counts as hung."""
    on_collapse: Literal["warn", "stop", "rollback"] = "warn"
    """When a monitor sees training collapse: say so; stop with exit code 7; or go back to the checkpoint before, with half
    the learning rate, at most three times."""
    max_failures: int = 3
    """Recoveries from lost processes before giving up."""
    changes: dict[int, dict[str, float]] = field(default_factory=dict)
    """Settings of method, attack or optimiser that change at a step, which must be one of a checkpoint: {300: {method.alpha: 0.2}}."""
    trace: bool = False
    """Write trace.json, the timeline of one step, for chrome://tracing or ui.perfetto.dev."""
    log: str = "tensorboard"
    """Where figures go besides the run's own files, comma-separated: tensorboard, csv, wandb, mlflow; or none."""
    memo: str | None = None
    """Folder in which frozen agents keep what they say to clean batches, for runs that share it; changes no number."""
    mirror: str | None = None
    """URI of a folder to which every checkpoint is copied (s3://bucket/runs, file:///mnt/runs); --resume-if-exists brings the
    run back from there when this machine has none."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    placement: Placement = field(default_factory=Placement)
    checkpoint: Checkpointing = field(default_factory=Checkpointing)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lanes", "threads_per_agent", "window"):
            value = getattr(self, name)
            require(value >= 1, f"{name} = {value} must be >= 1")
        require(self.max_steps is None or self.max_steps >= 1, f"max_steps = {self.max_steps} must be >= 1")
        _ = self.speed
        perturbed = max([self.optim.awp, *(own.optim.awp or 0 for own in self.agents.values())]) > 0
        require(
            self.micro_batch is None or not perturbed,
            f"micro_batch = {self.micro_batch} and optim.awp do not go together: the perturbation is that of a whole batch; "
            "use --lanes instead",
        )
        tracking.parsed(self.log)
        require(self.call_timeout > 0, f"call_timeout = {self.call_timeout} must be > 0")
        require(self.max_failures >= 0, f"max_failures = {self.max_failures} must be >= 0")

    @property
    def speed(self) -> SpeedConfig:
        """How fast a step is computed."""
        return SpeedConfig(
            precision=self.precision,
            compile=self.compile,
            micro_batch=self.micro_batch,
            checkpointing=self.checkpointing,
        )


def _require_gpus(name: str, value: float | None) -> None:
    ok = value is None or 0 <= value <= 1 or value == round(value) > 0
    require(ok, f"{name} = {value} is not allowed; expected a fraction from 0 to 1, or a whole number")


def _require_label(name: str, value: str | None) -> None:
    key, equals, text = (value or "a=b").partition("=")
    require(bool(key and equals and text), f"{name} = {value!r} is not allowed; expected key=value, such as zone=b")
