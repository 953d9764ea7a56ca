"""Sparring: train image classifiers that make each other robust. The public Python API and the ``sparring`` command.

This file is a package: ``__path__`` names the folder that holds ``trainers/``, ``agents/``, ``cluster/`` and ``serve/``, so they
are ``sparring.trainers`` and so on, and nothing of ours is importable by a name that may be somebody else's.

run    = sparring.train(sparring.recipe("mat-digits", **{"epochs": 2, "attack.eps": 0.1}))
model  = sparring.load(run.path, agent="peer0")
adv    = sparring.attack(model, x, y, norm="linf", eps=0.1, steps=10)
result = sparring.evaluate(model, "digits", attacks=["clean", "pgd-20"], threats=["linf:0.1"])
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

_HERE = Path(__file__).resolve().parent
_HOMES = (_HERE / "sparring-code", _HERE)  # beside this file in a wheel; in a clone the folder of this file
__path__ = [str(home) for home in _HOMES if (home / "trainers" / "methods" / "mat.py").is_file()][:1]
if not __path__:
    raise ImportError(
        f"sparring.py stands in {_HERE} without the folders cluster/, agents/ and trainers/: it was copied away from them. "
        "Install the clone in place: pip install -e ."
    )

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparring.cluster.config.run_config import RunConfig
    from sparring.cluster.evaluation.results import Result
    from sparring.cluster.runs.run import Run
    from sparring.cluster.search.results import Searched
    from sparring.trainers.config import NormName

__version__ = "0.1.0"
__all__ = ["attack", "evaluate", "load", "main", "recipe", "resume", "train", "tune"]


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
    runs = Path(runs_dir)
    return Searched(search.tune(asked, runs_dir=runs, name=name, resume=resume, time_budget=time_budget, say=say))


def load(path: str | Path, *, agent: str | None = None, checkpoint: str = "best") -> nn.Module:
    """The trained network of a run: eval mode, images [B, C, H, W] in [0, 1] -> logits [B, K].

    Args:
        path: the run's folder.
        agent: role; needed when the run has several products.
        checkpoint: ``best`` by held-out robust accuracy, or ``last``.
    """
    from sparring.cluster.models.trained import load_agent
    from sparring.cluster.runs.folder import RunFolder

    return load_agent(RunFolder.open(Path(path)), agent, checkpoint=checkpoint)[0]


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: NormName = "linf",
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """PGD on the cross entropy of ``model``: adversarial examples in the ball and in the box.

    Args:
        model: images in [0, 1] -> logits; mode, gradients and the global random state stay as they were.
        x: [B, C, H, W] in [0, 1].
        y: [B] labels.
        norm: linf, l2 or l1.
        eps: radius in pixels of [0, 1].
        step_size: default 2.5 * eps / steps.

    Raises:
        ValueError: pixels outside [0, 1], probabilities instead of logits, eps in the wrong unit.
    """
    from sparring.agents.robustness import check_classifier, judged
    from sparring.trainers.attacks import run
    from sparring.trainers.config import Attack
    from sparring.trainers.losses import cross_entropy
    from sparring.trainers.rng import generator

    chosen = Attack(norm=norm, eps=eps, steps=steps, step_size=step_size, restarts=restarts)
    check_classifier(model, x)
    with judged(model):
        return run(chosen, lambda z: cross_entropy(model(z), y), x, rng=generator(seed, "attack", device=x.device))


def evaluate(
    model: nn.Module,
    dataset: str,
    *,
    attacks: Sequence[str] = ("clean", "pgd-20"),
    threats: Sequence[str],
    examples: int | str | None = None,
    seed: int = 0,
) -> Result:
    """Accuracy of ``model`` on the test images of ``dataset``, worst case per example over attacks and threats."""
    from sparring.cluster.evaluation.direct import evaluate_model
    from sparring.cluster.evaluation.subjects import check
    from sparring.cluster.models.examples import Examples, take
    from sparring.trainers.config import DataConfig, Threat

    data = DataConfig(name=dataset)
    taken = take(data, None if examples is None else Examples.parse(examples))
    parsed = [Threat.parse(t) for t in threats]
    check(model, taken.split, classes=len(taken.classes))
    return evaluate_model(model, taken.split, attacks=attacks, threats=parsed, seed=seed, masking=256)


def main() -> int:
    """The ``sparring`` command."""
    from sparring.cluster.commands.main import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
