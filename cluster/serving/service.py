"""A service on one of two hosts: Ray Serve (``on_ray.py``), or one process without Ray (``sparring.serve.local``)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from sparring.cluster.serving.options import DRAIN, SETTINGS, Where, check, check_port, check_token, described

LOCAL = "sparring.serve.local"


def serve(
    args: dict[str, Any], where: Where, *, ready: Callable[[dict[str, Any]], None], say: Callable[[str], None]
) -> None:
    """Answer requests until SIGINT or SIGTERM; then let those in flight end.

    Args:
        args: of the application.
        ready: told what is served, and where, once requests are answered.

    Raises:
        UsageError: a value that is not allowed, an open address without a token, a port that is taken.
        NoResources: too few CPUs or GPUs.
        Infrastructure: the application did not start.
    """
    check(args, where)
    check_token(args, where.host, elsewhere=where.address is not None)
    if where.address is None:
        check_port(where)
    if where.host_by == "ray":
        from sparring.cluster.serving import on_ray

        on_ray.serve(args, where, ready=ready, say=say)
        return
    say("loading models")
    settings = importlib.import_module(SETTINGS).Settings.model_validate(args)
    importlib.import_module(LOCAL).run(
        settings,
        where.host,
        where.port,
        drain=DRAIN,
        ready=lambda: ready(described(args, where)),
        stopping=lambda: say(f"stopping: requests that came are answered, within {DRAIN:g} s"),
    )
