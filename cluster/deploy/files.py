"""The files of each place, filled in.

static file --> names, folders, numbers replaced --> its command's words and ours in the place of its own --> OUT/
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from sparring.cluster.deploy import machines, pods
from sparring.cluster.deploy.asked import Asked, Place, check
from sparring.cluster.errors import Exists

FILES: dict[Place, Callable[[Asked, Path], dict[str, str]]] = {
    "kuberay": pods.files,
    "slurm": machines.slurm,
    "compose": machines.compose,
    "cluster-launcher": machines.launcher,
}


def write(asked: Asked, out: Path) -> dict[str, list[str]]:
    """Write the files into a folder, all or none.

    Returns:
        files: their paths. next: what to type, as the first file's first lines say it.

    Raises:
        UsageError: the place cannot do or say that.
        Exists: one of them is there.
    """
    check(asked, out)
    texts = FILES[asked.place](asked, out)
    there = [str(out / name) for name in texts if (out / name).exists()]
    if there:
        raise Exists(f"{', '.join(there)}: never overwritten; remove it, or choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return {"files": [str(out / name) for name in texts], "next": next_steps(next(iter(texts.values())))}


def next_steps(text: str) -> list[str]:
    """The commands in a file's comments, those over several lines as one."""
    found = re.findall(r"^#   ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    return [re.sub(r" \\\n#\s+", " ", command) for command in found]


def show(result: Mapping[str, list[str]]) -> None:
    """What was written, and what to type."""
    print(f"written: {', '.join(shlex.quote(file) for file in result['files'])}\nnext:")
    for line in result["next"]:
        print(f"  {line}")
