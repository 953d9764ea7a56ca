"""The layers and rooms of docs/architecture.md: who may import whom, where Ray may appear, how large things may grow.

Every rule is a function from sources to what is wrong with them, so that each is also shown to fail for a planted violation.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parent.parent
LAYERS = ("trainers", "agents", "cluster", "serve")
BELOW = {
    "trainers": {"trainers"},
    "agents": {"agents", "trainers"},
    "cluster": {"cluster", "agents", "trainers"},
    "serve": {"serve", "agents", "trainers"},
}
ROOMS = (  # each above what it uses
    *("config", "runs", "machines", "datasets", "models", "team", "trackers", "training"),
    *("evaluation", "reports", "search", "pretraining", "frontier", "serving", "sharing", "scaffolds"),
    *("deploy", "commands"),
)
IN_CLUSTER = {"__init__", "__main__", "errors", "terminal"}  # files of cluster/ itself
ANYWHERE_LAZILY = {
    "safetensors",
    "pyarrow",
    "PIL",
    "simplejpeg",
    "sklearn",
    "torchvision",
    "timm",
    "pyautoattack",
    "scipy",
}
TORCH_ONLY = {"torch", "numpy", *ANYWHERE_LAZILY}
HEAVY = {"torch", "numpy", "ray", "matplotlib", "tyro", "fastapi"}  # what an import inside a function is for
API = "cluster/commands/api.py"  # what sparring.py offers
LINES, FUNCTION, PARAMETERS, FILES = 250, 60, 8, 14

Sources = Mapping[str, str]  # "cluster/runs/folder.py" -> its text


def sources() -> Sources:
    files = [CLONE / "sparring.py", *(f for layer in LAYERS for f in sorted((CLONE / layer).rglob("*.py")))]
    return {str(f.relative_to(CLONE)): f.read_text() for f in files}


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def module(name: str) -> str:
    """``cluster/runs/folder.py`` -> ``sparring.cluster.runs.folder``."""
    dotted = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    return dotted if dotted == "sparring" else f"sparring.{dotted}"


def imports(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every import of a file, also inside functions: the module, and the names that are taken from it."""
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


def ours(files: Sources) -> dict[str, set[str]]:
    """Our modules -> those of ours that each imports, type-checking and function-level imports included."""
    known = {module(name) for name in files}
    found: dict[str, set[str]] = {}
    for name, text in files.items():
        seen: set[str] = set()
        for target, names in imports(text):
            inside = {f"{target}.{n}" for n in names} & known
            seen |= inside or ({target} & known)
        found[module(name)] = seen - {module(name)}
    return found


def room(dotted: str) -> str | None:
    """``sparring.cluster.runs.folder`` -> ``runs``; None outside cluster/'s rooms."""
    parts = dotted.split(".")
    return parts[2] if parts[1:2] == ["cluster"] and len(parts) > 2 and parts[2] not in IN_CLUSTER else None


def floor(dotted: str) -> int:
    name = room(dotted)
    return -1 if name is None else ROOMS.index(name)


# Rules ---------------------------------------------------------------------------------------------------------------


def bare_names(files: Sources) -> list[str]:
    """Imports of our folders by a name that may be somebody else's, and relative ones."""
    return [
        f"{name} imports {target}"
        for name, text in files.items()
        for target, _ in imports(text)
        if target.partition(".")[0] in {*LAYERS, "tests"} or target.startswith(".")
    ]


def upward_layers(files: Sources) -> list[str]:
    return [
        f"{a} imports {b}"
        for a, targets in ours(files).items()
        for b in targets
        if a != "sparring" and b.split(".")[1:2] and b.split(".")[1] not in BELOW[a.split(".")[1]]
    ]


def unknown_rooms(files: Sources) -> list[str]:
    inside = [name for name in files if name.startswith("cluster/")]
    strange = [n for n in inside if n.count("/") == 1 and Path(n).stem not in IN_CLUSTER]
    return strange + [n for n in inside if n.count("/") > 1 and n.split("/")[1] not in ROOMS]


