"""The layers of docs/architecture.md: who may import whom, where Ray may appear, and how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parent.parent
FILES = sorted(f for d in ("trainers", "agents", "cluster", "serve") for f in (CLONE / d).rglob("*.py"))
BELOW = {
    "trainers": {"trainers"},
    "agents": {"agents", "trainers"},
    "cluster": {"cluster", "agents", "trainers"},
    "serve": {"serve", "agents", "trainers"},
}
ANYWHERE_LAZILY = {"safetensors", "pyarrow", "PIL", "sklearn", "torchvision", "timm"}
TORCH_ONLY = {"torch", "numpy", *ANYWHERE_LAZILY}


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def name(path: Path) -> str:
    return str(path.relative_to(CLONE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_down(path: Path) -> None:
    layer = path.relative_to(CLONE).parts[0]
    ours = imports(path) & {*BELOW, "sparring", "tests"}
    assert ours <= BELOW[layer]
    allowed_ray = layer == "cluster" or name(path) in ("agents/actors.py", "serve/app.py")
    assert allowed_ray or "ray" not in imports(path)
    if layer in ("trainers", "agents") and name(path) != "agents/actors.py":
        foreign = imports(path) - set(sys.stdlib_module_names) - set(BELOW)
        assert foreign <= TORCH_ONLY


@pytest.mark.parametrize("path", [*FILES, CLONE / "sparring.py"], ids=name)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 260
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "tyro", "rich"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
import sparring
config = sparring.recipe("mat", team="local", max_steps=2, batch_size=8, network="small_cnn:width=2")
run = sparring.train(config, runs_dir=sys.argv[2], quiet=True)
assert set(run.agents) == {"peer0", "peer1"}, run.agents
model = sparring.load(run.path, agent="peer1")
result = sparring.evaluate(model, "digits", attacks=["fgsm"], threats=["linf:0.1"], examples=16)
assert result.n == 16
"""


def test_local_team_needs_neither_ray_nor_tyro(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, str(CLONE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
