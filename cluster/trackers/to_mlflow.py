"""MLflow. Server, experiment and credentials are those of its own environment: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ..."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

EXPERIMENT = "sparring"  # where nothing else is said
EVERY = 0.5  # seconds between requests
MOST = 1000  # figures of a request
PARAMS = 100  # settings of a request
LONGEST = 500  # letters of a setting that every server takes
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
PARENT_WITHIN = 60.0  # seconds for a search to have its own run


class Mlflow:
    """One run; a trial's is a child of its search's."""

    def __init__(
        self, folder: Path, id: str | None, *, name: str, config: Mapping[str, Any], parent: str | None
    ) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        _hide_password()
        self._client = MlflowClient()
        self._waiting: list[Any] = []
        self._sent = 0.0
        if id is not None:
            self.id = id
            self._client.update_run(id, status="RUNNING")
            return
        tags = {"mlflow.runName": name}
        if parent is not None:
            tags["mlflow.parentRunId"] = _id_of(Path(parent) / "trackers" / "mlflow.json")
        self.id = self._client.create_run(self._experiment(), tags=tags).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in config.items()]
        for i in range(0, len(params), PARAMS):
            self._client.log_batch(self.id, params=params[i : i + PARAMS])

    def metrics(self, t: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # infinity is kept as 1.8e308 by MLflow 3.17, as if it were a number
        self._waiting += [Metric(name, value, now, t) for name, value in values.items() if isfinite(value)]
        if time.monotonic() - self._sent > EVERY or len(self._waiting) > MOST:
            self._send()

    def text(self, t: int, name: str, text: str) -> None:
        self._client.set_tag(self.id, f"{name} at step {t}", text)

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self.id, str(path))

    def results(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self.id, f"final/{name}", value)

    def finish(self, status: str) -> None:
        self._send()
        self._client.set_terminated(self.id, STATUS[status])

    def _send(self) -> None:
        for i in range(0, len(self._waiting), MOST):
            self._client.log_batch(self.id, metrics=self._waiting[i : i + MOST])
        self._waiting, self._sent = [], time.monotonic()

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except Exception:  # another run has made it in the meantime
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)


def _hide_password() -> None:
    """Out of the server's address, which the library quotes when it fails, into variables that it reads as well."""
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if parts.username is None or parts.hostname is None:
        return
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _id_of(file: Path) -> str:
    """Of the search's run, which another process begins."""
    ended = time.monotonic() + PARENT_WITHIN
    while time.monotonic() < ended:
        if file.exists() and (found := json.loads(file.read_bytes())["id"]):
            return str(found)
        time.sleep(0.2)
    raise TimeoutError(f"the search has no run of its own in {file}")


made = Mlflow
