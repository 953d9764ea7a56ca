"""examples/tour.ipynb, as its reader runs it: every cell, in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import CLONE, with_docs_tools

TOUR = CLONE / "examples" / "tour.ipynb"
SMALL = 100_000  # bytes of a notebook, pictures included
RUN = """
import sys, nbformat, nbclient
tour = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(tour)
nbclient.NotebookClient(tour, timeout=600, kernel_name="python3").execute()
nbformat.write(tour, "tour.ipynb")
"""


def test_it_is_committed_without_outputs() -> None:
    cells = json.loads(TOUR.read_text())["cells"]
    assert [c for c in cells if c.get("outputs") or c.get("execution_count")] == []
    assert TOUR.stat().st_size < SMALL


@pytest.mark.soak
def test_every_cell_runs(tmp_path: Path) -> None:
    env = with_docs_tools("nbclient", "nbformat", "ipykernel", "matplotlib_inline")
    command = [sys.executable, "-c", RUN, str(TOUR)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = (tmp_path / "tour.ipynb").read_text()
    outputs = [o for c in json.loads(said)["cells"] for o in c.get("outputs", [])]
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 1
    assert len(said) < SMALL
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "models", "report.html", "tour.ipynb"}
    assert (tmp_path / "models" / "tour" / "1" / "MANIFEST.json").is_file()
