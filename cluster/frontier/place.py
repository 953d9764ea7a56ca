"""Where a frontier is kept, and whether one that is there is the one that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparring.agents.checkpoint import to_json, write
from sparring.cluster.config.values import differences
from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.frontier.settings import Frontier, known
from sparring.cluster.runs.folder import NAME, refuse_lost
from sparring.cluster.terminal import relative

GROWS = ("budgets", "seeds", "methods")  # what a folder's frontier may have more of when it goes on


def begun(runs_dir: Path, name: str | None) -> dict[str, Any]:
    """The configurations of the frontier of this name, plain values by label; none where there is none."""
    file = runs_dir / (name or "") / "asked.json"
    return dict(json.loads(file.read_text())["methods"]) if file.is_file() else {}


def folder_of(asked: Frontier, runs_dir: Path, name: str | None, *, resume: bool) -> Path:
    """Its folder, new or one to go on with.

    Raises:
        UsageError: the name is not allowed, or there is something else.
        Exists: it is there, and ``resume`` was not asked for.
    """
    refuse_lost(runs_dir)
    if name is None:
        if resume:
            raise UsageError("--resume needs --name: which frontier is to go on?")
        endings = [p.name.removeprefix("frontier-") for p in runs_dir.glob("frontier-*")]
        name = f"frontier-{max([int(e) for e in endings if e.isdigit()], default=0) + 1}"
    if not NAME.fullmatch(name):
        raise UsageError(f"--name {name!r} is not allowed; use letters, digits, '.', '_' and '-'")
    folder = (runs_dir / name).resolve()
    file, now = folder / "asked.json", json.loads(to_json(asked.to_dict()))
    if folder.exists():
        if not resume:
            raise Exists(
                f"{relative(folder)} exists and is never overwritten; choose another --name, or add --resume to go on with it"
            )
        if not file.is_file():
            raise UsageError(f"{relative(folder)} is not a frontier (it has no asked.json); choose another --name")
        before = json.loads(file.read_text())
        common = {k: known(before["methods"][k]) for k in before["methods"] if k in now["methods"]}
        wrong = differences(
            {**{k: v for k, v in before.items() if k not in GROWS}, "methods": common},
            {**{k: v for k, v in now.items() if k not in GROWS}, "methods": {k: now["methods"][k] for k in common}},
        )
        if wrong:
            raise UsageError(f"{relative(folder)} is another frontier ({'; '.join(wrong)}); choose another --name")
        now["methods"] = before["methods"] | now["methods"]  # what is not asked for this time still lies there
    else:
        (folder / "runs").mkdir(parents=True)
    write(file, to_json(now))
    return folder