def upward_rooms(files: Sources) -> list[str]:
    return [
        f"{a} imports {b}"
        for a, targets in ours(files).items()
        for b in targets
        if a.startswith("sparring.cluster.") and a != "sparring.cluster.__main__" and floor(b) > floor(a)
    ]


def closed_doors(files: Sources) -> list[str]:
    """Imports between rooms of modules that the other room does not list in ``__all__``."""
    listed = {
        name: _all(files[f"cluster/{name}/__init__.py"]) for name in ROOMS if f"cluster/{name}/__init__.py" in files
    }
    return [
        f"{a} imports {b}"
        for a, targets in ours(files).items()
        for b in targets
        if (there := room(b)) and there != room(a) and b.split(".")[3:4] != [] and b.split(".")[3] not in listed[there]
    ]


def unused_doors(files: Sources) -> list[str]:
    """Modules in ``__all__`` that no other room imports."""
    used = {b for a, targets in ours(files).items() for b in targets if room(b) != room(a)}
    listed = [(name, m) for name in ROOMS for m in _all(files.get(f"cluster/{name}/__init__.py", ""))]
    return [f"{name}: {m}" for name, m in listed if f"sparring.cluster.{name}.{m}" not in used]


def room_pages(files: Sources) -> list[str]:
    """An ``__init__.py`` of a room says in three lines what comes in, what goes out and who calls it, and imports nothing."""
    wrong = []
    for name in ROOMS:
        text = files.get(f"cluster/{name}/__init__.py", "")
        lines = [line for line in (ast.get_docstring(parsed(text)) or "").splitlines() if line]
        if list(imports(text)) or len(lines) != 3 or "__all__" not in text:
            wrong.append(name)
    return wrong


