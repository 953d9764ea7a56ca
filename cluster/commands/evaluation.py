"""The commands that look at trained networks: evaluate, report, verify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from sparring.cluster.commands.output import Out, Output, answer, say
from sparring.cluster.errors import UsageError
from sparring.cluster.machines.stop import at_most

if TYPE_CHECKING:
    from sparring.cluster.models.examples import Which
    from sparring.cluster.models.target import Elsewhere as About


@dataclass(frozen=True)
class Elsewhere:
    """What a network that is no run's needs; a run or a published model brings its own."""

    network: str | None = None
    """What a file of weights is of: resnet18, wrn-34-10, ..."""
    mapping: Path | None = None
    """YAML that turns a file's names into ours: keys, drop, mean, std (docs/adding-a-network.md)."""
    data: Annotated[str | None, arg(name="data.name")] = None
    """Data set of its test images. Default: digits."""
    root: Annotated[Path | None, arg(name="data.root")] = None
    """Folder that holds the data set; of a run or a published model: where its images are now. Default: data."""
    cache: Annotated[str | None, arg(name="data.cache")] = None
    """Folder for decoded images. Default: ~/.cache/sparring."""
    size: Annotated[int | None, arg(name="data.size")] = None
    """Side to which a folder's and encoded images are brought. Default: 224 for encoded ones."""
    middle: Annotated[float | None, arg(name="data.middle")] = None
    """What share of an encoded image's middle is seen, such as 0.875. Default: all of it."""

    def about(self) -> About:
        """As the rooms below take it."""
        from sparring.cluster.models.target import Elsewhere as About

        return About(**vars(self))


@dataclass(frozen=True)
class Evaluate:
    """Attack networks on the test images."""

    net: Positional[str]
    """RUN or RUN@AGENT; ensemble:RUN takes all its products as one network; NAME[/VERSION] in models/; FILE.py:function, timm:NAME, or a
    file of weights with --network: a network from elsewhere (then --threat and --data.name are needed); hf:USER/NAME;
    s3://bucket/runs/RUN[@AGENT], s3://bucket/models/NAME[/VERSION] and other URIs."""
    attacks: str = "clean,pgd-20"
    """Comma-separated: clean, fgsm, pgd-K, pgd-KxR, margin-pgd-K, scaled-pgd-K, square-Q, autoattack, autoattack-reference, transfer:RUN."""
    threat: UseAppendAction[tuple[str, ...]] = ()
    """NORM:EPS such as linf:8/255 or l2:0.5; repeat for a curve or several norms. Default: the run's own."""
    agent: UseAppendAction[tuple[str, ...]] = ()
    """Role to evaluate; repeat for several. Default: the method's products."""
    checkpoint: Literal["best", "last"] = "best"
    """Best on the held-out images, or last."""
    examples: str | None = None
    """So many test images, every class in its proportion and always the same ones; first:N takes the first N of the file."""
    examples_from: Path | None = None
    """Text file with the names of test images, one a line: these and no others, of a data set that stays encoded. In place of --examples."""
    name: str | None = None
    """Name of the evaluation's folder."""
    cross: bool = False
    """Also every agent on the examples crafted on every other (scaled-pgd-20, first threat)."""
    elsewhere: Annotated[Elsewhere, arg(name="")] = field(default_factory=Elsewhere)
    """Of a network from elsewhere."""
    corruption_root: Annotated[Path | None, arg(name="data.corruption-root")] = None
    """Folder of .npy files per corruption, as CIFAR-10-C; adds the accuracy under each."""
    allow_other_images: bool = False
    """Evaluate also when the test images are no longer those with which the run began; the table says so."""
    workers: int = 0
    """Ray actors that attack at the same time; 0: this process. The numbers do not depend on it."""
    address: str | None = None
    """Ray cluster on which the workers run (host:port); default one of its own on this machine."""
    block: int | None = None
    """Examples per block; part of what a number depends on. Default: 64, of images of at most 1024 values 128."""
    time_budget: float | None = None
    """Seconds after which the evaluation stops (exit 130); the same command goes on with the blocks that are missing."""
    masking: int = 256
    """Examples on which signs of masked gradients are looked for; 0: none."""
    nan_is_wrong: bool = False
    """Count answers that are NaN or infinite as wrong; else they end the evaluation."""
    output: Out = field(default_factory=Output)


def evaluate(argv: Sequence[str]) -> None:
    """Attack networks on the test images: those of a run, a published model, or one from elsewhere."""
    command = tyro.cli(Evaluate, args=list(argv), prog="sparring evaluate")
    from sparring.cluster.evaluation import results
    from sparring.cluster.evaluation.evaluation import Asked, evaluate_target
    from sparring.cluster.models import card
    from sparring.cluster.models.resolve import resolve

    asked = Asked(
        attacks=[name.strip() for name in command.attacks.split(",")],
        threats=command.threat,
        examples=_which(command.examples, command.examples_from),
        name=command.name,
        cross=command.cross,
        corruption_root=command.corruption_root,
        allow_other_images=command.allow_other_images,
        workers=command.workers,
        block=command.block,
        masking=command.masking,
        nan_is_wrong=command.nan_is_wrong,
    )
    networks = resolve(command.net, command.elsewhere.about(), agents=command.agent, checkpoint=command.checkpoint)
    with at_most(command.time_budget), _cluster(command.address, command.workers):
        report = evaluate_target(networks, asked, say(command.output))
    if (networks.path / "card.json").is_file():
        card.update(networks.path)
    answer(command.output, report, results.show)


def _which(examples: str | None, listed: Path | None) -> Which:
    """The test images that the two flags mean.

    Raises:
        UsageError: both are given, or one cannot be read.
    """
    from sparring.cluster.models.examples import Examples, Listed

    if examples is not None and listed is not None:
        raise UsageError(
            f"--examples {examples} and --examples-from {listed} both say which test images; leave one out"
        )
    if listed is not None:
        return Listed.read(listed)
    return None if examples is None else Examples.parse(examples)


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[None]:
    """A connection that workers will use, where a cluster is named."""
    if address is None:
        yield
        return
    if workers == 0:
        raise UsageError("--address needs --workers W: without workers this process attacks alone")
    from sparring.cluster.machines import session

    with session.connected(address):
        yield


def report(
    runs: Positional[tuple[str, ...]],
    *,
    examples: int | None = None,
    checkpoint: Literal["best", "last"] = "best",
    out: Path | None = None,
    output: Out = Output(),
) -> None:
    """Make report.html of a run; of several, one page side by side.

    Args:
        runs: Run folders, or URIs of mirrored runs: s3://bucket/runs/NAME.
        examples: Test images used. Default: as many as about a minute allows.
        checkpoint: Best on the held-out images, or last.
        out: Page for several runs. Default: report.html in this folder.
    """
    from sparring.cluster.reports.report import report as make_report

    result = make_report(runs, examples=examples, checkpoint=checkpoint, out=out, say=say(output))
    answer(output, result, lambda r: print(f"report: {r['report']}"))


def verify(
    path: Positional[Path],
    *,
    interval: str | None = None,
    output: Out = Output(),
) -> None:
    """Check an evaluation's witnesses without attacking, or a run's chain; --interval trains a part of it again.

    Args:
        path: An evaluation's folder, or a run's.
        interval: random, or A:B of two neighbouring checkpoints.
    """
    from sparring.cluster.evaluation import certify

    result = certify.verify(path, interval)
    answer(output, result, certify.show)
    if result["problems"]:
        raise SystemExit(5)
