"""A network by its name (NET), the same wherever a network is meant.

RUN, RUN@AGENT, ensemble:RUN         a run's products, one of its agents (student, student.swa), all products as one
NAME[/VERSION], models/NAME[/VERSION]  a published model, by default its newest version
FILE.safetensors|.pt|.pth|...        weights, with what they are of beside it (--network)
FILE.py:function, timm:NAME[,...]    whatever the function returns; a network of timm's
hf:USER/NAME[@REVISION]              a published model in a repository of the Hugging Face Hub, or weights as timm writes them
s3://bucket/runs/RUN[@AGENT], s3://bucket/models/NAME[/VERSION]  a mirrored run or a published model in any place of ``pyarrow.fs``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sparring.agents import model_folder
from sparring.agents.hub_folder import PREFIX
from sparring.cluster.errors import UsageError
from sparring.cluster.models import hub
from sparring.cluster.models.elsewhere import is_elsewhere, of_elsewhere
from sparring.cluster.models.target import Elsewhere, Target, of_model, of_run
from sparring.cluster.models.trained import ENSEMBLE, Subject
from sparring.cluster.runs import places, remote
from sparring.cluster.runs.folder import RunFolder

MODELS, RUNS = Path("models"), Path("runs")
SHOWN = 8  # of what is there, when nothing has the name


def resolve(
    net: str, about: Elsewhere = Elsewhere(), *, agents: Sequence[str] = (), checkpoint: str = "best"
) -> Target:
    """What a name means.

    Args:
        net: as a user types it.
        about: of networks that are no run's: data set, architecture.
        agents: of a run, when others than the method's products are meant.
        checkpoint: of a run: best on the held-out images, or last.

    Raises:
        UsageError: nothing of that name (lists what is there), or something said of it that it brings itself.
        BrokenCheckpoint: weights that cannot be read or do not fit.
        Untrusted: a model from the Hub with code of its own that was not admitted.
        DataError: the data set of a network from elsewhere cannot be read.
        Infrastructure: a place that was named by its URI does not answer.
    """
    copied = copy_of(net)
    if copied != net:
        target = resolve(copied, about, agents=agents, checkpoint=checkpoint)
        note = f"{net} is read from its copy in {target.path}; what is evaluated is written there"
        return replace(target, notes=(note, *target.notes))
    if is_elsewhere(net):
        if agents:
            raise UsageError(f"{net} is one network: --agent {agents[0]} cannot be obeyed")
        return of_elsewhere(net, about)
    known = hub.meant(net) if net.startswith(PREFIX) else net
    if net.startswith(PREFIX) and not known.startswith(PREFIX):  # weights as timm writes them
        return resolve(known, about, agents=agents, checkpoint=checkpoint)
    version = hub.fetched(known) if net.startswith(PREFIX) else published(net)
    if version is not None:
        about.refuse(f"the published model {net}")
        return of_model(version, root=None if about.root is None else places.absolute(about.root))
    path, named = run_and_agents(net)
    if agents and named and not net.startswith("ensemble:"):
        raise UsageError(f"{net} names an agent, and --agent {agents[0]} another; leave one out")
    about.refuse(f"the run {path}")
    target = of_run(path, [*agents, *named], checkpoint=checkpoint)
    if about.root is None:
        return target
    return replace(target, data=replace(target.data, root=places.absolute(about.root)))


def single(
    net: str, about: Elsewhere = Elsewhere(), *, agent: str | None = None, checkpoint: str = "best"
) -> tuple[str, Subject, Target]:
    """The one network that a name means, its own name, and what it belongs to; errors as :func:`resolve`."""
    target = resolve(net, about, agents=[agent] if agent else [], checkpoint=checkpoint)
    name, subject = target.one(f" ({net}@AGENT)")
    return name, subject, target


def copy_of(net: str) -> str:
    """The same name with the local copy in the place of a URI; errors as :func:`remote.local`."""
    name = net.removeprefix("ensemble:")
    if places.uri_of(name) is None:
        return net
    return net.removesuffix(name) + remote.local(name)


def published(net: str) -> Path | None:
    """The version of a published model that a name means; None when it is none.

    Raises:
        UsageError: a run has the same name.
    """
    version = model_folder.resolve(Path(net))
    if version is not None:
        return version
    version = model_folder.resolve(MODELS / net)
    if version is not None and (RUNS / net / "config.yaml").is_file():
        raise UsageError(f"{net} is a model and a run; write {MODELS / net} or {RUNS / net}")
    return version


def run_and_agents(net: str) -> tuple[RunFolder, list[str]]:
    """The run that ``RUN``, ``RUN@AGENT`` or ``ensemble:RUN`` means, and the agents named.

    Raises:
        UsageError: nothing of that name; lists what is there.
    """
    path, wanted = net.removeprefix("ensemble:"), [ENSEMBLE] if net.startswith("ensemble:") else []
    if not _is_run(path) and "@" in path:
        path, _, agent = path.rpartition("@")
        wanted.append(agent)
    if not _is_run(path):
        raise UsageError(f"{net} is not a run, model or file of weights: {_there()}")
    return RunFolder.open(Path(path)), wanted


def _is_run(path: str) -> bool:
    return any((base / path / "config.yaml").is_file() for base in (Path(), RUNS))


def _there() -> str:
    """What a name could have meant here."""
    runs = [str(p.parent) for p in sorted(RUNS.glob("*/config.yaml"))]
    models = [str(p) for p in sorted(MODELS.glob("*")) if model_folder.resolve(p)]
    kinds = "RUN[@AGENT], NAME[/VERSION], FILE.safetensors with --network, FILE.py:function, timm:NAME, hf:USER/NAME, s3://..."
    found = [*models[:SHOWN], *runs[:SHOWN]]
    more = len(models) + len(runs) - len(found)
    listed = f"here are {', '.join(found)}{f' and {more} more' if more else ''}" if found else "here is no run or model"
    return f"{listed}. A network is {kinds}"