def _all(text: str) -> list[str]:
    for node in parsed(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def circles(files: Sources) -> list[str]:
    """Modules that import each other, however far around."""
    graph = ours(files)
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        queue = list(graph[start])
        while queue:
            now = queue.pop()
            if now not in seen:
                seen.add(now)
                queue += graph.get(now, ())
        reach[start] = seen
    return sorted(m for m in graph if m in reach[m])


def hidden_directions(files: Sources) -> list[str]:
    """Imports inside functions of what could as well stand above: neither heavy itself nor leading to something heavy."""
    heavy = _heavy(files)
    found = []
    for name, text in files.items():
        if name == API:
            continue  # whoever imports it pays for what is called
        tree = parsed(text)
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparring."):
                    targets = {f"{node.module}.{a.name}" for a in node.names} | {str(node.module)}
                    if not targets & heavy:
                        found.append(f"{name}, line {node.lineno}: {node.module}")
    return found


def _heavy(files: Sources) -> set[str]:
    """Our modules whose import leads to a heavy library."""
    tops: dict[str, set[str]] = {}
    for name, text in files.items():
        body = [n for n in parsed(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
        known = {module(f) for f in files}
        seen = set()
        for node in body:
            if isinstance(node, ast.Import):
                seen |= {a.name.partition(".")[0] for a in node.names}
            else:
                inside = {f"{node.module}.{a.name}" for a in node.names} & known
                seen |= inside or {node.module if str(node.module) in known else str(node.module).partition(".")[0]}
        tops[module(name)] = {str(s) for s in seen}
    heavy: set[str] = set()
    while True:
        more = {m for m, seen in tops.items() if seen & (HEAVY | heavy)} - heavy
        if not more:
            return heavy
        heavy |= more


def stray_libraries(files: Sources) -> list[str]:
    """Ray outside its places, and libraries below cluster/ and serve/ that an agent's process would not need."""
    found = []
    for name, text in files.items():
        layer = name.split("/")[0]
        tops = {target.partition(".")[0] for target, _ in imports(text)}
        if "ray" in tops and layer != "cluster" and name not in ("agents/actors.py", "serve/app.py"):
            found.append(f"{name} imports ray")
        if layer in ("trainers", "agents") and name != "agents/actors.py":
            foreign = tops - set(sys.stdlib_module_names) - TORCH_ONLY - {"sparring", "__future__"}
            found += [f"{name} imports {top}" for top in sorted(foreign)]
    return found


def long_files(files: Sources) -> list[str]:
    return [name for name, text in files.items() if len(text.splitlines()) > LINES]


def long_functions(files: Sources) -> list[str]:
    return [f"{name}: {f.name}" for name, f in _functions(files) if (f.end_lineno or 0) - f.lineno + 1 > FUNCTION]


def many_parameters(files: Sources) -> list[str]:
    """A value object instead. The hooks of a method name the messages that they get, and the public API is its keywords."""
    found = []
    for name, f in _functions(files):
        if name.startswith("trainers/methods/") or name == API:
            continue
        a = f.args
        named = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        if len([p for p in named if p not in ("self", "cls")]) > PARAMETERS:
            found.append(f"{name}: {f.name}")
    return found


def full_rooms(files: Sources) -> list[str]:
    return [n for n in ROOMS if sum(name.startswith(f"cluster/{n}/") for name in files) > FILES]


def _functions(files: Sources) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, text in files.items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node


# Tests ---------------------------------------------------------------------------------------------------------------

LONG = "def f():\n" + "    pass\n" * 60
MANY = "def f(a, b, c, d, *, e, f, g, h, i): ...\n"
PLANTED = [  # a rule, and sources added to ours that break it
    (bare_names, {"agents/new.py": "from trainers import data\n"}),
    (bare_names, {"agents/new.py": "from . import agent\n"}),
    (upward_layers, {"trainers/new.py": "def f():\n    from sparring.agents import agent\n"}),
    (upward_layers, {"serve/new.py": "from sparring.cluster.runs import folder\n"}),
    (unknown_rooms, {"cluster/new.py": ""}),
    (unknown_rooms, {"cluster/helpers/new.py": ""}),
    (upward_rooms, {"cluster/runs/new.py": "def f():\n    from sparring.cluster.training import launch\n"}),
    (closed_doors, {"cluster/training/new.py": "from sparring.cluster.team import ray_team\n"}),
    (unused_doors, {"cluster/team/__init__.py": '__all__ = ["ray_team"]\n'}),
    (room_pages, {"cluster/team/__init__.py": '"""Agents."""\n__all__ = []\n'}),
    (
        circles,
        {"agents/a.py": "import sparring.agents.b\n", "agents/b.py": "def f():\n    from sparring.agents import a\n"},
    ),
    (hidden_directions, {"cluster/runs/new.py": "def f():\n    from sparring.cluster import errors\n"}),
    (stray_libraries, {"agents/new.py": "import ray\n"}),
    (stray_libraries, {"trainers/new.py": "import pandas\n"}),
    (long_files, {"agents/new.py": "\n" * 251}),
    (long_functions, {"agents/new.py": LONG}),
    (many_parameters, {"agents/new.py": MANY}),
    (full_rooms, {f"cluster/runs/new{i}.py": "" for i in range(FILES)}),
]
RULES = list(dict.fromkeys(rule for rule, _ in PLANTED))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)
def test_rule(rule: object) -> None:
    assert rule(sources()) == []  # type: ignore[operator]


@pytest.mark.parametrize(("rule", "planted"), PLANTED, ids=lambda p: getattr(p, "__name__", ""))
def test_a_planted_violation_is_seen(rule: object, planted: Sources) -> None:
    assert rule({**sources(), **planted})  # type: ignore[operator]


def test_the_drawing_of_the_rooms_is_their_imports() -> None:
    """docs/architecture.md lists per room those below that it imports; what is written there is what is."""
    page = (CLONE / "docs" / "architecture.md").read_text()
    drawn = {name: set(below.split()) - {"-"} for name, below in re.findall(r"^  (\w+)/ +-> +([\w -]+)$", page, re.M)}
    seen: dict[str, set[str]] = {name: set() for name in ROOMS}
    for a, targets in ours(sources()).items():
        if (here := room(a)) is not None:
            seen[here] |= {there for b in targets if (there := room(b)) not in (None, here)}
    assert drawn == seen


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
