"""Weights & Biases. Project, entity, mode and key are those of its own environment: WANDB_PROJECT, WANDB_MODE=offline, ..."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECT = "sparring"  # where nothing else is said


class Wandb:
    """One run; runs of one search are a group."""

    def __init__(
        self, folder: Path, id: str | None, *, name: str, config: Mapping[str, Any], parent: str | None
    ) -> None:
        import wandb

        self.id = id or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=self.id,
            resume="allow",
            group=Path(parent).name if parent else None,
            config=dict(config),
            dir=str(folder),
            settings=wandb.Settings(console="off", disable_code=True, x_disable_stats=True),
        )
        # steps of ours: its own only rise, and what is told of a checkpoint comes when later steps have been told
        self._run.define_metric("*", step_metric="step")

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": t})

    def text(self, t: int, name: str, text: str) -> None:
        self._run.alert(title=name, text=f"step {t}: {text}")

    def artifact(self, path: Path) -> None:
        self._run.save(str(path), base_path=str(path.parent), policy="now")

    def results(self, values: Mapping[str, float]) -> None:
        self._run.summary.update({f"final/{name}": value for name, value in values.items()})

    def finish(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


made = Wandb
