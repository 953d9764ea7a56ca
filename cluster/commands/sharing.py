"""The commands that hand trained networks on: publish, export, and push and pull of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from sparring.cluster.commands.evaluation import Elsewhere
from sparring.cluster.commands.output import Out, Output, answer, say


@dataclass(frozen=True)
class Cascade:
    """Two networks as one: NET answers where it is sure, else a larger one."""

    large: str | None = None
    """Network, by any name that NET may have, that answers where the margin of NET is narrow."""
    width: float | None = None
    """From 0 to 1: NET answers where its two most probable classes differ by so much in probability. Default: 0.5."""


@dataclass(frozen=True)
class Place:
    """Where a model goes, and what its card says of its use."""

    models_dir: Path = Path("models")
    """Folder of all models."""
    license: str | None = None
    """Of the weights, for the card: apache-2.0, cc-by-4.0, ... Default: not stated."""


def publish(
    net: Positional[str],
    *,
    name: Annotated[str, arg(name="as")],
    agent: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    cascade: Annotated[Cascade, arg(name="")] = Cascade(),
    place: Annotated[Place, arg(name="")] = Place(),
    elsewhere: Annotated[Elsewhere, arg(name="")] = Elsewhere(),
    output: Out = Output(),
) -> None:
    """Copy a network with its card into models/NAME/VERSION, which never changes.

    Args:
        net: RUN or RUN@AGENT, by URI too (s3://bucket/runs/RUN@AGENT); a network from elsewhere (FILE.py:function, timm:NAME, a file of weights with --network) gets a card too.
        name: Of the model: lower-case letters, digits, '.', '_' and '-'.
        agent: Role, where the method has several products; ensemble: all of them as one network.
        checkpoint: Of a run: best on the held-out images, or last.
        cascade: Two networks as one.
        place: Where it goes, and what its card says of its use.
        elsewhere: Of a network from elsewhere.
    """
    from sparring.agents import model_folder
    from sparring.cluster.models import card
    from sparring.cluster.models.elsewhere import is_elsewhere
    from sparring.cluster.models.resolve import single
    from sparring.cluster.models.target import Elsewhere as About

    about, other = elsewhere.about(), cascade.large
    found = single(
        net,
        about if is_elsewhere(net) or not is_elsewhere(other or "") else About(),
        agent=agent,
        checkpoint=checkpoint,
    )
    for line in found[2].notes:
        say(output)(line)
    large = single(other, about if is_elsewhere(other) else About(), checkpoint=checkpoint) if other else None
    more = {"large": large, "width": cascade.width, "license": place.license}
    version = card.publish(*found, name=name, models_dir=place.models_dir, **more)  # type: ignore[arg-type]
    answer(output, {"model": str(version), "card": model_folder.card(version)}, card.show)


def export(
    net: Positional[str],
    *,
    to: Literal["safetensors", "robustbench", "onnx", "onnx-int8", "torchexport"] = "safetensors",
    agent: str | None = None,
    evaluation: str | None = None,
    out: Path | None = None,
    elsewhere: Annotated[Elsewhere, arg(name="")] = Elsewhere(),
    output: Out = Output(),
) -> None:
    """Write a trained network for use elsewhere.

    Args:
        net: RUN or RUN@AGENT, NAME[/VERSION] in models/, FILE.py:function, timm:NAME, or a file of weights with --network; URIs.
        to: safetensors: weights and how to build the network. robustbench: also the zoo's entry and code. onnx, onnx-int8, torchexport:
            a program that runs without Sparring, checked on 256 test images and under attack.
        agent: Role; needed when the run has several products.
        evaluation: For robustbench, the evaluation with AutoAttack. Default: the newest that has it.
        out: New folder. Default: export/RUN-AGENT, or export/NAME.
        elsewhere: Of a network from elsewhere.
    """
    from sparring.cluster.models.resolve import single
    from sparring.cluster.sharing import export as implementation

    name, _, target = single(net, elsewhere.about(), agent=agent)
    result = implementation.export(target, name, to=to, evaluation=evaluation, out=out)
    answer(output, result, implementation.show)


@dataclass(frozen=True)
class Repository:
    """Where a network goes, and what is said of it there."""

    private: bool = False
    """Only you see a repository that is made; one that is there stays as it is."""
    revision: str | None = None
    """Branch, which is made where there is none. Default: main."""
    message: str | None = None
    """Of the commit. Default: what is pushed, and the sha256 of its weights."""
    license: str | None = None
    """Of the weights, as the Hub writes it: mit, apache-2.0, cc-by-4.0, ... Default: none is stated, and the page says so."""


def push(
    net: Positional[str],
    to: Positional[str],
    *,
    agent: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    repository: Annotated[Repository, arg(name="")] = Repository(),
    elsewhere: Annotated[Elsewhere, arg(name="")] = Elsewhere(),
    output: Out = Output(),
) -> None:
    """Publish a network in a repository of the Hugging Face Hub, with a page that says what it is.

    Args:
        net: A published model, NAME[/VERSION]; any other network is published first.
        to: hf:USER/NAME. The token is that of 'hf auth login'.
        agent: Role, where the method has several products; ensemble: all of them as one network.
        checkpoint: Of a run: best on the held-out images, or last.
        repository: Where it goes.
        elsewhere: Of a network from elsewhere.
    """
    from sparring.cluster.sharing import push as implementation

    asked = implementation.Asked(**vars(repository))
    found = implementation.Network(net, elsewhere.about(), agent, checkpoint)
    answer(output, implementation.push(found, to, asked), implementation.show)


def pull(
    net: Positional[str],
    *,
    name: Annotated[str | None, arg(name="as")] = None,
    models_dir: Path = Path("models"),
    output: Out = Output(),
) -> None:
    """Bring a published model from the Hugging Face Hub into models/NAME/VERSION; every file is checked before it appears.

    Args:
        net: hf:USER/NAME, or hf:USER/NAME@REVISION.
        name: Of the model here. Default: the repository's.
        models_dir: Folder of all models.
    """
    from sparring.agents import model_folder
    from sparring.cluster.models import card, hub

    version = hub.pull(net, name or hub.name_of(net), models_dir)
    answer(output, {"model": str(version), "card": model_folder.card(version)}, card.show)
