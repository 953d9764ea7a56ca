"""The Python API: what ``import sparring`` offers. Each function imports what it needs when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparring.trainers.trusting import trust_code as trust_code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparring.cluster.config.run_config import RunConfig
    from sparring.cluster.evaluation.results import Result
    from sparring.cluster.runs.run import Run
    from sparring.cluster.search.results import Searched
    from sparring.trainers.config import NormName


def recipe(name: str, **overrides: object) -> RunConfig:
    """A named run, or a method on digits, with values changed by path.

    Example:
        >>> recipe("mat-digits", **{"peers": 3, "attack.eps": "0.1"}).method.peers
        3

    Raises:
        ValueError: unknown recipe or setting, or a value that is not allowed.
    """
    from sparring.cluster.config import recipes

    return recipes.recipe(name).replace(overrides)


def train(
    config: RunConfig,
    *,
    runs_dir: str | Path = "runs",
    name: str | None = None,
    resume_if_exists: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a new run and return it: ``path``, ``metrics``, ``best``, ``agents``."""
    from sparring.cluster.training import launch
    from sparring.cluster.training.job import Circumstances

    how = Circumstances(quiet=quiet)
    return launch.train(config, runs_dir=Path(runs_dir), name=name, resume_if_exists=resume_if_exists, how=how)


def resume(path: str | Path, *, quiet: bool = False) -> Run:
    """Continue an interrupted run to the result that it would have had."""
    from sparring.cluster.training import launch
    from sparring.cluster.training.job import Circumstances

    return launch.resume(Path(path), how=Circumstances(quiet=quiet))


def tune(
    config: RunConfig,
    spaces: Mapping[str, str] | None = None,
    *,
    trials: int | None = None,
    scheduler: Literal["asha", "pbt", "fifo"] = "asha",
    sampler: Literal["random", "tpe", "grid"] = "random",
    objective: str = "w-robust",
    concurrent: int | None = None,
    time_budget: float | None = None,
    runs_dir: str | Path = "runs",
    name: str | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Searched:
    """Search settings of a run with Ray Tune, or go on with a search: ``path``, ``best`` (a run), ``trials``.

    Args:
        config: of every trial; ``team="local"`` makes each trial one process.
        spaces: by path, as ``{"method.temperature": "loguniform(1, 10)"}``; default what the method names.
        trials: default 16, and of a grid one per combination.
        time_budget: seconds after which no more is run; ``resume`` goes on.

    Raises:
        ValueError: settings that cannot be searched.
    """
    from sparring.cluster.search import search
    from sparring.cluster.search.results import Searched
    from sparring.cluster.search.settings import Search, trials_of
    from sparring.trainers.search import parse

    chosen = {k: parse(v) for k, v in spaces.items()} if spaces is not None else config.method.SEARCH
    asked = Search(
        config=config,
        spaces=chosen,
        trials=trials_of(trials, sampler, chosen),
        scheduler=scheduler,
        sampler=sampler,
        objective=objective,
        concurrent=concurrent,
    )
    say = (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr))
    how: dict[str, Any] = {"name": name, "resume": resume, "time_budget": time_budget, "say": say}
    return Searched(search.tune(asked, runs_dir=Path(runs_dir), **how))


def frontier(methods: Mapping[str, RunConfig], budgets: Sequence[float], **asked: Any) -> dict[str, Any]:
    """Spend the same budgets on several methods: ``rows``, ``not_beaten``, ``advice``, ``costs``, ``teachers`` (docs/frontier.md).

    ``asked``: ``unit``, ``seeds``, ``attacks``, ``examples``, ``runs_dir``, ``name``, ``resume``, ``quiet``.
    """
    from sparring.cluster.frontier.frontier import compared

    return compared(methods, budgets, **asked)


def load(
    net: str | Path,
    *,
    agent: str | None = None,
    checkpoint: str = "best",
    network: str | None = None,
    data: str = "digits",
) -> nn.Module:
    """The network of any name: eval mode, images [B, C, H, W] in [0, 1] -> logits [B, K].

    Args:
        net: ``RUN[@AGENT]``, ``NAME[/VERSION]`` in models/, ``FILE.safetensors``, ``FILE.py:function``, ``timm:NAME``, ``hf:USER/NAME``, a URI.
        agent: of a run: role, needed when it has several products.
        checkpoint: of a run: ``best`` by held-out robust accuracy, or ``last``.
        network: what a file of weights is of, such as ``resnet18``.
        data: data set whose images and classes a network from elsewhere is for.
    """
    from sparring.cluster.models import resolve, target
    from sparring.trainers.config import DataConfig

    about = target.Elsewhere(network=network, run=DataConfig(name=data))
    return resolve.single(str(net), about, agent=agent, checkpoint=checkpoint)[1].model


