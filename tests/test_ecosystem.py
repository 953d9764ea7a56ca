"""docs/ecosystem.md: every line of its tables is run, with the packages that it is about."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import CLONE, PATIENCE

PAGE = CLONE / "docs" / "ecosystem.md"
PACKAGES = [CLONE / ".clients" / name for name in ("lightning", "transformers")]
BEFORE = """
import shlex
import lightning, numpy, onnxruntime, pandas, ray, sparring, timm, torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification
from sparring.cluster.commands.main import main
from sparring.cluster.machines import session

if __name__ == "__main__":
    session.start(num_cpus=2, object_store_memory=256 * 2**20)
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

        def forward(self, x):
            return self.net(x)

    lit = Lit()
    options = dict(num_channels=1, embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=10, layer_type="basic")
    hf = ResNetForImageClassification(ResNetConfig(**options)).eval()
    flags = "--max-steps 4 --batch-size 32 --attack.steps 2 --checkpoint.every 2 --team local --no-report --name first"
    assert main(["train", "mat", *flags.split()]) == 0
    assert main(["publish", "first@peer0", "--as", "mine"]) == 0

    def command(line):
        print("$", line, flush=True)
        assert main(shlex.split(line)[1:]) == 0, line

"""


def lines() -> list[str]:
    """The code of every row's last cell."""
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("|") and "`" in row]
    return [re.findall(r"`([^`]+)`", row.rstrip("| ").rpartition(" | ")[2])[-1] for row in rows]


def test_every_row_has_its_line() -> None:
    found = lines()
    assert len(found) > 20
    assert all(line.startswith("sparring ") or "(" in line for line in found), found


@pytest.mark.soak
def test_every_line(tmp_path: Path) -> None:
    missing = [p.name for p in PACKAGES if not p.is_dir()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (make clients)")
    steps = [f"command({line!r})" if line.startswith("sparring ") else f"print({line!r}); {line}" for line in lines()]
    (tmp_path / "lines.py").write_text(BEFORE + "\n".join(f"    {step}" for step in steps))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [CLONE, *PACKAGES]))}
    done = subprocess.run(
        [sys.executable, "lines.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
