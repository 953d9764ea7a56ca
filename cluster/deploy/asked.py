"""What is to be started, and where: held against what the place can say before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from sparring.cluster.errors import UsageError

Place = Literal["kuberay", "slurm", "compose", "cluster-launcher"]
What = Literal["train", "tune", "serve"]


@dataclass(frozen=True)
class Site:
    """What the place has. Where nothing is said a file says what it does in its folder."""

    image: str | None = None
    """Image of this project (kuberay, compose)."""
    nodes: int | None = None
    """Nodes that work (kuberay, slurm)."""
    gpus_per_node: int | None = None
    """GPUs of each; 0: none (kuberay, slurm, compose)."""
    gpu_kind: str | None = None
    """Kind of GPU: a type of Slurm's, such as a100; on Kubernetes the value of the node label nvidia.com/gpu.product."""
    claim: str | None = None
    """Name of the shared volume's claim (kuberay)."""
    shared: str | None = None
    """Folder that every node mounts (kuberay, slurm, cluster-launcher): runs/, data/ and models/ are looked for in it."""
    clone: str | None = None
    """This project with its .venv, where every node mounts it (slurm: default this one; cluster-launcher: default SHARED/sparring)."""
    hosts: str | None = None
    """Addresses with commas, the head first (cluster-launcher)."""
    ssh_user: str | None = None
    """Who logs in there (cluster-launcher)."""
    runs_dir: str | None = None
    """Folder of all runs: as the nodes see it; with compose, on this machine."""
    data_root: str | None = None
    """Folder of the images, likewise; also --data.root."""


@dataclass(frozen=True)
class Asked:
    """One call of ``sparring deploy``."""

    place: Place
    what: What
    name: str
    """Of the run, the search or the service."""
    words: tuple[str, ...] = ()
    """The recipe and its flags; of serve, its flags."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Of serve: arguments of the application that were given."""
    models_dir: str | None = None
    gpus_per_agent: float | None = None
    site: Site = Site()


CAN: dict[Place, tuple[What, ...]] = {
    "kuberay": ("train", "tune", "serve"),
    "slurm": ("train",),
    "compose": ("train", "serve"),
    "cluster-launcher": ("train",),
}
SAYS: dict[Place, tuple[str, ...]] = {
    "kuberay": ("image", "nodes", "gpus_per_node", "gpu_kind", "claim", "shared", "runs_dir", "data_root"),
    "slurm": ("nodes", "gpus_per_node", "gpu_kind", "shared", "clone", "runs_dir", "data_root"),
    "compose": ("image", "gpus_per_node", "runs_dir", "data_root"),
    "cluster-launcher": ("shared", "clone", "hosts", "ssh_user", "runs_dir", "data_root"),
}
LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
FORMS = {  # what stands in YAML or in a directive unquoted
    "image": (r"[\w][\w./:@-]*", "a name such as registry.example.org/sparring:1"),
    "gpu_kind": (r"[A-Za-z0-9][\w.-]*", "letters, digits, '.', '_' and '-'"),
    "claim": (rf"{LABEL}(\.{LABEL})*", "a name of Kubernetes: lower-case letters, digits and '-'"),
    "hosts": (r"[\w.:-]+(,[\w.:-]+)*", "addresses with commas, such as 10.0.0.1,10.0.0.2"),
    "ssh_user": (r"[\w][\w.-]*", "letters, digits, '.', '_' and '-'"),
}
PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)  # what no shell and no YAML reads as anything else


def check(asked: Asked, out: Path) -> None:
    """Refuse what the place cannot do or say.

    Raises:
        UsageError: names the flag, the value seen and what is allowed.
    """
    place, site = asked.place, asked.site
    if asked.what not in CAN[place]:
        raise UsageError(f"{place} has no file for {asked.what}; it has {', '.join(CAN[place])}")
    for f in fields(Site):
        value, flag = getattr(site, f.name), f"--{f.name.replace('_', '-')}"
        if value is None:
            continue
        if f.name not in _says(asked):
            raise UsageError(f"{flag} means nothing to {place} {asked.what}; it takes {_flags(_says(asked))}")
        form, allowed = FORMS.get(f.name, (None, ""))
        if form and not (re.fullmatch(form, value, re.ASCII) and (f.name == "gpu_kind" or _is_text(value))):
            raise UsageError(f"{flag} {value!r} is not allowed; expected {allowed}")
    if (site.nodes is not None and site.nodes < 1) or (site.gpus_per_node or 0) < 0:
        raise UsageError("--nodes must be 1 or more, --gpus-per-node 0 or more")
    _check_gpus(asked)
    _check_words([*asked.words, *(str(getattr(site, f.name)) for f in fields(Site)), str(asked.models_dir), str(out)])
    if place != "compose":
        _check_folders(asked)


def _is_text(value: str) -> bool:
    """Whether YAML reads it as itself: ``on`` is true and 12:30 a number."""
    return bool(yaml.safe_load(value) == value)


def _check_gpus(asked: Asked) -> None:
    said = {"kuberay": 1, "slurm": 4}.get(asked.place)  # in the files
    theirs = said if asked.site.gpus_per_node is None else asked.site.gpus_per_node
    if theirs is not None and (asked.gpus_per_agent or 0) > theirs:
        raise UsageError(
            f"an agent of {asked.gpus_per_agent:g} GPUs fits on no node of {theirs}; give nodes more (--gpus-per-node), or agents less "
            "(--placement.gpus-per-agent)"
        )


def _says(asked: Asked) -> tuple[str, ...]:
    if asked.what != "serve":
        return SAYS[asked.place]
    left_out = ("runs_dir", "data_root") if asked.place == "kuberay" else ("runs_dir", "data_root", "gpus_per_node")
    return tuple(name for name in SAYS[asked.place] if name not in left_out)


def _flags(names: Sequence[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        if not word.isprintable():
            raise UsageError(f"{word!r} has a character that no line of a file can hold")


def _check_folders(asked: Asked) -> None:
    """Folders of nodes: absolute; on Kubernetes below the one that is mounted, since nothing else outlives a pod."""
    site = asked.site
    given = {"shared": site.shared, "clone": site.clone, "runs-dir": site.runs_dir, "data-root": site.data_root}
    for flag, value in {**given, "models-dir": asked.models_dir}.items():
        if value is None:
            continue
        if not PurePosixPath(value).is_absolute():
            raise UsageError(f"--{flag} {value} must be absolute: it is a folder as the nodes see it")
        if asked.place in ("kuberay", "cluster-launcher") and not PLAIN.fullmatch(value):
            raise UsageError(
                f"--{flag} {value!r} is not allowed; {asked.place} takes letters, digits and @ % + = : , . / -"
            )
    mounted = site.shared or "/shared"
    for flag, value in (("runs-dir", site.runs_dir), ("models-dir", asked.models_dir)):
        if asked.place == "kuberay" and value and not PurePosixPath(value).is_relative_to(mounted):
            raise UsageError(
                f"--{flag} {value} must lie in {mounted}, which is what the pods mount; --shared names another"
            )


def label(name: str) -> str:
    """A name as Kubernetes and Compose take it: ``mat_A.1 -> mat-a-1``, short enough for what KubeRay hangs on it.

    Raises:
        UsageError: nothing is left of it.
    """
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    if not made or not made[0].isalpha():
        raise UsageError(f"--name {name} is not allowed; Kubernetes wants a letter first")
    return made if _is_text(made) else f"run-{made}"
