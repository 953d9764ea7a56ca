"""``sparring doctor``: is this machine ready? One line per question: ok, warn or fail."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sparring.cluster import terminal
from sparring.cluster.machines import fixes
from sparring.cluster.machines.cores import usable

MINIMUM_TORCH = (2, 11)
MINIMUM_RAY = (2, 59)  # first release with token authentication on by default
RAY_PORT = 6379
ROOM = 2  # GiB of memory, and of the disk, with which the digits recipes go through


class Check(NamedTuple):
    """The answer to one question."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    fix: str | None = None  # commands that would mend it on this machine, one a line


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


def show_that_there_are_fixes(result: dict[str, Any]) -> None:
    """One line, where there are some."""
    names = [check["name"] for check in result["checks"] if check["fix"]]
    if names:
        print(f"fix   {', '.join(names)}: {terminal.command()} doctor --fix shows the commands")


def show_fixes(result: dict[str, Any]) -> None:
    """The commands for each check that has some, and which have none."""
    wrong = [check for check in result["checks"] if check["status"] != "ok"]
    if any(check["fix"] for check in wrong):
        print("\nNothing was changed. Commands that would mend what is not ok:")
    for check in wrong:
        if check["fix"]:
            print(f"\n{check['name']}:", *check["fix"].splitlines(), sep="\n  ")
    without = [check["name"] for check in wrong if not check["fix"]]
    if without:
        print(f"\nno command mends: {', '.join(without)}")


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    text = platform.python_version() + ("" if ok else "; Sparring needs 3.11 or newer")
    return Check("python", "ok" if ok else "fail", text, None if ok else fixes.newer_python())


def _package(name: str, minimum: tuple[int, int]) -> Callable[[], Check]:
    def check() -> Check:
        import importlib.metadata  # late: a twentieth of the time of --help

        wanted = ".".join(map(str, minimum))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return Check(name, "fail", "not installed; run: pip install -e . -c constraints.txt", fixes.install())
        numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
        if numbers >= minimum:
            return Check(name, "ok", version)
        return Check(name, "fail", f"{version}; needs {wanted} or newer", fixes.install())

    return check


def _cuda() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("cuda", "fail", f"torch cannot be imported: {error}", fixes.install())
    if not torch.cuda.is_available():
        text = "no GPU visible; everything runs on CPU, which suits the digits recipes only"
        return Check("cuda", "warn", text, fixes.gpus(torch.version.cuda))
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("cuda", "ok", f"{len(names)} GPU: {', '.join(sorted(set(names)))}")


def _bfloat16() -> Check:
    try:
        from sparring.agents.precision import slow_bfloat16
    except ImportError as error:
        return Check("bfloat16", "fail", f"torch cannot be imported: {error}", fixes.install())
    if slow_bfloat16():
        return Check(
            "bfloat16", "warn", "this CPU has no units for it (avx512_bf16): --precision bf16 would be slower than fp32"
        )
    return Check("bfloat16", "ok", "--precision bf16 pays here")


def _cores() -> Check:
    cores = usable()
    if cores < 2:
        return Check("cores", "warn", "1 core: two agents need --placement.cpus-per-agent 0.5", fixes.one_core())
    return Check("cores", "ok", f"{cores}, one per agent by default")


def _memory() -> Check:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    text = f"{free:.1f} GiB free; an agent takes up to 1 GiB on CPU"
    return Check("memory", "ok", text) if free > ROOM else Check("memory", "warn", text, fixes.little_memory())


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    text = f"{free:.1f} GiB free in {Path.cwd()}"
    return Check("disk", "ok", text) if free > ROOM else Check("disk", "warn", text, fixes.full_disk(ROOM))


def _port() -> Check:
    if fixes.answers(RAY_PORT):
        return Check(
            "ray port",
            "warn",
            f"{RAY_PORT} is taken, perhaps by a Ray head; a run starts a Ray of its own unless --address names one",
            fixes.port_taken(RAY_PORT),
        )
    return Check("ray port", "ok", f"{RAY_PORT} is free for a head node")


def _token() -> Check:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        text = "RAY_AUTH_MODE=disabled: anyone who reaches Ray's ports can run code here; unset it"
        return Check("token", "warn", text, "unset RAY_AUTH_MODE")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if "RAY_AUTH_TOKEN" in os.environ or path.is_file():
        return Check(
            "token",
            "ok",
            "Ray lets in only who has this machine's secret; several machines of a cluster need the same one (RAY_AUTH_TOKEN_PATH)",
        )
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        return Check("token", "fail", f"RAY_AUTH_TOKEN_PATH={path} cannot be read", fixes.no_token(path))
    return Check(
        "token", "ok", f"nothing to do: Ray makes its secret, {path}, at its first start, and lets in nobody without it"
    )
