"""Kubernetes: RayJobs and a RayService, as KubeRay takes them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from sparring.cluster.deploy.asked import Asked, label
from sparring.cluster.deploy.filling import command, entrypoint, filled, paths, replaced, scalar, static, wrapped
from sparring.cluster.errors import UsageError

ENTRYPOINT = r"^  entrypoint: >-\n((?:    .*\n)+)"
ARGS = r"^        args:\n(?:          .*\n)+"


def files(asked: Asked, out: Path) -> dict[str, str]:
    """One manifest."""
    return _service(asked, out) if asked.what == "serve" else _job(asked, out)


def _job(asked: Asked, out: Path) -> dict[str, str]:
    name, site = f"rayjob-{asked.what}.yaml", asked.site
    shared = site.shared or "/shared"
    values = {
        "--name": asked.name,
        "--runs-dir": site.runs_dir or f"{shared}/runs",
        "--data.root": site.data_root or f"{shared}/data",
    }
    if site.gpus_per_node == 0:
        values["--placement.gpus-per-agent"] = "0"

    def line(found: re.Match[str]) -> str:
        python, m, module, verb, *theirs = shlex.split(found[1])
        words = [python, m, module, verb, *entrypoint(command(theirs, asked.words, values))]
        return f"  entrypoint: >-\n{wrapped(words, '    ')}\n"

    text = static(name)
    changes = {f"sparring-{asked.what}": label(asked.name), **_changes(text, asked), **paths(text, out)}
    return {name: replaced(_groups(filled(text, changes), asked), ENTRYPOINT, line)}


def _service(asked: Asked, out: Path) -> dict[str, str]:
    text, name = static("rayservice.yaml"), label(asked.name)
    models = asked.models_dir or f"{asked.site.shared or '/shared'}/models"
    changes = {
        "sparring-http-token": f"{name}-http-token",
        "service/sparring-serve-svc": f"service/{name}-serve-svc",
        "metadata:\n  name: sparring\n": f"metadata:\n  name: {name}\n",
        "with the models in /shared/models": f"with the models in {models}",
        "--models-dir /shared/models": f"--models-dir {models}",
    }
    text = _groups(filled(text, {**changes, **_changes(text, asked), **paths(text, out)}), asked)
    return {"rayservice.yaml": replaced(text, ARGS, lambda found: _args(found[0], asked, models))}


def _args(text: str, asked: Asked, models: str) -> str:
    """Arguments of the application: the file's, and over them those that were given."""
    per_node = 1 if asked.site.gpus_per_node is None else asked.site.gpus_per_node
    theirs = yaml.safe_load(text)["args"]
    made = {**theirs, "gpus": min(theirs["gpus"], float(per_node)), "models_dir": models, **asked.args}
    if "max_predictors" not in asked.args:
        made["max_predictors"] = max(made["max_predictors"], made["predictors"])
    if made["gpus"] > per_node:
        raise UsageError(
            f"--gpus {made['gpus']:g}: no node has so many; it has {per_node}, or what --gpus-per-node says"
        )
    lines = yaml.safe_dump(made, sort_keys=False).splitlines(keepends=True)
    return "        args:\n" + "".join(f"          {line}" for line in lines)


def _changes(text: str, asked: Asked) -> dict[str, str]:
    """Image, volume and GPUs, which jobs and the service say alike."""
    site = asked.site
    changes = {}
    if site.image:
        changes["sparring:latest"] = site.image
    if site.claim:
        changes |= {'claim "sparring"': f'claim "{site.claim}"', "claimName: sparring}": f"claimName: {site.claim}}}"}
    if site.shared:
        changes["mountPath: /shared"] = f"mountPath: {scalar(site.shared)}"
    if site.gpus_per_node is not None:
        changes['nvidia.com/gpu: "1"'] = f'nvidia.com/gpu: "{site.gpus_per_node}"'
    if site.gpu_kind:
        group = "        template:\n          spec:\n"
        changes[group] = f"{group}            nodeSelector: {{nvidia.com/gpu.product: {scalar(site.gpu_kind)}}}\n"
    return changes


def _groups(text: str, asked: Asked) -> str:
    """How many nodes of the worker group there are."""
    nodes = asked.site.nodes
    if nodes is None:
        return text
    text = replaced(text, r"^        replicas: \d+$", lambda found: f"        replicas: {nodes}")
    text = re.sub(r"^        minReplicas: [1-9]\d*$", f"        minReplicas: {nodes}", text, flags=re.MULTILINE)
    return replaced(text, r"^        maxReplicas: \d+$", lambda found: f"        maxReplicas: {nodes}")
