"""A trained network for elsewhere, as a new folder: plain safetensors, an entry for RobustBench's model zoo, or a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn

from sparring.agents.checkpoint import save_model, sha256, to_json, write
from sparring.agents.ensemble import members_of
from sparring.agents.networks import Network, NetworkConfig
from sparring.cluster.errors import DataError, Exists, UsageError
from sparring.cluster.models.examples import chosen
from sparring.cluster.models.target import Target
from sparring.cluster.models.trained import Subject, weights_file
from sparring.cluster.sharing import programs, robustbench
from sparring.cluster.sharing.checked import IMAGES, checked
from sparring.trainers import datasets
from sparring.trainers.config import Threat

Form = Literal["safetensors", "robustbench", "onnx", "onnx-int8", "torchexport"]
THREAT = Threat("linf", 8 / 255)  # of a check, where a network brings none


def export(
    target: Target, name: str, *, to: Form, evaluation: str | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Write a new folder.

    Args:
        target, name: what a NET means, and which of its networks.
        to: ``safetensors``: weights and how to build the network; ``robustbench``: these and the zoo's JSON and code; else a program
            (``programs.py``) with what was seen when it was run beside the network, ``check.json``.
        evaluation: for robustbench, the evaluation with AutoAttack; the newest that has it when None.
        out: the folder; default ``export/RUN-AGENT``, or ``export/NAME`` of a network that is no run's.

    Returns:
        ``folder``, ``agent``, ``step``, ``sha256`` of the weights or the program, ``files``, and of a program ``check``.

    Raises:
        UsageError: several networks as one where one is needed, no evaluation with AutoAttack, a network that cannot be followed.
        DataError: the images that a program is checked on cannot be read.
        SparringError: the program answers otherwise than the network.
        Exists: the folder is there.
    """
    subject = target.subjects[name]
    owner = target.path.name if target.run else name
    place = out or Path("export") / (f"{owner}-{name}" if target.run else name)
    if place.exists():
        raise Exists(f"{place} exists and is never overwritten; choose another --out")
    if to == "safetensors" or to == "robustbench":
        made = _weights(target, name, to == "robustbench", evaluation, place)
    else:
        made = _program(target, subject.model, to, place)
    return {"folder": str(place), "agent": name, "step": subject.record["step"], **made}


def _weights(target: Target, name: str, zoo: bool, evaluation: str | None, place: Path) -> dict[str, Any]:
    subject = target.subjects[name]
    model = subject.model
    if not isinstance(model, Network):
        raise UsageError(f"{name} of {target.path} is several networks as one; export them one by one, or --to onnx")
    entry = robustbench.entry(target, name, model.config.spec, evaluation) if zoo else None
    _make(place)
    saved = save_model(model, place)
    _keep_bytes(subject, place)
    files = {"network.json": to_json(model.config.to_json())}
    if entry is not None:
        code = robustbench.snippet(entry, model.config.spec).encode()
        files |= {f"{entry['name']}.json": to_json(entry), "zoo.py": code}
    for file, value in files.items():
        write(place / file, value)
    return {"sha256": sha256(place / "model.safetensors"), "files": sorted({*files, *saved})}


def _keep_bytes(subject: Subject, place: Path) -> None:
    """The very file, as it was evaluated."""
    if subject.folder is not None and subject.folder.suffix != ".safetensors":
        write(place / "model.safetensors", weights_file(subject.folder).read_bytes())


def _program(target: Target, model: nn.Module, kind: programs.Kind, place: Path) -> dict[str, Any]:
    programs.check_installed(kind)
    members, width = members_of(model)
    if width is not None:
        raise UsageError(
            f"{target.path} is a cascade, whose two ways no program of this kind holds; export its networks"
        )
    configs: list[NetworkConfig] = [m.config for m in members]  # type: ignore[misc]  # all are networks of ours
    first = configs[0]
    try:
        dataset = datasets.load(target.data)
    except (ValueError, OSError) as error:
        raise DataError(f"a program is checked on test images: {error}") from error
    train = chosen(dataset.train, min(IMAGES, len(dataset.train)))
    shape = (first.channels, first.height, first.width)
    content = programs.program(kind, model, shape, train.pixels().numpy() if kind == "onnx-int8" else None)
    test = chosen(dataset.test, min(IMAGES, len(dataset.test)))
    threat = target.threats[0] if target.threats else THREAT
    runs = programs.runner(kind, content)
    seen = checked(model, runs, test.pixels(), test.all_labels(), threat=threat, exact=kind != "onnx-int8")
    about = {"networks": [c.to_json() for c in configs], "input": programs.INPUT, "output": programs.OUTPUT}
    files = {
        programs.FILES[kind]: content,
        "network.json": to_json({**about, "classes": list(dataset.classes)}),
        "check.json": to_json(seen.to_json()),
    }
    _make(place)
    for file, value in files.items():
        write(place / file, value)
    return {"sha256": sha256(place / programs.FILES[kind]), "files": sorted(files), "check": seen.to_json()}


def _make(place: Path) -> None:
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        raise Exists(f"{place} exists and is never overwritten; choose another --out") from None


def show(result: dict[str, Any]) -> None:
    """Where it is, and what was seen of a program."""
    print(f"{result['folder']}: {', '.join(result['files'])} ({result['agent']}, step {result['step']})")
    if "check" not in result:
        return
    seen = result["check"]
    print(
        f"run on {seen['images']} test images: logits at most {seen['largest_difference']:.2g} from the network's, "
        f"{100 * seen['same_class']:.1f} % the same class"
    )
    print(
        f"{seen['attack']} on the network breaks {seen['broken']} of them; {seen['also_broken']} of these also fool what was exported"
    )
