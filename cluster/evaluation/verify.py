"""Check a published evaluation without attacking: every witness must lie in ball and box and be misclassified.

What is compared: the report with the blocks (sha256 and numbers), the settings with weights and data (sha256), every row
with the test images, every flag with its witness.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.agents.checkpoint import sha256
from sparring.agents.robustness import judged, predicted
from sparring.cluster.errors import DataError, UsageError
from sparring.cluster.evaluation.attacking import Job, jobs_of, read_all
from sparring.cluster.evaluation.begun import examples_of
from sparring.cluster.evaluation.block import BROKEN, inside, read
from sparring.cluster.evaluation.direct import parse_attacks
from sparring.cluster.evaluation.results import summarise
from sparring.cluster.evaluation.subjects import check, pixels
from sparring.cluster.models.elsewhere import Recorded
from sparring.cluster.models.examples import load_test
from sparring.trainers.config import Threat
from sparring.trainers.data import Split


@dataclass
class Verdict:
    """What was checked and what is wrong."""

    witnesses: int = 0
    rows: int = 0
    alone: int = (
        0  # witnesses that are wrong in their block and right when judged by themselves: they lie on the boundary
    )
    problems: list[str] = field(default_factory=list)


def evaluation(path: Path, *, data: Split | None = None) -> Verdict:
    """Re-check the evaluation in folder ``path``.

    Args:
        data: its test images, when they are at hand; otherwise the run's are loaded.

    Raises:
        UsageError: not a finished evaluation.
    """
    verdict = Verdict()
    for name in ("settings.json", "report.json"):
        if not (path / name).is_file():
            raise UsageError(
                f"{path} is not a finished evaluation (it has no {name}); evaluate first: sparring evaluate RUN"
            )
    settings, report = (_document(path / name, verdict.problems) for name in ("settings.json", "report.json"))
    if verdict.problems:
        return verdict
    threats = [Threat(t.partition(":")[0], eps) for t, eps in zip(settings["threats"], settings["eps"], strict=True)]
    recorded = Recorded(path.parent.parent)
    split = data if data is not None else load_test(recorded.data, examples_of(path, settings))
    problems = verdict.problems
    if settings["n"] != len(split):
        problems.append(f"settings.json: n is {settings['n']}, its examples are {len(split)}")
        return verdict
    if split.sha256 != settings["data"]["sha256"]:
        problems.append(
            f"the test images are not those of the evaluation (sha256 of {settings['data']['name']} differs)"
        )
    if [str(t) for t in threats] != settings["threats"]:
        problems.append(f"settings.json: threats {settings['threats']} and eps {settings['eps']} differ")
    for key in ("seed", "block"):
        if report.get(key) != settings[key]:
            problems.append(f"report.json: {key} is {report.get(key)}, settings.json says {settings[key]}")
    attacks = parse_attacks(settings["attacks"], threats[0])
    jobs = jobs_of(path, list(settings["agents"]), threats, settings["n"], settings["block"])
    problems += _files(path, jobs, report)
    for agent, facts in settings["agents"].items():
        try:
            model = recorded.network(agent, facts)
        except (KeyError, TypeError, AttributeError):
            problems.append(f"settings.json: agents.{agent} is {facts!r:.60}; expected weights or members, and step")
            continue
        if model is None:
            problems.append(f"{agent}: no weights with the sha256 of the evaluation are in {path.parent.parent}")
            continue
        classes = check(model, split)
        own = [job for job in jobs if job.agent == agent]
        for job in own:
            problems += _rows(job, model, split, attacks, verdict)
        if not any(str(job.path.name) in p for job in own for p in problems):
            problems += _numbers(agent, own, threats, attacks, settings, report, classes)
    return verdict


LISTS, MAPPINGS, NUMBERS = ("attacks", "threats", "eps"), ("agents", "data"), ("format", "n", "seed", "block")
FORMS: dict[str, dict[str, type]] = {
    "settings.json": {**dict.fromkeys(LISTS, list), **dict.fromkeys(MAPPINGS, dict), **dict.fromkeys(NUMBERS, int)},
    "report.json": {"agents": dict, "blocks": dict},
}


def _document(path: Path, problems: list[str]) -> dict[str, Any]:
    """A JSON file of an evaluation; what of it has another form is a problem."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        problems.append(f"{path} cannot be read: {error}")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{path} holds a {type(found).__name__}; expected a mapping")
        return {}
    for key, kind in FORMS[path.name].items():
        if not isinstance(found.get(key), kind):
            problems.append(f"{path}: {key} is {found.get(key)!r:.60}; expected {kind.__name__}")
    problems += _of_one_form(path, found) if not problems else []
    return found


def _of_one_form(path: Path, found: dict[str, Any]) -> list[str]:
    """What is wrong with values whose types are right."""
    wrong = [f"{path}: agents.{a} is {v!r:.60}" for a, v in found["agents"].items() if not isinstance(v, dict)]
    if path.name == "report.json":
        return wrong
    wrong += [f"{path}: {key} = {found[key]} is not allowed; expected >= 1" for key in ("n", "block") if found[key] < 1]
    if not isinstance(found["data"].get("sha256"), str):
        wrong.append(f"{path}: data.sha256 is missing")
    try:
        for text, eps in zip(found["threats"], found["eps"], strict=True):
            Threat(text.partition(":")[0], eps)
        parse_attacks(found["attacks"], Threat.parse(found["threats"][0]))
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        wrong.append(f"{path}: attacks, threats and eps do not belong together: {error}")
    return wrong


