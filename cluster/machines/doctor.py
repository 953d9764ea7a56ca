"""``sparring doctor``: is this machine ready? One line per question: ok, warn or fail."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sparring.cluster.machines.cores import usable

MINIMUM_TORCH = (2, 11)
MINIMUM_RAY = (2, 59)  # first release with token authentication on by default
RAY_PORT = 6379


class Check(NamedTuple):
    """The answer to one question."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str


def checks() -> Iterator[Check]:
    """All questions, the quick ones first."""
    for question in (
        _python,
        _package("torch", MINIMUM_TORCH),
        _package("ray", MINIMUM_RAY),
        _cuda,
        _bfloat16,
        _cores,
        _memory,
        _disk,
        _port,
        _token,
    ):
        yield question()


def examine(told: Callable[[str], None]) -> dict[str, Any]:
    """Every check; ``told`` hears each answer as it comes."""
    found = []
    for check in checks():
        found.append(check)
        told(f"{check.status:4}  {check.name:8}  {check.text}")
    return {"checks": [c._asdict() for c in found]}


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check(
        "python", "ok" if ok else "fail", platform.python_version() + ("" if ok else "; Sparring needs 3.11 or newer")
    )


def _package(name: str, minimum: tuple[int, int]) -> Callable[[], Check]:
    def check() -> Check:
        import importlib.metadata  # late: a twentieth of the time of --help

        wanted = ".".join(map(str, minimum))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return Check(name, "fail", "not installed; run: pip install -e . -c constraints.txt")
        numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
        return Check(
            name, *(("ok", version) if numbers >= minimum else ("fail", f"{version}; needs {wanted} or newer"))
        )

    return check


def _cuda() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("cuda", "warn", "no GPU visible; everything runs on CPU, which suits the digits recipes only")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("cuda", "ok", f"{len(names)} GPU: {', '.join(sorted(set(names)))}")


def _bfloat16() -> Check:
    from sparring.agents.precision import slow_bfloat16

    if slow_bfloat16():
        return Check(
            "bfloat16", "warn", "this CPU has no units for it (avx512_bf16): --precision bf16 would be slower than fp32"
        )
    return Check("bfloat16", "ok", "--precision bf16 pays here")


def _cores() -> Check:
    cores = usable()
    if cores < 2:
        return Check("cores", "warn", "1 core: two agents need --placement.cpus-per-agent 0.5")
    return Check("cores", "ok", f"{cores}, one per agent by default")


def _memory() -> Check:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Check("memory", "ok" if free > 2 else "warn", f"{free:.1f} GiB free; an agent takes up to 1 GiB on CPU")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", "ok" if free > 2 else "warn", f"{free:.1f} GiB free in {Path.cwd()}")


def _port() -> Check:
    with socket.socket() as s:
        s.settimeout(1)
        taken = s.connect_ex(("127.0.0.1", RAY_PORT)) == 0
    if taken:
        return Check(
            "ray port",
            "warn",
            f"{RAY_PORT} is taken, perhaps by a Ray head; a run starts a Ray of its own unless --address names one",
        )
    return Check("ray port", "ok", f"{RAY_PORT} is free for a head node")


def _token() -> Check:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        return Check(
            "token", "warn", "RAY_AUTH_MODE=disabled: anyone who reaches Ray's ports can run code here; unset it"
        )
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if "RAY_AUTH_TOKEN" in os.environ or path.is_file():
        return Check(
            "token",
            "ok",
            "Ray lets in only who has this machine's secret; several machines of a cluster need the same one (RAY_AUTH_TOKEN_PATH)",
        )
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        return Check(
            "token",
            "fail",
            f"RAY_AUTH_TOKEN_PATH={path} cannot be read; write one with: ray get-auth-token --generate > {path}",
        )
    return Check(
        "token", "ok", f"nothing to do: Ray makes its secret, {path}, at its first start, and lets in nobody without it"
    )