def attack(
    model: Callable[[Tensor], Any],
    x: Tensor,
    y: Tensor,
    *,
    norm: NormName = "linf",
    eps: float | str,
    steps: int = 10,
    step_size: float | str | None = None,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """PGD on the cross entropy of ``model``: adversarial examples in the ball and in the box, also under ``no_grad``.

    Args:
        model: images in [0, 1] -> logits; modes, gradients and the global random state stay as they were.
        x: [B, C, H, W] in [0, 1]; an empty batch comes back empty.
        y: [B] class numbers, integers of any width.
        norm: linf, l2 or l1.
        eps: radius in pixels of [0, 1], such as 0.03 or "8/255".
        step_size: default 2.5 * eps / steps.

    Raises:
        ValueError: pixels outside [0, 1], labels that are no classes, probabilities instead of logits, NaN.
    """
    from sparring.agents.attacked import attacked
    from sparring.trainers.config import Attack, number

    length = None if step_size is None else number(step_size)
    chosen = Attack(norm=norm, eps=number(eps), steps=steps, step_size=length, restarts=restarts)
    return attacked(model, x, y, chosen, seed=seed)


def evaluate(
    model: nn.Module | Callable[[Tensor], Any] | str | Path,
    data: Any,
    *,
    attacks: Sequence[str] | str = ("clean", "pgd-20"),
    threats: Sequence[str] | str,
    examples: int | str | None = None,
    workers: int = 0,
    seed: int = 0,
    nan_is_wrong: bool = False,
) -> Result:
    """Accuracy of ``model`` on test images, worst case per example over attacks and threats.

    Args:
        model: images in [0, 1] -> logits, or the name of a network (see :func:`load`).
        data: a data set's name; ``(x, y)``; a torch Dataset or DataLoader of images in [0, 1] and class numbers.
        attacks: as ``sparring evaluate --attacks``; one name, several with commas, or a list.
        threats: NORM:EPS such as "linf:8/255".
        examples: so many images, every class in its proportion; ``first:N``: the first ones.
        workers: Ray actors that attack at the same time; the numbers do not depend on it.
        nan_is_wrong: count answers that are NaN or infinite as wrong instead of raising ValueError.
    """
    from sparring.agents.attacked import answering
    from sparring.agents.robustness import Lenient
    from sparring.cluster.evaluation.direct import evaluate_model, listed
    from sparring.cluster.evaluation.subjects import check
    from sparring.cluster.models.given import taken
    from sparring.trainers.config import Threat, require

    named = data if isinstance(data, str) else "digits"
    network = answering(load(model, data=named) if isinstance(model, (str, Path)) else model)
    network = Lenient(network) if nan_is_wrong else network
    images, parsed = taken(data, examples), [Threat.parse(t) for t in listed(threats)]
    require(bool(parsed), 'threats is empty; write for example threats=["linf:8/255"]')
    check(network, images.split, classes=len(images.classes) if isinstance(data, str) else None)
    how: dict[str, Any] = {"attacks": listed(attacks), "threats": parsed, "seed": seed, "workers": workers}
    return evaluate_model(network, images.split, masking=256, **how)


def pretrain(config: RunConfig, *, workers: int = 1, **asked: Any) -> dict[str, Any]:
    """Train one network data-parallel, evaluate and publish it: its ``run``, ``model`` and ``card``.

    ``asked``: ``runs_dir``, ``models_dir``, ``name``, ``publish_as``, ``resume_if_exists``, ``quiet``.
    """
    from sparring.cluster.pretraining.pretrain import pretrain as run

    return run(config, workers=workers, **asked)


def publish(
    net: str | Path, name: str, *, agent: str | None = None, models_dir: str | Path = "models", **cascade: Any
) -> Path:
    """Copy a network (any name that :func:`load` takes) with its card into a new ``models_dir/NAME/VERSION``; that folder.

    ``large``, a second network, answers where the margin of the first is below ``width`` (default 0.5).
    """
    from sparring.cluster.models import card
    from sparring.cluster.models.resolve import single

    large = None if (second := cascade.pop("large", None)) is None else single(str(second))
    return card.publish(*single(str(net), agent=agent), name=name, models_dir=Path(models_dir), large=large, **cascade)


def report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """Make report.html of a run (a folder, or a URI), of several one page side by side (default ``report.html`` here); the page."""
    from sparring.cluster.reports.report import report as make

    return Path(make(runs, out=None if out is None else Path(out))["report"])


def verify(path: str | Path, *, interval: str | None = None) -> list[str]:
    """What is wrong with an evaluation's witnesses or a run's chain; [] when whole. See ``sparring verify``."""
    from sparring.cluster.evaluation import certify

    return list(certify.verify(Path(path), interval)["problems"])
