"""What ``sparring serve`` serves: named networks and folders of published models, as the application's arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.agents import model_folder
from sparring.cluster.errors import UsageError
from sparring.cluster.models import card
from sparring.cluster.models.resolve import copy_of, published, single
from sparring.cluster.terminal import HOME
from sparring.trainers import trusting
from sparring.trainers.config import DataConfig

EXAMPLES = HOME / "serve" / "demo"  # a robust and a plain network
PLAIN = "digits-plain"


def settings(
    models: Sequence[str],
    models_dir: Path | None,
    *,
    demo: bool,
    token_file: Path | None,
    elsewhere: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of the application.

    Args:
        models: NAME=NET, any name of a network.
        elsewhere: replicas run on other machines too.

    Raises:
        UsageError: not NAME=NET, a folder that is no published model, no model at all.
    """
    named: dict[str, str] = {}
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"{text!r} is not NAME=NET; for example: sparring serve robust=models/robust")
        try:
            model_folder.check_name(name)
        except ValueError as error:
            raise UsageError(str(error)) from error
        named[name] = str(_model(name, path, elsewhere=elsewhere))
    if not models and models_dir is None:
        models_dir = EXAMPLES if demo and not _any(Path("models")) else Path("models")
    if models_dir is not None and not _any(models_dir):
        raise UsageError(
            f"no published model in {models_dir}; publish one (sparring publish RUN --as NAME), name one "
            "(sparring serve NAME=models/NAME), or look at two that come along: sparring serve --demo"
        )
    if demo and models_dir != EXAMPLES and PLAIN not in named and not (models_dir and (models_dir / PLAIN).exists()):
        named[PLAIN] = str(EXAMPLES / PLAIN)  # for the page to compare with
    made: dict[str, Any] = {"demo": demo, **{k: v for k, v in options.items() if v is not None}}
    if named:
        made["models"] = named
    if models_dir is not None:
        made["models_dir"] = str(models_dir.resolve())
    if token_file is not None:
        made["token_file"] = str(token_file.resolve())
    own = {code.sha256 for code in card.kept_code(named.values(), made.get("models_dir")) if trusting.may_run(code)}
    if own:
        made["own_code"] = sorted(own)  # a replica may run where nobody knows what is the user's
    return made


def names(settings: Mapping[str, Any], *, say: Callable[[str], None]) -> tuple[str, ...]:
    """Of the models that are there; those whose names no service takes are said."""
    folder = Path(settings["models_dir"]) if "models_dir" in settings else None
    found = [p.name for p in folder.iterdir() if model_folder.resolve(p)] if folder else []
    for name in sorted(found):
        if not model_folder.NAME.fullmatch(name):
            say(f"{folder}/{name} is not served: a model's name has the form {model_folder.NAME.pattern}")
    return tuple(sorted({*settings.get("models", {}), *filter(model_folder.NAME.fullmatch, found)}))


def _any(folder: Path) -> bool:
    return folder.is_dir() and any(model_folder.resolve(p) for p in folder.iterdir() if p.is_dir())


def _model(name: str, net: str, *, elsewhere: bool) -> Path:
    """The folder of a published model; any other network is published into the cache, under what its weights are.

    Args:
        elsewhere: replicas run where this machine's cache is not.
    """
    copied = copy_of(net)
    if elsewhere and copied != net:
        raise UsageError(
            f"{net} would be served from this machine's cache; a cluster serves what every node sees: sparring publish {net} --as {name}"
        )
    net = copied
    if model_folder.resolve(Path(net)) is not None:
        return Path(net).resolve()  # models/NAME: its newest version, also when that changes
    version = published(net)
    if version is not None:
        return version.resolve()
    if elsewhere:
        raise UsageError(
            f"{net} is not published; a cluster serves what every node sees: sparring publish {net} --as {name}"
        )
    agent, subject, target = single(net)
    content = hashlib.sha256(repr((subject.record, name)).encode()).hexdigest()[:16]
    folder = Path(DataConfig().cache).expanduser() / "served" / content
    known = model_folder.resolve(folder / name)
    return known or card.publish(agent, subject, target, name=name, models_dir=folder)
