"""``sparring deploy``: files with which a run, a search or a service starts elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from sparring.cluster.commands.asking import Verb, asked, begun, searched
from sparring.cluster.commands.output import Out, Output, answer
from sparring.cluster.commands.serve import Serving
from sparring.cluster.commands.training import Train, Tune, search_of
from sparring.cluster.deploy import files
from sparring.cluster.deploy.asked import Asked, Place, Site, What
from sparring.cluster.errors import UsageError
from sparring.cluster.serving import options

if TYPE_CHECKING:
    from sparring.cluster.config.run_config import RunConfig

ABOUT = (
    "Write deploy files, filled in: sparring deploy PLACE [tune|serve] RECIPE|RUN|-c FILE. Further flags are those of 'sparring train', "
    "'tune' or 'serve'; they are checked now."
)
ELSEWHERE = ("models", "host", "port", "grpc_port", "token_file", "host_by", "address", "yaml")  # the files say these
SEVERAL = ("predictors", "max_predictors", "idle", "gpus")  # of Ray Serve; with Compose the service is one process


@dataclass(frozen=True)
class Deploy:
    """Write deploy files, filled in."""

    place: Positional[Place]
    """Kubernetes by KubeRay, Slurm, Docker Compose on one machine, or machines of your own by Ray's launcher."""
    name: str | None = None
    """Of the run, the search or the service; default the recipe's, or sparring."""
    out: Path = Path("deploy")
    """Folder for the files, none of which is overwritten."""
    site: Annotated[Site, arg(name="")] = field(default_factory=Site)
    output: Out = field(default_factory=Output)


def deploy(argv: Sequence[str]) -> None:
    """Write deploy files for a run, a search or a service: kuberay, slurm, compose, cluster-launcher."""
    import tyro

    taken, rest = _taken(argv)
    prog = "sparring deploy PLACE [tune|serve] RECIPE|RUN|-c FILE"
    if {"-h", "--help"} & set(argv):
        taken, rest = ["--help"], []
    command = tyro.cli(Deploy, args=[*rest[:1], *taken], prog=prog, description=ABOUT)
    what, words = _what(rest[1:])
    wanted = Asked(command.place, what, command.name or "sparring", tuple(words), site=command.site)
    wanted = _service(wanted) if what == "serve" else _run(wanted, named=command.name is not None)
    answer(command.output, files.write(wanted, command.out), files.show)


