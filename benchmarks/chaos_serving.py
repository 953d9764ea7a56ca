"""A service under load until so many answers were right: what a scenario of ``chaos.py`` runs as ``serve``.

python benchmarks/chaos_serving.py MODELS_DIR ANSWERS_JSON [--answers 400] [--seconds 20] [--clients 2]

Starts ``sparring serve`` on a Ray of its own and asks for the same predictions all the time. An answer may be right, a 503 that says when to come again, or,
while the service is being mended, a connection that is closed; never wrong. ANSWERS_JSON gets the right answers, rounded. Ends as the service
does when that ends by itself, with 1 when an answer was wrong or none came for a minute, else with what the service says to SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from common import CLONE

from tests.serve.live import Load, clients, free_port
from tests.serve.made import infer, pixels, published

IMAGES = 8
CLOSE = 1e-5  # of an answer: which images go through the network together changes the last bits
PATIENCE = 60.0  # seconds without a right answer after which a service counts as lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--answers", dest="count", type=int, default=400, help="right ones, at least")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load, at least")
    parser.add_argument(
        "--versions", type=float, metavar="SECONDS", help="publish another version so often, into MODELS_DIR/m"
    )
    parser.add_argument("--clients", type=int, default=2)
    args = parser.parse_args()
    port = free_port()
    flags = ["--models-dir", str(args.models), f"--port={port}", "--host-by=ray", "--predictors=2"]
    command = [sys.executable, str(CLONE / "sparring.py"), "serve", *flags]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        if not any(line.startswith("serving ") for line in service.stdout):  # it has ended
            return exit_code(service.wait(PATIENCE))
        return asked(service, f"http://127.0.0.1:{port}", args)
    finally:
        if service.poll() is None:
            service.kill()
            service.wait()


def exit_code(code: int) -> int:
    """That of a process that was killed is told as a shell tells it."""
    return code if code >= 0 else 128 - code


def asked(service: subprocess.Popen[str], url: str, args: argparse.Namespace) -> int:
    """Ask until it is enough; the exit code."""
    seen: dict[tuple[str, int], Any] = {}  # by version and image

    def ask(client: httpx.Client, number: int) -> bool:
        i = number % IMAGES
        answer = client.post("/v2/models/m/infer", json=infer(pixels(1, seed=i)))
        if answer.status_code == 503 and "retry-after" in answer.headers:
            time.sleep(0.2)
            raise ConnectionError("503")
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:200]}")
        made = answer.json()
        outputs = np.concatenate([np.ravel(o["data"]) for o in made["outputs"]])
        return np.allclose(seen.setdefault((made["model_version"], i), outputs), outputs, atol=CLOSE)

    def unlike_what_is_promised(load: Load) -> list[str]:
        return [text for text in load.failed if text.startswith("RuntimeError")]

    with clients(args.clients, ask, url) as load:
        began, last, versions = time.monotonic(), (0, time.monotonic()), 0
        while load.right < args.count or time.monotonic() - began < args.seconds:
            time.sleep(0.05)
            if args.versions and time.monotonic() - began > args.versions * (versions + 1):
                versions += 1
                published(args.models / "m", seed=versions)
            if service.poll() is not None:
                return exit_code(service.returncode) or 128 + signal.SIGTERM  # told to end before it was asked enough
            if load.right > last[0]:
                last = load.right, time.monotonic()
            elif time.monotonic() - last[1] > PATIENCE:
                print(f"no answer for {PATIENCE:g} s: {load.failed[-1:]}", file=sys.stderr)
                return 1
            if load.wrong or unlike_what_is_promised(load):
                print(f"wrong: {load.wrong[:1]} {unlike_what_is_promised(load)[:1]}", file=sys.stderr)
                return 1
    kept = [] if args.versions else range(IMAGES)
    right = [seen["1", i].round(3).tolist() for i in kept]
    service.send_signal(signal.SIGTERM)
    code = service.wait(PATIENCE)
    args.answers.parent.mkdir(parents=True, exist_ok=True)
    args.answers.write_text(json.dumps(right))
    return exit_code(code)


if __name__ == "__main__":
    raise SystemExit(main())
