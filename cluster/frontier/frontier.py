"""``sparring frontier``: the same budgets spent on several methods.

    methods --a short run each--> cost of a step --budgets--> steps that fit --a run per seed, placed by need--> attacked --> a row each

Costs, runs and evaluations stay in the frontier's folder: an interrupted one goes on with what is missing, and a longer one (more
budgets, seeds or methods) begins with what is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.config.run_config import RunConfig
from sparring.cluster.errors import UsageError
from sparring.cluster.frontier import cost, page, place, results, work
from sparring.cluster.frontier.cost import Cost
from sparring.cluster.frontier.settings import Frontier, Point, fitted, slug
from sparring.cluster.machines import placement, session
from sparring.cluster.machines.whole_runs import bundles_of
from sparring.cluster.models.initial import resolved, vetted, with_commits
from sparring.cluster.runs.folder import RunFolder
from sparring.cluster.runs.images import prepare
from sparring.cluster.terminal import percent
from sparring.cluster.training import launch, on_demand

Say = Callable[[str], None]


def frontier(
    asked: Frontier,
    *,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
    resume: bool = False,
    say: Say = lambda line: None,
) -> Path:
    """Carry out a frontier, or go on with one; its folder, with ``frontier.json`` and ``frontier.html``.

    Raises:
        UsageError: methods that cannot be compared, or a frontier of this name with other settings.
        Exists: a folder of this name, and ``resume`` was not asked for.
        NoResources: not enough for one run of some method.
        Infrastructure: processes were lost too often; what is done is kept.
    """
    _check(asked)
    folder = place.folder_of(asked, runs_dir, name, resume=resume)
    config = next(iter(asked.methods.values()))
    if session.brings_its_own(config.address):
        for c in asked.methods.values():
            bundles_of(c, [placement.this_machine()])
    with RunFolder(folder).locked(), session.connected(config.address) as runtime_env:
        prepare(config.data, quiet=False)  # once, before several processes want them
        asked, teachers = _with_teachers(asked, folder, say)
        costs = _costs(asked, folder, runtime_env, say)
        points = _points(asked, costs, folder, say)
        failed = _train(asked, points, costs, folder, runtime_env, say)
    _conclude(asked, points, costs, failed, teachers, folder)
    return folder


def _check(asked: Frontier) -> None:
    if not asked.methods:
        raise UsageError("frontier needs methods to compare: sparring frontier at mat fgsm_rs --budgets 60,240")
    first = next(iter(asked.methods.values()))
    for label, config in asked.methods.items():
        for what in ("data", "team", "address", "device"):
            if getattr(config, what) != getattr(first, what):
                raise UsageError(
                    f"{label}: {what} is another than that of {next(iter(asked.methods))}; all must share it"
                )
        if config.threats != first.threats:
            raise UsageError(
                f"{label} trains against {', '.join(map(str, config.threats))}, {next(iter(asked.methods))} against "
                f"{', '.join(map(str, first.threats))}: their robust accuracies would not compare"
            )


def _with_teachers(asked: Frontier, folder: Path, say: Say) -> tuple[Frontier, list[dict[str, Any]]]:
    """The methods with the teachers that they lack trained; what each cost."""
    methods, used = {}, dict[str, list[str]]()
    for label, config in asked.methods.items():
        lacking = on_demand.missing(config)
        if lacking:
            say(
                f"{label} needs {', '.join(f'{role} ({name})' for role, name in lacking.items())}: trained once, for all budgets"
            )
            config = on_demand.trained(config, runs_dir=folder / "teachers", quiet=True)
        methods[label] = resolved(config)
        for role in lacking:
            used.setdefault(str(config.agents[role].init), []).append(label)
    return replace(asked, methods=methods), [_teacher(Path(path), of, asked) for path, of in used.items()]


def _teacher(run: Path, of: list[str], asked: Frontier) -> dict[str, Any]:
    folder = RunFolder(run)
    steps = folder.total_steps or 0
    per_step = median(cost.spent(folder)) if asked.unit == "seconds" else cost.counted(folder.config)
    return {"run": f"teachers/{run.name}", "of": of, "cost": steps * per_step}


def _costs(asked: Frontier, folder: Path, runtime_env: dict[str, Any], say: Say) -> dict[str, Cost]:
    from sparring.cluster.frontier import schedule

    def ended(task: schedule.Task, why: str | None) -> None:
        if why is not None:
            raise UsageError(f"{task.folder.name} cannot be trained: {why}")

    places = {label: folder / "costs" / slug(label) for label in asked.methods}
    tasks = [
        schedule.Task("measure", places[label], config, {}, vetted(config))
        for label, config in asked.methods.items()
        if not (places[label] / "cost.json").exists()
    ]
    if tasks:
        say(f"measuring what a step costs: {len(tasks)} methods, one after the other")
        schedule.carry_out(tasks, runtime_env, alone=True, ended=ended)
    costs = {label: cost.known(config, places[label]) for label, config in asked.methods.items()}
    for label, c in costs.items():
        say(
            f"{label}: {1000 * c.seconds:.3g} ms of a device and {c.passes:.1f} passes a step, {c.steps_per_epoch} steps an epoch"
        )
    return costs


def _points(asked: Frontier, costs: Mapping[str, Cost], folder: Path, say: Say) -> list[Point]:
    """Small budgets first, so that something can be seen soon; what is too small for one step is left out."""
    made = []
    for budget in sorted(asked.budgets):
        for label, config in asked.methods.items():
            steps = int(budget / costs[label].of(asked.unit))
            if steps < 1:
                say(
                    f"{label}: a step costs {costs[label].of(asked.unit):.3g} {asked.unit}, more than {budget:g}: left out"
                )
                continue
            made += [Point(label, budget, config.seed + i, steps) for i in range(asked.seeds)]
    if not made:
        raise UsageError(f"no budget holds a step of any method; give more: --budgets {max(asked.budgets) * 10:g}")
    return made


def _train(
    asked: Frontier,
    points: list[Point],
    costs: Mapping[str, Cost],
    folder: Path,
    runtime_env: dict[str, Any],
    say: Say,
) -> dict[str, str]:
    """Every run that has not ended; why some failed."""
    from sparring.cluster.frontier import schedule

    left = [p for p in points if not (folder / "runs" / p.name / work.RESULT).exists()]
    failed: dict[str, str] = {}
    count = len(points) - len(left)
    if left:
        say(f"{len(left)} runs to train and attack" + (f"; {count} are done" if count else ""))

    def ended(task: schedule.Task, why: str | None) -> None:
        nonlocal count
        count += 1
        found = work.result(task.folder)
        if why is not None:
            failed[task.folder.name] = why
        products = found["products"].values() if found else ()
        said = ", ".join(percent(p["robust"]) for p in products) or why
        say(f"{count} of {len(points)}: {task.folder.name} robust {said}")

    tasks = [
        schedule.Task(
            "train",
            folder / "runs" / p.name,
            fitted(asked.methods[p.label], p, costs[p.label].steps_per_epoch),
            {"attacks": list(asked.attacks), "examples": asked.examples},
            vetted(asked.methods[p.label]),
        )
        for p in left
    ]
    schedule.carry_out(tasks, runtime_env, alone=False, ended=ended)
    return failed


def _conclude(
    asked: Frontier,
    points: list[Point],
    costs: Mapping[str, Cost],
    failed: Mapping[str, str],
    teachers: list[dict[str, Any]],
    folder: Path,
) -> None:
    """Write frontier.json and frontier.html."""
    rows = []
    for label in asked.methods:
        for budget in sorted(asked.budgets):
            own = [p for p in points if (p.label, p.budget) == (label, budget)]
            if own:
                found = [work.result(folder / "runs" / p.name) for p in own]
                made = results.row(own, found, failed, costs[label].of(asked.unit))
                rows.append({**made, "epochs": own[0].steps / costs[label].steps_per_epoch})
    config = next(iter(asked.methods.values()))
    whole: dict[str, Any] = {
        "data": config.data.name,
        "threats": [str(threat) for threat in config.threats],
        "unit": asked.unit,
        "seeds": asked.seeds,
        "attacks": list(asked.attacks),
        "n": next((r["n"] for r in rows if "n" in r), 0),
        "costs": {label: {"seconds": c.seconds, "passes": c.passes, "n": c.n} for label, c in costs.items()},
        "rows": rows,
        "not_beaten": [{k: r[k] for k in ("method", "budget", "robust")} for r in results.not_beaten(rows)],
        "advice": results.advice(rows, asked.unit),
        "teachers": teachers,
    }
    write(folder / "frontier.json", to_json(whole))
    write(page.file(folder), page.page(folder.name, whole).encode())


def compared(
    methods: Mapping[str, RunConfig],
    budgets: Sequence[float],
    *,
    runs_dir: str | Path = "runs",
    name: str | None = None,
    resume: bool = False,
    quiet: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """:func:`frontier` of configurations by label; what the command answers.

    Args:
        how: ``unit``, ``seeds``, ``attacks``, ``examples`` of :class:`Frontier`.
    """
    say = (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr))
    chosen = configured(methods, Path(runs_dir), name)
    asked = Frontier(methods=chosen, budgets=tuple(map(float, budgets)), **how)
    return results.summary(frontier(asked, runs_dir=Path(runs_dir), name=name, resume=resume, say=say))


def configured(methods: Mapping[str, RunConfig], runs_dir: Path, name: str | None) -> dict[str, RunConfig]:
    """Configurations as their runs have them; from the Hub the commits of the frontier of this name, if there is one."""
    begun = place.begun(runs_dir, name)
    for config in methods.values():
        launch.check(config)
    return {label: resolved(with_commits(config, begun.get(label, {}))) for label, config in methods.items()}
