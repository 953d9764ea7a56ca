"""What a service is asked for, held against what it may be before anything is started."""

from __future__ import annotations

import importlib
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from sparring.cluster.errors import UsageError

APPLICATION = "sparring.serve.app:app"
SETTINGS = "sparring.serve.settings"
TOKENS = "sparring.serve.tokens"
FLAGS = {"seconds": "timeout"}  # where a flag has another name than its argument
NAME = "sparring"
TOKEN = "SPARRING_TOKEN"
PASSED = ("predictors", "max_predictors", "idle", "gpus", "threads", "batch", "grpc_port")
DRAIN = 30.0  # seconds that requests have to end when the service is stopped
Host = Literal["ray", "local"]


@dataclass(frozen=True)
class Where:
    """Where the service listens and runs."""

    host: str = "127.0.0.1"
    port: int = 8000
    address: str | None = None
    host_by: Host = "local"
    names: tuple[str, ...] = ()  # of the models that are there at the start


@dataclass(frozen=True)
class Roll:
    """What is to change about the versions of a model."""

    to: int | None = None
    """Version that answers from now on; canary and shadow end."""
    back: bool = False
    """To the version that answered before."""
    canary: int | None = None
    """Version that answers a share of the requests that name none."""
    share: float | None = None
    """Of the canary; 0.1 where nothing is said. The header x-canary: always or never decides for one request."""
    shadow: int | None = None
    """Version that is asked too, after the answer has gone; disagreement is counted in /metrics."""
    end: bool = False
    """Of canary and shadow; the version that answers stays."""


def host_of(asked: Host | None, args: Mapping[str, Any], *, address: str | None) -> Host:
    """Ray Serve wherever more than one process is asked for; else one process.

    Raises:
        UsageError: one process cannot be what is asked for.
    """
    several = args.get("predictors", 1) != 1 or (args.get("max_predictors") or 1) > 1
    if asked == "local" and (several or address is not None):
        what = "--address needs" if address is not None else "several predictors need"
        raise UsageError(f"--host-by local is one process, and {what} a cluster; leave --host-by out, or name ray")
    if asked is not None:
        return asked
    return "ray" if several or address is not None or args.get("gpus") else "local"


def to_yaml(args: dict[str, Any], where: Where) -> str:
    """What ``serve deploy`` and a RayService take."""
    check(args, where)
    check_token(args, where.host, elsewhere=True)
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": where.host, "port": where.port},
        "applications": [{"name": NAME, "import_path": APPLICATION, "route_prefix": "/", "args": args}],
    }
    return yaml.safe_dump(config, sort_keys=False)


def described(args: dict[str, Any], where: Where) -> dict[str, Any]:
    """What is served, and where."""
    host = f"[{where.host}]" if ":" in where.host else where.host
    grpc = {"grpc": f"{host}:{args['grpc_port']}"} if args.get("grpc_port") else {}
    return {"url": f"http://{host}:{where.port}/", **grpc, "models": list(where.names), "demo": args["demo"]}


def show(result: dict[str, Any]) -> None:
    """Where to look."""
    url = result["url"]
    print(f"serving {', '.join(result['models'])} on {url}", flush=True)
    print(f"  the page:  {url}\n  all paths: {url}docs", flush=True)
    if "grpc" in result:
        print(f"  gRPC:      {result['grpc']}", flush=True)
    first = result["models"][0]
    print(f"  try:       curl --data-binary @image.png {url}v1/models/{first}:classify\nCtrl-C stops it.", flush=True)


def check(args: dict[str, Any], where: Where) -> None:
    """Refuse arguments that the application would refuse, before anything is started.

    Raises:
        UsageError: names the flag, its value, and what is allowed.
    """
    from pydantic import ValidationError

    if not 1 <= where.port <= 65535:
        raise UsageError(f"--port {where.port}: expected 1 to 65535")
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
    """Refuse to listen where others are without a token, or with one that cannot be used.

    Args:
        elsewhere: replicas run where this process's environment is not known; the token must be in a file there.

    Raises:
        UsageError: says how to give one.
    """
    if "token_file" in args:
        try:
            importlib.import_module(TOKENS).read(Path(args["token_file"]))
        except FileNotFoundError:
            file = args["token_file"]
            raise UsageError(
                f"{file} does not exist; for example: (umask 077; openssl rand -hex 32 > {file})"
            ) from None
        except (ValueError, OSError) as error:
            raise UsageError(f"--token-file: {error}") from None
        return
    if (os.environ.get(TOKEN, "").strip() and not elsewhere) or _loopback(host):
        return
    raise UsageError(
        f"--host {host} can be reached by others and needs a token: (umask 077; openssl rand -hex 32 > token); sparring serve "
        f"--host {host} --token-file token"
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_port(where: Where) -> None:
    """Refuse a port that somebody has.

    Raises:
        UsageError: names another.
    """
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where.host, where.port))
        except OSError as error:
            another = where.port + 1 if where.port < 65535 else 8000
            raise UsageError(
                f"cannot listen on {where.host}:{where.port} ({error.strerror}); choose another: --port {another}"
            ) from None
