"""Which file the weights came from that a run starts from: noted beside them in the cache, and in the run's env.json."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.agents import hub_folder
from sparring.agents.checkpoint import sha256, to_json
from sparring.agents.checkpoint import write as write_file
from sparring.cluster.config.run_config import RunConfig

NOTE = "origin.json"


def write(folder: Path, file: Path, said: Sequence[str]) -> None:
    """Note beside the weights in ``folder`` their file, its sha256, and what of them is not the file's.

    In the Hub's cache a file is a link, whose own path says repository and commit.
    """
    write_file(folder / NOTE, to_json({"file": os.path.abspath(file), "sha256": sha256(file), "said": list(said)}))


def of_run(config: RunConfig) -> dict[str, Any]:
    """What is noted of the weights that each role starts from; roles that start from no such file are left out."""
    found = {}
    for role, own in config.agents.items():
        note = Path(hub_folder.located(own.init) or "") / NOTE
        if own.init is not None and note.is_file():
            found[role] = json.loads(note.read_bytes())
    return found
