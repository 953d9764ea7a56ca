"""``sparring frontier``: the same budgets spent on several methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from sparring.cluster.commands.asking import Verb, asked
from sparring.cluster.commands.output import Out, Output, answer, say
from sparring.cluster.config.settings import Settings
from sparring.cluster.config.values import flat
from sparring.cluster.errors import UsageError
from sparring.cluster.machines.stop import at_most

if TYPE_CHECKING:
    from sparring.cluster.config.run_config import RunConfig

EXAMPLE = "at mat fgsm_rs --budgets 20,80"


@dataclass(frozen=True)
class Compare:
    """Spend the same budgets on several methods, METHOD[:SETTING=VALUE,...] each, such as mat:alpha=1; flags hold for all of them."""

    config: Annotated[Settings, arg(name="")]
    budgets: str = "60,240,960"
    """Budgets of each run's training, with commas."""
    unit: Literal["seconds", "passes"] = "seconds"
    """seconds: device-seconds, measured first. passes: forward passes of the product's network over a batch, which depend on no machine."""
    seeds: int = 3
    """Runs per method and budget, from --seed on."""
    attacks: str = "clean,scaled-pgd-20"
    """Attacks by which networks are compared at the end, with commas: names of 'sparring evaluate', such as autoattack."""
    examples: str | None = None
    """So many test images; default all."""
    time_budget: float | None = None
    """Seconds after which it stops (exit 130); --resume goes on."""
    resume_if_exists: Annotated[bool, arg(aliases=["--resume"])] = False
    """Go on with the frontier --name if there is one; more budgets, seeds and methods may be asked for."""
    name: str | None = None
    """Name of the frontier's folder; default frontier and the next number."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    output: Out = field(default_factory=Output)


def frontier(argv: Sequence[str]) -> None:
    """Compare methods by robustness per device-second: METHOD... --budgets 60,240."""
    named = _names(argv)
    flags = list(argv[len(named) :])
    if named and not any(f.startswith(("--team", "--address")) for f in flags) and not _gpu():
        flags.append("--team=local")  # a run without GPUs is cheapest as one process
    first = [_head(named[0], flags)] if named else []
    command, chosen = asked([*first, *flags], Compare, Verb("frontier", frontier.__doc__, example=EXAMPLE))
    from sparring.cluster.frontier import frontier as room
    from sparring.cluster.frontier import results
    from sparring.cluster.frontier.settings import Frontier, method_of

    changes = _changes(first[0], chosen)
    methods = {text: method_of(text, changes, chosen.data.name) for text in named}
    wanted = Frontier(
        methods=room.configured(methods, command.runs_dir, command.name),
        budgets=_numbers(command.budgets),
        unit=command.unit,
        seeds=command.seeds,
        attacks=tuple(a.strip() for a in command.attacks.split(",")),
        examples=command.examples,
    )
    with at_most(command.time_budget):
        folder = room.frontier(
            wanted,
            runs_dir=command.runs_dir,
            name=command.name,
            resume=command.resume_if_exists,
            say=say(command.output),
        )
    answer(command.output, results.summary(folder), results.show)


def _names(argv: Sequence[str]) -> list[str]:
    """The methods, which stand before all flags."""
    end = next((i for i, a in enumerate(argv) if a.startswith("-")), len(argv))
    return list(argv[:end])


def _head(text: str, flags: Sequence[str]) -> str:
    """The recipe whose flags the command has: the first method's, for the data asked for."""
    from sparring.cluster.config.recipes import RECIPES

    name, given = text.partition(":")[0], dict(f.partition("=")[::2] for f in flags)
    data = given.get("--data.name") or next(
        (flags[i + 1] for i, f in enumerate(flags[:-1]) if f == "--data.name"), "digits"
    )
    return f"{name}-{data}-short" if f"{name}-{data}-short" in RECIPES else name


def _changes(first: str, chosen: RunConfig) -> dict[str, Any]:
    """What the flags changed, for all methods.

    Raises:
        UsageError: a setting of one method.
    """
    from sparring.cluster.config.recipes import recipe

    before, now = flat(recipe(first).to_dict()), flat(chosen.to_dict())
    changed = {k: v for k, v in now.items() if v != before.get(k)}
    own = [k for k in changed if k.startswith(("method.", "agents."))]
    if own:
        key = own[0].removeprefix("method.")
        raise UsageError(
            f"--{own[0].replace('_', '-')} belongs to one method; write it behind its name: {first}:{key}={changed[own[0]]}"
        )
    return changed


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--budgets {text!r} is not allowed; expected numbers with commas, such as 60,240,960"
        ) from None


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()
