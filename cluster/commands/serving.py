"""Ray Serve started for published models, and stopped in good order."""

from __future__ import annotations

import importlib
import ipaddress
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from sparring.agents import model_folder
from sparring.cluster.errors import Infrastructure, NoResources, UsageError
from sparring.cluster.machines import session
from sparring.cluster.machines.cores import usable

APPLICATION = "sparring.serve.app:app"
SETTINGS = "sparring.serve.settings"
FLAGS = {"seconds": "timeout"}  # where a flag has another name than its argument
NAME = "sparring"
TOKEN = "SPARRING_TOKEN"
PASSED = ("predictors", "max_predictors", "ingresses", "gpus", "threads", "batch")
DRAIN = 30.0  # seconds that requests have to end when the service is stopped
QUIET = 10  # looks in a row, a tenth of a second apart, that find nothing open
OVERHEAD = 0.5  # CPUs of ingress and attack


@dataclass(frozen=True)
class Where:
    """Where the service listens and runs."""

    host: str = "127.0.0.1"
    port: int = 8000
    address: str | None = None
    haproxy: bool = False


def to_yaml(args: dict[str, Any], where: Where) -> str:
    """What ``serve deploy`` and a RayService take."""
    check(args)
    check_token(args, where.host, elsewhere=True)
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": where.host, "port": where.port},
        "applications": [{"name": NAME, "import_path": APPLICATION, "route_prefix": "/", "args": args}],
    }
    return yaml.safe_dump(config, sort_keys=False)


def serve(
    args: dict[str, Any], where: Where, *, ready: Callable[[dict[str, Any]], None], say: Callable[[str], None]
) -> None:
    """Answer requests until SIGINT or SIGTERM; then let those in flight end.

    Raises:
        UsageError: a value that is not allowed, an open address without a token, a port that is taken.
        NoResources: too few CPUs or GPUs.
        Infrastructure: the application did not start.
    """
    check(args)
    check_token(args, where.host, elsewhere=where.address is not None)
    _check_port(where)
    if where.haproxy:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    needed = args["predictors"] * args["threads"] + OVERHEAD
    asked = threading.Event()
    before = {s: signal.signal(s, lambda *_: asked.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    say("starting processes for the models")
    own = session.brings_its_own(where.address)
    try:
        if own:
            session.start(num_cpus=max(usable(), ceil(needed)))
        with session.connected(where.address) as runtime_env:
            _check_resources(args)
            import ray
            from ray import serve as ray_serve

            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            options = {"host": where.host, "port": where.port, "keep_alive_timeout_s": 60}
            try:
                ray_serve.start(proxy_location="EveryNode" if where.address else "HeadOnly", http_options=options)
            except RuntimeError as error:  # most likely somebody took the port in the meantime
                first = next((t for t in str(error).splitlines() if "Failed to bind" in t), str(error).splitlines()[0])
                raise Infrastructure(f"Ray Serve did not start: {first.strip()}; choose another --port") from error
            try:
                _run(args, runtime_env)
                url = f"http://{where.host}:{where.port}/"
                ready({"url": url, "models": _names(args), "demo": args["demo"]})
                while not asked.wait(1):
                    pass
                say(f"stopping: requests that came are answered, within {DRAIN:g} s")
                _drain()
            finally:
                if own:  # as a whole: its controller killed first is reported as a failure
                    ray.shutdown()
                else:
                    ray_serve.shutdown()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(result: dict[str, Any]) -> None:
    """Where to look."""
    url = result["url"]
    print(f"serving {', '.join(result['models'])} on {url}", flush=True)
    print(f"  the page:  {url}\n  all paths: {url}docs", flush=True)
    first = result["models"][0]
    print(f"  try:       curl --data-binary @image.png {url}v1/models/{first}:classify\nCtrl-C stops it.", flush=True)


def check(args: dict[str, Any]) -> None:
    """Refuse arguments that the application would refuse, before anything is started.

    Raises:
        UsageError: names the flag, its value, and what is allowed.
    """
    from pydantic import ValidationError

    try:
        importlib.import_module(SETTINGS).Settings.model_validate(args)
    except ValidationError as error:
        raise UsageError("; ".join(_wrong(e) for e in error.errors())) from error


def _wrong(error: Mapping[str, Any]) -> str:
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    key = str(error["loc"][-1])
    return f"--{FLAGS.get(key, key).replace('_', '-')} {error['input']}: {error['msg'].lower()}"


def check_token(args: dict[str, Any], host: str, *, elsewhere: bool) -> None:
    """Refuse to listen where others are without a token.

    Args:
        elsewhere: replicas run where this process's environment is not known; the token must be in a file there.

    Raises:
        UsageError: says how to give one.
    """
    if "token_file" in args or (os.environ.get(TOKEN, "").strip() and not elsewhere) or _loopback(host):
        return
    raise UsageError(
        f"--host {host} can be reached by others and needs a token: openssl rand -hex 32 > token; sparring serve "
        f"--host {host} --token-file token"
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(where: Where) -> None:
    if where.address is not None:
        return
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where.host, where.port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on {where.host}:{where.port} ({error.strerror}); choose another: --port {where.port + 1}"
            ) from None


def _check_resources(args: dict[str, Any]) -> None:
    import ray

    have, wanted = ray.cluster_resources(), {"CPU": args["predictors"] * args["threads"] + OVERHEAD}
    if args["gpus"]:
        wanted["GPU"] = args["predictors"] * args["gpus"]
    for kind, count in wanted.items():
        if have.get(kind, 0) < count:
            raise NoResources(
                f"{args['predictors']} predictors need {count:g} {kind}, there are {have.get(kind, 0):g}; choose fewer "
                "--predictors, --threads or --gpus"
            )


def _run(args: dict[str, Any], runtime_env: dict[str, Any]) -> None:
    from ray import serve as ray_serve

    module, _, name = APPLICATION.partition(":")
    application = importlib.import_module(module)
    try:
        ray_serve.run(getattr(application, name)(args), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise Infrastructure(f"the service did not start: {error}") from error


def _drain() -> None:
    """Wait until every ingress takes no more requests and has answered those that came."""
    from ray import serve as ray_serve

    # the router of Ray Serve 2.60 calls a replica that is busy with its last requests a slow network
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ledger = ray_serve.get_deployment_handle("ledger", NAME)
    ended, quiet = time.monotonic() + DRAIN, 0
    while time.monotonic() < ended and quiet < QUIET:  # requests may still be on their way through the proxy
        quiet = quiet + 1 if ledger.drain.remote().result(timeout_s=DRAIN) else 0
        time.sleep(0.1)


def _names(args: dict[str, Any]) -> list[str]:
    folder = Path(args["models_dir"]) if "models_dir" in args else None
    return sorted(
        {*args.get("models", {}), *([p.name for p in folder.iterdir() if model_folder.resolve(p)] if folder else [])}
    )
