"""Whether the trackers of a run can be had."""

from __future__ import annotations

import os
from importlib.util import find_spec

from sparring.cluster.config.tracking import APART, parsed
from sparring.cluster.errors import UsageError


def check(log: str) -> None:
    """Refuse what cannot be told anything, before a run begins.

    Args:
        log: the setting.

    Raises:
        UsageError: a package is missing, or MLflow is not told where its server is.
    """
    for name in parsed(log):
        if name in APART and find_spec(name) is None:
            raise UsageError(f"--log {name} needs {name}; run: pip install 'sparring[{name}]'")
        if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            raise UsageError(
                "--log mlflow needs the address of a server: export MLFLOW_TRACKING_URI=http://HOST:5000 (mlflow server starts one)"
            )
