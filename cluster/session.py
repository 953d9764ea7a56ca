"""Attach to a Ray cluster or start one on this machine, and leave as found.

Ray's workers do not inherit this process's ``sys.path``. Around a local ``ray.init`` the process stands in the clone, so
its packages come first for every worker; an attached cluster gets the clone as its working directory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import ray

from cluster.errors import NoResources

CLONE = Path(__file__).resolve().parent.parent

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody's usage is reported without asking
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """A Ray connection for the time of the block; one that exists is used and kept.

    Args:
        address: ``host:port`` of a running cluster; None starts one on this machine.

    Raises:
        NoResources: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    options: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with chdir(CLONE):
        if address is None:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            try:
                ray.init(address=address, runtime_env={"working_dir": str(CLONE)}, **options)
            except (ConnectionError, RuntimeError) as error:
                raise NoResources(f"no Ray cluster answers at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
