"""docs/reference.md against the code: no exit code and no environment variable is missing there, and none is invented."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import pytest

from sparring.cluster import errors
from sparring.cluster.machines import session
from sparring.cluster.serving import balancer
from tests.helpers import CLONE
from tests.test_layers import parsed, sources

PAGE = (CLONE / "docs" / "reference.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
CODES = {int(row[0]): row for row in ROWS if row[0].isdigit()}
VARIABLES = {row[0].strip("`"): row[1].strip("`") for row in ROWS if row[0].startswith("`")}
COMPUTED: dict[str, dict[str, str | None]] = {  # a file and its key in a loop -> what the loop goes through
    "cluster/machines/session.py: name": {**session.QUIET},
    "cluster/serving/balancer.py: key": {"RAY_SERVE_*": None, balancer.LIMITS: None},
    "cluster/serving/balancer.py: added": {},
}

Sources = Mapping[str, str]


def test_every_error_stands_at_its_code() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.SparringError)]
    shown = {name: code for code, row in CODES.items() for name in re.findall(r"`(\w+)`", row[1])}
    assert shown == {k.__name__: k.code for k in kinds} | {"ValueError": errors.exit_code(ValueError())}
    assert set(CODES) == {0, *shown.values()}


def test_commands_that_end_with_a_code_of_their_own_stand_there() -> None:
    for name, text in ((n, t) for n, t in sources().items() if "SystemExit" in t):
        for function in (n for n in ast.walk(parsed(text)) if isinstance(n, ast.FunctionDef)):
            for end in (n for n in ast.walk(function) if isinstance(n, ast.Raise)):
                if (found := re.fullmatch(r"SystemExit\((\d+)\)", ast.unparse(end.exc) if end.exc else "")) is not None:
                    assert f"`sparring {function.name}`" in CODES[int(found[1])][2], f"{name}: {function.name}"


def environment(files: Sources) -> dict[str, str | None]:
    """Environment variables of the sources, each with the value that is set where there is none.

    Raises:
        ValueError: the environment is used in a way that does not tell which variable is meant.
    """
    found: dict[str, str | None] = {}
    for file, text in ((f, t) for f, t in files.items() if re.search(r"environ\b|environb|getenv", t)):
        above = {child: node for node in ast.walk(parsed(text)) for child in ast.iter_child_nodes(node)}
        for node in above:
            used = ast.unparse(node) if isinstance(node, ast.Attribute | ast.alias) else ""
            if used in ("os.getenv", "os.environb", "getenv", "environ"):
                raise ValueError(f"{file}: {used}; write os.environ")
            if used == "os.environ":
                key, value = _asked(node, above)
                names = _names(key, files)
                found |= dict.fromkeys(names, value) if names else COMPUTED[f"{file}: {ast.unparse(key)}"]
    return found


def _asked(node: ast.AST, above: Mapping[ast.AST, ast.AST]) -> tuple[ast.expr, str | None]:
    """The variable that an expression around ``os.environ`` is about, and the value of ``setdefault``."""
    parent = above[node]
    if isinstance(parent, ast.Attribute) and isinstance(call := above[parent], ast.Call):
        sets = parent.attr == "setdefault" and isinstance(call.args[1], ast.Constant)
        return call.args[0], ast.literal_eval(call.args[1]) if sets else None
    if isinstance(parent, ast.Compare):
        return parent.left, None
    if isinstance(parent, ast.Subscript):
        return parent.slice, None
    raise ValueError(f"which variable is {ast.unparse(parent)}?")


def _names(key: ast.expr, files: Sources) -> set[str]:
    """What a key is: itself, or the value of the constant of that name."""
    if isinstance(key, ast.Constant):
        return {key.value}
    wanted = rf"^{ast.unparse(key)} = \"(\w+)\"" if isinstance(key, ast.Name) and key.id.isupper() else r"(?!)"
    return {value for text in files.values() for value in re.findall(wanted, text, re.M) if "_" in value}


def test_environment_variables() -> None:
    found = environment(sources())
    assert set(VARIABLES) == set(found)
    assert {n: VARIABLES[n] for n, value in found.items() if value is not None} == {n: v for n, v in found.items() if v}


@pytest.mark.parametrize(
    "planted",
    [
        "import os\nos.environ.get('SPARRING_NEW')\n",
        'import os\nNEW = "SPARRING_NEW"\nos.environ[NEW]\n',
        "import os\n'SPARRING_NEW' in os.environ\n",
        "import os\nos.environ.setdefault('RAY_worker_niceness', '15')\n",
    ],
    ids=["get", "index", "in", "setdefault"],
)
def test_a_new_variable_is_seen(planted: str) -> None:
    assert environment({"agents/new.py": planted}).items() - environment(sources()).items()


@pytest.mark.parametrize(
    "planted",
    ["import os\nos.getenv('A')\n", "from os import environ\n", "import os\nfor n in 'AB':\n    os.environ[n]\n"],
    ids=["getenv", "imported", "loop"],
)
def test_a_use_that_names_none_is_refused(planted: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        environment({"agents/new.py": planted})
