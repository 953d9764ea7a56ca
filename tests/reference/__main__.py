"""``make golden DIR=...``: every array file of a folder, one line each; fails on a difference and on a file it does not know."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.reference import check


def main(folder: Path) -> int:
    """Check all files; the number that failed."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".npz", ".json"))
    if not files:
        print(f"{folder} holds no .npz or .json file; write make golden DIR=FOLDER")
        return 1
    failed = 0
    for path in files:
        started = time.perf_counter()
        try:
            check(path)
        except Exception as error:  # whatever one file does, the others are still looked at
            failed += 1
            print(f"FAIL  {path.name}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"ok    {path.name}  {time.perf_counter() - started:.1f} s", flush=True)
    print(f"{len(files) - failed} of {len(files)} files match")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 1))