def _files(path: Path, jobs: list[Job], report: dict[str, Any]) -> Iterator[str]:
    wanted = {str(job.path.relative_to(path)) for job in jobs}
    listed = report.get("blocks", {})
    for name in sorted(wanted | set(listed)):
        if name not in listed:
            yield f"report.json does not list block {name}"
        elif not (path / name).is_file():
            yield f"block {name} is missing"
        elif sha256(path / name) != listed[name]:
            yield f"block {name} is altered (its sha256 is not the one in report.json)"


def _rows(job: Job, model: nn.Module, split: Split, attacks: list[str], verdict: Verdict) -> list[str]:
    name = job.path.name
    try:
        table = read(job.path, rows=job.stop - job.start)
    except DataError as error:
        return [str(error)]
    x, y = pixels(split, job.start, job.stop)
    if table["index"].tolist() != list(range(job.start, job.stop)):
        return [f"{name}: rows {job.start} to {job.stop - 1} are expected, not each is there once"]
    verdict.rows += len(y)
    found = [
        f"{name}: row {job.start + i} has label {table['label'][i]}, the data {y[i]}"
        for i in _where(table["label"] != y)
    ]
    missing = [a for a in attacks if f"{BROKEN}{a}" not in table]
    if missing:
        return [*found, f"{name}: no column of attack {', '.join(missing)}"]
    with judged(model), torch.no_grad():
        clean = predicted(model, x)
    for i in _where(clean != table["clean_prediction"]):
        found.append(
            f"{name}: row {job.start + i} has clean prediction {table['clean_prediction'][i]}, the network says {clean[i]}"
        )
    broken = (
        torch.stack([table[f"{BROKEN}{a}"] for a in attacks]).any(0)
        if attacks
        else torch.zeros(len(y), dtype=torch.bool)
    )
    has = torch.tensor([w is not None for w in table["witness"]])
    for i in _where(broken & ~has):
        found.append(f"{name}: row {job.start + i} is called broken and has no witness")
    for i in _where(has & ~broken):
        found.append(f"{name}: row {job.start + i} is called robust and has a witness")
    for i in _where(broken & (clean != y)):
        found.append(f"{name}: row {job.start + i} is wrong when clean and called broken by an attack")
    return found + _witnesses(job, model, x, y, table, has, verdict)


def _witnesses(
    job: Job, model: nn.Module, x: Tensor, y: Tensor, table: dict[str, Any], has: Tensor, verdict: Verdict
) -> list[str]:
    adv, found = x.clone(), []
    for i in _where(has):
        kind, raw = table["witness_type"][i], table["witness"][i]
        size = x[i].numel() * (1 if kind == "uint8" else 4)
        if kind not in ("uint8", "float32") or len(raw) != size:
            found.append(f"{job.path.name}: the witness of row {job.start + i} is not {size} bytes of {kind}")
            has[i] = False
            continue
        values = torch.frombuffer(bytearray(raw), dtype=getattr(torch, kind)).view_as(x[i])
        adv[i] = values / 255 if kind == "uint8" else values
        by = table["witness_attack"][i]
        if f"{BROKEN}{by}" not in table or not table[f"{BROKEN}{by}"][i]:
            found.append(f"{job.path.name}: row {job.start + i} has a witness of {by}, which is not said to break it")
    verdict.witnesses += int(has.sum())
    with judged(model), torch.no_grad():
        wrong = predicted(model, adv) != y
        verdict.alone += sum(int(predicted(model, adv[i : i + 1])) == int(y[i]) for i in _where(has & wrong))
    near = inside(adv, x, job.threat)
    of_row = f"{job.path.name}: the witness of row"
    found += [f"{of_row} {job.start + i} is not within {job.threat} and the box [0, 1]" for i in _where(has & ~near)]
    found += [f"{of_row} {job.start + i} is classified correctly" for i in _where(has & near & ~wrong)]
    return found


def _numbers(
    agent: str,
    jobs: list[Job],
    threats: list[Threat],
    attacks: list[str],
    settings: dict[str, Any],
    report: dict[str, Any],
    classes: int,
) -> list[str]:
    """Whether the report's numbers are those of the rows."""
    columns = {str(t): read_all([j for j in jobs if j.threat == t]) for t in threats}
    result = summarise(columns, attacks=attacks, with_clean="clean" in settings["attacks"], classes=classes)
    said = report["agents"].get(agent)
    if said is None:
        return [f"report.json has no entry of {agent}"]
    computed = json.loads(json.dumps(result.to_dict()))
    return [
        f"report.json: {key} of {agent} is {said.get(key)!r}, the rows give {value!r}"
        for key, value in computed.items()
        if key not in ("flags", "notes") and said.get(key) != value  # flags need attacks of their own; notes are words
    ]


def _where(mask: Tensor) -> list[int]:
    found: list[int] = mask.nonzero().flatten().tolist()
    return found
