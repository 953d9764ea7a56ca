"""Who holds what in memory while two agents train on CIFAR-10: the images are mapped, so a node has them once.

    python benchmarks/memory.py --cifar FOLDER [--save]

``sparring train mat`` with small_cnn, looked at in /proc (Linux) until both agents have stepped for a while. Per process, in MiB: resident memory, what is
its own alone, and how much of the mapped images is resident and how much of that is its share (pages divided among those who map them).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from common import CLONE, circumstances, save
from start import MARK, is_agent

LOOKS = 5
MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="the folder that holds CIFAR-10")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/memory.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = looked(args.cifar.resolve(), Path(folder))
    result = circumstances(seed=0) | {"n": LOOKS, "processes": found}
    print(save("memory", result) if args.save else json.dumps(result))


def looked(cifar: Path, folder: Path) -> dict[str, dict[str, float]]:
    """The last look at each process."""
    flags = ["--data.name", "cifar10", "--data.root", str(cifar), "--network", "small_cnn", "--batch-size", "32"]
    command = [sys.executable, str(CLONE / "sparring.py"), "train", "mat", *flags, "--no-report", "--time-budget=300"]
    mark = secrets.token_hex(8)
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, MARK: mark}, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            looks, found = 0, dict[str, dict[str, float]]()
            while looks < LOOKS:
                time.sleep(2)
                assert process.poll() is None, (folder / "said").read_text()
                stepping = any((folder / "runs").glob("*/metrics.jsonl")) and _lines(folder) > 4
                if not stepping:
                    continue
                looks += 1
                agents = [p for p in Path("/proc").glob("[0-9]*") if _is_agent(p, mark)]
                named = {"driver": Path(f"/proc/{process.pid}")} | {f"agent {i}": p for i, p in enumerate(agents)}
                found = {name: held(path) for name, path in named.items()}
        finally:
            process.terminate()
            process.wait()
    return found


def _lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in (folder / "runs").glob("*/metrics.jsonl"))


def _is_agent(path: Path, mark: str) -> bool:
    with suppress(OSError):
        return is_agent(path, mark)
    return False  # it has ended


def held(path: Path) -> dict[str, float]:
    """Of a process, MiB."""
    whole, images, name = Counter[str](), Counter[str](), ""
    for line in (path / "smaps").read_text().splitlines():
        if mapping := MAPPING.fullmatch(line):
            name = mapping[1]
            continue
        key, _, value = line.partition(":")
        if value.endswith("kB"):
            whole[key] += int(value.split()[0])
            images[key] += int(value.split()[0]) if name.endswith(".arrow") else 0
    own = whole["Private_Dirty"] + whole["Private_Clean"]
    values = {"resident": whole["Rss"], "own": own, "images": images["Rss"], "share of images": images["Pss"]}
    return {name: round(kib / 1024, 1) for name, kib in values.items()}


if __name__ == "__main__":
    main()
