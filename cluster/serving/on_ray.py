"""The service on Ray Serve: started, watched, and stopped in good order.

driver: start Ray, or join one -> Serve's controller -> predictors, ledger, attack
client -> HAProxy (on a Ray of our own), or the proxy of the cluster's Serve -> predictor
"""

from __future__ import annotations

import importlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

from sparring.cluster.errors import Infrastructure, NoResources, UsageError
from sparring.cluster.machines import session
from sparring.cluster.machines.cores import usable
from sparring.cluster.serving import balancer
from sparring.cluster.serving.options import APPLICATION, DRAIN, NAME, Where, described

QUIET = 10  # looks in a row, a tenth of a second apart, that find nothing open
OVERHEAD = 0.5  # CPUs of the attack and of what Serve itself does


def serve(
    args: dict[str, Any], where: Where, *, ready: Callable[[dict[str, Any]], None], say: Callable[[str], None]
) -> None:
    """See ``service.serve``."""
    needed = max(args["predictors"], args.get("max_predictors") or 0) * args["threads"] + OVERHEAD
    asked = threading.Event()
    before = {s: signal.signal(s, lambda *_: asked.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    say("starting processes for the models")
    own = session.brings_its_own(where.address)
    try:
        with balancer.balanced(args) if own else _nothing():
            if own:
                session.start(num_cpus=max(usable(), ceil(needed)))
            with session.connected(where.address):
                _check_resources(args)
                shared = _start(where)
                try:
                    _run(args)
                    ready(described(args, where))
                    while not asked.wait(1):
                        pass
                    say(f"stopping: requests that came are answered, within {DRAIN:g} s")
                    _drain()
                finally:
                    _end(own=own, shared=shared)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _start(where: Where) -> bool:
    """Start Serve where it does not run; whether it did, for others.

    Raises:
        UsageError: it listens elsewhere, or another application has our place.
        Infrastructure: it did not start.
    """
    from ray import serve as ray_serve

    known = _known(ray_serve)
    if known is not None:
        _check_place(where, **known)
        return True
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = {"host": where.host, "port": where.port, "keep_alive_timeout_s": 60}
    try:
        ray_serve.start(proxy_location="EveryNode" if where.address else "HeadOnly", http_options=options)
    except RuntimeError as error:  # most likely somebody took the port in the meantime
        lines = str(error).splitlines()
        why = next((t for t in lines if "Failed to bind" in t or "[ALERT]" in t), lines[-1])
        raise Infrastructure(f"Ray Serve did not start: {why.strip()}; choose another --port") from error
    return False


def _known(ray_serve: Any) -> dict[str, Any] | None:
    """Port and applications (name -> route) of a Serve that runs already; None: none does."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    details = client.get_serve_details()
    applications = {name: app.get("route_prefix") for name, app in details.get("applications", {}).items()}
    return {"port": details["http_options"]["port"], "applications": applications}


def _check_place(where: Where, *, port: int, applications: dict[str, str | None]) -> None:
    """That our application has room in a Serve of others."""
    if port != where.port:
        raise UsageError(
            f"Ray Serve runs at {where.address} and answers on port {port}, not {where.port}; take it: --port {port}"
        )
    for name, route in applications.items():
        if name == NAME:
            raise UsageError(
                f"an application {NAME!r} runs at {where.address} already; end that one first: serve delete {NAME}"
            )
        if route == "/":
            raise UsageError(
                f"the application {name!r} at {where.address} has the path /, which the service needs for itself"
            )


def _check_resources(args: dict[str, Any]) -> None:
    import ray

    count = max(1, args["predictors"])  # from none too, one must have room
    have, wanted = ray.cluster_resources(), {"CPU": count * args["threads"] + OVERHEAD}
    if args["gpus"]:
        wanted["GPU"] = count * args["gpus"]
    for kind, needed in wanted.items():
        if have.get(kind, 0) < needed:
            raise NoResources(
                f"{count} predictors need {needed:g} {kind}, there are {have.get(kind, 0):g}; choose fewer "
                "--predictors, --threads or --gpus"
            )


def _run(args: dict[str, Any]) -> None:
    from ray import serve as ray_serve

    module, _, name = APPLICATION.partition(":")
    application = importlib.import_module(module)
    try:
        ray_serve.run(getattr(application, name)(args), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise Infrastructure(f"the service did not start: {error}") from error


def _drain() -> None:
    """Wait until every predictor takes no more requests and has answered those that came."""
    from ray import serve as ray_serve

    # the router of Ray Serve 2.60 calls a replica that is busy with its last requests a slow network
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ledger = ray_serve.get_deployment_handle("ledger", NAME)
    ended, quiet = time.monotonic() + DRAIN, 0
    while time.monotonic() < ended and quiet < QUIET:  # requests may still be on their way through the proxy
        quiet = quiet + 1 if ledger.drain.remote().result(timeout_s=DRAIN) else 0
        time.sleep(0.1)


def _end(*, own: bool, shared: bool) -> None:
    import ray
    from ray import serve as ray_serve

    if own:  # as a whole: its controller killed first is reported as a failure
        ray.shutdown()
    elif shared:
        ray_serve.delete(NAME)
    else:
        ray_serve.shutdown()