def _taken(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of this command, and the rest, in which those of another stand."""
    values = {f"--{f.name.replace('_', '-')}" for f in (*fields(Deploy), *fields(Site))}
    switches = {f"--{f.name}" for f in fields(Output)}
    own: list[str] = []
    rest: list[str] = []
    args = iter(argv)
    for a in args:
        flag, equals, value = a.partition("=")
        flag = "--data-root" if flag == "--data.root" else flag.replace("_", "-")
        if flag in values:
            own += [flag, value if equals else next(args, "")]
        elif flag in switches:
            own.append(flag)
        else:
            rest.append(a)
    return own, rest


def _what(rest: Sequence[str]) -> tuple[What, list[str]]:
    """``tune mat`` -> tune, what follows; a recipe alone is to be trained."""
    first = rest[0] if rest else ""
    if first in ("tune", "serve", "train"):
        return first, list(rest[1:])  # type: ignore[return-value]  # one of these
    return "train", list(rest)


def _run(wanted: Asked, *, named: bool) -> Asked:
    """With its words checked as the command itself will check them, and a name where none was given."""
    from sparring.cluster.runs.folder import NAME

    verb = f"deploy {wanted.place}" + (" tune" if wanted.what == "tune" else "")
    if not wanted.words:
        raise UsageError(f"{verb} needs a recipe, a run's folder or -c FILE: sparring {verb} mat-cifar10-resnet18")
    words, folder = _in_full(wanted.words, verb)
    chosen = _searched(words, verb) if wanted.what == "tune" else _trained(words, verb)
    if chosen.address is not None:
        raise UsageError("--address means nothing to deploy: the files say which cluster it is")
    name = wanted.name if named else (folder or chosen.label) + ("-search" if wanted.what == "tune" else "")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"--name {name!r} is not allowed; use letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return replace(wanted, words=tuple(words), name=name, gpus_per_agent=chosen.placement.gpus_per_agent)


def _in_full(words: Sequence[str], verb: str) -> tuple[list[str], str | None]:
    """A run's folder or a file as a recipe and flags, since nodes may have neither; a recipe as it is. And the folder's name."""
    from sparring.cluster.deploy import again
    from sparring.cluster.runs.folder import RunFolder

    if words[0] in ("-c", "--config"):
        start = begun(words, verb)
        assert start is not None
        config, named, flags, folder = start.recipe, words[1], words[2:], None
    elif (Path(words[0]) / "config.yaml").is_file() or ("/" in words[0] and ".py" not in words[0]):
        config, named, flags = RunFolder.open(Path(words[0])).config, words[0], words[1:]
        folder = Path(words[0]).absolute().name
    else:
        return list(words), None
    made = again.words(config, named)
    if asked(made, Train, Verb(verb, "", example="mat"))[1].sha256 != config.sha256:
        raise UsageError(
            f"{named} has settings that no flag says; name its recipe and its flags instead: {shlex.join(made)}"
        )
    return [*made, *flags], folder


def _trained(words: Sequence[str], verb: str) -> RunConfig:
    """What ``train`` makes of the words."""
    from sparring.cluster.training import launch

    command, chosen = asked(words, Train, Verb(verb, "", example="mat"))
    if command.dry_run:
        raise UsageError("--dry-run trains nothing: sparring train RECIPE --dry-run shows the plan here")
    launch.check(_with_teachers_to_come(chosen, command))
    return chosen


def _searched(words: Sequence[str], verb: str) -> RunConfig:
    """What ``tune`` makes of the words."""
    from sparring.cluster.search import search

    spaces, rest = searched(words)
    command, chosen = asked(rest, Tune, Verb(verb, "", example="mat"))
    search.check(search_of(command, _with_teachers_to_come(chosen, command), spaces))
    return chosen


def _with_teachers_to_come(config: RunConfig, command: Train | Tune) -> RunConfig:
    """As it will be once the teachers that it lacks were trained there, where that is wanted; only good for being checked."""
    from sparring.cluster.training import on_demand

    lacking = on_demand.missing(config) if command.train_teachers else {}
    return config.replace({f"agents.{role}.init": name for role, name in lacking.items()})


def _service(wanted: Asked) -> Asked:
    """With its flags checked as ``serve`` will check them, and as arguments of the application."""
    import tyro

    command = tyro.cli(Serving, args=list(wanted.words), prog=f"sparring deploy {wanted.place} serve")
    plain, one_process = Serving(), wanted.place == "compose"
    given = {f.name for f in fields(Serving) if getattr(command, f.name) != getattr(plain, f.name)}
    refused = given & {*ELSEWHERE, *(SEVERAL if one_process else ())}
    if refused:
        flags = ", ".join(sorted("NAME=NET" if name == "models" else f"--{name.replace('_', '-')}" for name in refused))
        raise UsageError(
            f"deploy {wanted.place} serve takes no {flags}: the files say that; models come from --models-dir"
        )
    args: dict[str, Any] = {name: getattr(command, name) for name in (*options.PASSED, "demo") if name in given}
    if "timeout" in given:
        args["limits"] = {"seconds": command.timeout}
    options.check(args, options.Where())
    models = None if command.models_dir is None else str(command.models_dir)
    return replace(wanted, words=tuple(_without(wanted.words, "--models-dir")), args=args, models_dir=models)


def _without(words: Sequence[str], flag: str) -> list[str]:
    """Flags less one and its value."""
    kept: list[str] = []
    args = iter(words)
    for word in args:
        name, equals, _ = word.partition("=")
        if name.replace("_", "-") != flag:
            kept.append(word)
        elif not equals:
            next(args, None)
    return kept
