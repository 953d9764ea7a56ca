"""Machines without Kubernetes: Slurm's, one with Docker Compose, some of one's own by Ray's launcher."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from sparring.cluster.deploy.asked import Asked, label
from sparring.cluster.deploy.filling import command, entrypoint, filled, paths, replaced, scalar, static, wrapped
from sparring.cluster.terminal import HOME

SRUN = r"^    python -m sparring\.cluster train ((?:.*\\\n)*.* &)$"
SUBMITTED = r"^#       -m sparring\.cluster train (.*)$"
LISTED = r"^    command: (\[.*\])$"


def slurm(asked: Asked, out: Path) -> dict[str, str]:
    """A batch script."""
    text, site = static("train.sbatch"), asked.site
    defaults = {
        "CLONE": ("$SLURM_SUBMIT_DIR", site.clone or str(HOME)),
        "VENV": (".venv", None if site.clone else _environment()),
        "SHARED": ("$HOME/sparring", site.shared),
        "RUNS": ("$SHARED/runs", site.runs_dir),
        "DATA": ("$SHARED/data", site.data_root),
    }
    changes = {
        f"{name}=${{{name}:-{before}}}": f"{name}=${{{name}:-{shlex.quote(value)}}}"
        for name, (before, value) in defaults.items()
        if value is not None
    }
    changes |= {
        "--job-name=sparring": f"--job-name={asked.name}",
        "$RUNS/mat-cifar10/": f"$RUNS/{asked.name}/",
        "# from the clone; --partition": "# --partition",
    }
    if site.nodes:
        changes["--nodes=2"] = f"--nodes={site.nodes}"
    if site.gpus_per_node == 0:
        changes["#SBATCH --gpus-per-node=4\n"] = ""
    elif site.gpus_per_node or site.gpu_kind:
        kind = f"{site.gpu_kind}:" if site.gpu_kind else ""
        changes["--gpus-per-node=4"] = f"--gpus-per-node={kind}{site.gpus_per_node or 4}"

    def line(found: re.Match[str]) -> str:
        theirs = shlex.split(found[1].replace("\\\n", " "), posix=False)  # "$RUNS" keeps its quotes
        words = command(theirs, [shlex.quote(word) for word in asked.words], {"--name": asked.name})
        return wrapped(["python", "-m", "sparring.cluster", "train", *words], "    ", " \\")

    return {"train.sbatch": replaced(filled(text, {**changes, **paths(text, out)}), SRUN, line)}


def _environment() -> str | None:
    """The environment in which this runs, where it is one that a shell can enter."""
    return sys.prefix if (Path(sys.prefix) / "bin" / "activate").is_file() else None


def compose(asked: Asked, out: Path) -> dict[str, str]:
    """A compose file, of a service with its proxy's."""
    name, site = f"compose-{asked.what}.yaml", asked.site
    text, folders = static(name), _folders(asked)
    changes = {f"source: ./{kind}": f"source: {_escaped(folder)}" for kind, folder in folders.items()}
    if os.getuid() != 0:  # root's folders are given to the image's user, see _given
        changes['user: "1000:1000"'] = f'user: "{os.getuid()}:{os.getgid()}"'
    head = {f"cluster/deploy/{kind}": shlex.quote(folder) for kind, folder in folders.items()}
    beside = {f"folder {kind}/ beside this file": f"folder {folder}" for kind, folder in folders.items()}
    beside["folders runs/ and data/ beside this file"] = f"folders {' and '.join(folders.values())}"
    changes |= {
        old: new for old, new in {**paths(text, out), **head, **beside, **_given(folders, out)}.items() if old in text
    }
    changes["name: sparring-train\n" if asked.what == "train" else "name: sparring\n"] = f"name: {label(asked.name)}\n"
    if site.image:
        changes["sparring:latest"] = site.image
    if site.gpus_per_node:
        changes["count: all"] = f"count: {site.gpus_per_node}"
    text = filled(text, changes)
    if site.gpus_per_node == 0:
        text = text[: text.index("    deploy:\n")]
    text = replaced(text, LISTED, lambda found: f"    command: {_listed(found[1], asked)}")
    return {name: text, "nginx.conf": static("nginx.conf")} if asked.what == "serve" else {name: text}


def _folders(asked: Asked) -> dict[str, str]:
    """Folders of this machine, those that the command itself would take here where nothing is said."""
    site = asked.site
    if asked.what == "serve":
        return {"models": _here(asked.models_dir or "models")}
    return {"runs": _here(site.runs_dir or "runs"), "data": _here(site.data_root or "data")}


def _given(folders: Mapping[str, str], out: Path) -> dict[str, str]:
    """Where root writes the files: what the container's user must read or write becomes that user's."""
    if os.getuid() != 0:
        return {}
    token, runs, data = (shlex.quote(f) for f in (str(out / "token"), folders.get("runs", ""), folders.get("data", "")))
    return {
        "openssl rand -hex 32 > cluster/deploy/token)": f"openssl rand -hex 32 > {token}) && chown 1000:1000 {token}",
        "mkdir -p cluster/deploy/runs cluster/deploy/data": f"mkdir -p {runs} {data} && chown 1000:1000 {runs}",
    }


def _here(folder: str) -> str:
    return str(Path(folder).expanduser().absolute())


def _listed(theirs: str, asked: Asked) -> str:
    """A command as a list: the file's, with our recipe and flags."""
    sparring, verb, *rest = yaml.safe_load(theirs)
    theirs_first = ["", *rest] if asked.what == "serve" else rest  # a service has no recipe
    words = command(theirs_first, asked.words, {"--name": asked.name})
    return f"[{', '.join([sparring, verb, *map(_escaped, words)])}]"


def _escaped(value: str) -> str:
    """A text of a compose file, in which a dollar begins a variable."""
    return scalar(value.replace("$", "$$"))


def launcher(asked: Asked, out: Path) -> dict[str, str]:
    """A file of ``ray up``, and the job to submit."""
    text, site = static("cluster.yaml"), asked.site
    shared = site.shared or "/shared"
    values = {
        "--name": asked.name,
        "--runs-dir": site.runs_dir or f"{shared}/runs",
        "--data.root": site.data_root or f"{shared}/data",
    }
    changes = {
        "cluster_name: sparring": f"cluster_name: {label(asked.name)}",
        "/shared/sparring": site.clone or f"{shared}/sparring",
        "# Token: file_mounts brings yours to every machine. /shared is": f"# Token: file_mounts brings yours to every machine. {shared} is",
        "--working-dir . ": f"--working-dir {shlex.quote(str(HOME))} ",
    }
    head, *workers = (site.hosts or "10.0.0.1,10.0.0.2,10.0.0.3").split(",")
    user = site.ssh_user or "ubuntu"
    changes |= {"ubuntu@10.0.0.1": f"{user}@{head}", "ssh_user: ubuntu": f"ssh_user: {scalar(user)}"}
    changes |= {
        "head_ip: 10.0.0.1": f"head_ip: {scalar(head)}",
        "worker_ips: [10.0.0.2, 10.0.0.3]": f"worker_ips: {json.dumps(workers)}",
        "min_workers: 2": f"min_workers: {len(workers)}",
        "max_workers: 2": f"max_workers: {len(workers)}",
    }

    def line(found: re.Match[str]) -> str:
        words = command(shlex.split(found[1]), asked.words, values)
        return f"#       -m sparring.cluster train {' '.join(entrypoint(words))}"

    return {"cluster.yaml": replaced(filled(text, {**changes, **paths(text, out)}), SUBMITTED, line)}
