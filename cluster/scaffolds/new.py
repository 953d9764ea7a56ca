"""``sparring new``: a commented file of a user's own and its test, which passes as they are written."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import shlex
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any, Literal

from sparring.cluster import terminal
from sparring.cluster.errors import Exists, UsageError
from sparring.cluster.runs import listing

Kind = Literal["method", "network", "dataset", "recipe"]
TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = {"method": ".py", "network": ".py", "dataset": ".py", "recipe": ".yaml"}
USED = {  # how, once the file is there
    "method": "train {file} --epochs 5",
    "network": "train at --network {file}:{name} --epochs 5",
    "dataset": "train at --data.name {file}:make --attack.eps 0.05 --epochs 5",
    "recipe": "train -c {file} --epochs 5",
}
LONGEST = 24  # letters of a name, with which no formatter breaks a line of the files
LAYERS = ("trainers", "agents", "cluster", "serve")


def write(kind: Kind, name: str, out: Path) -> dict[str, Any]:
    """Write NAME.py (of a recipe NAME.yaml) and test_NAME.py into a folder, which is made where there is none.

    Returns:
        ``kind``, ``name``, ``files``, and two commands: ``test``, which passes, and ``use``.

    Raises:
        UsageError: a name that is none or would hide another, or a folder that cannot be written or is Sparring's code.
        Exists: a file, or a method, network, data set or recipe of Sparring's, has this name.
    """
    _check_name(name)
    if name in _taken(kind):
        raise Exists(f"{name!r} is a {_said(kind)} of Sparring's; take another name: {_again(kind, name)}")
    _check_folder(out)
    file, test = out / f"{name}{SUFFIX[kind]}", out / f"test_{name}.py"
    for path in (file, test):
        if path.exists() or path.is_symlink():
            raise Exists(f"{path} exists and stays as it is; take another name or folder (--out DIR)")
    texts = {file: _text(f"{kind}{SUFFIX[kind]}", name), test: _text(f"test_{kind}.py", name)}
    _check_hiding(kind, name, texts[file])
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x") as written:
                written.write(text)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error}. Name another folder: --out DIR") from error
    use = USED[kind].format(file=shlex.quote(str(file)), name=name)
    return {
        "kind": kind,
        "name": name,
        "files": [str(file), str(test)],
        "test": _test(test),
        "use": f"{terminal.command()} {use}",
    }


def show(result: dict[str, Any]) -> None:
    """What was written, and what to do with it."""
    for file in result["files"]:
        print(f"wrote {file}")
    print(
        f"\nIt works as it is; CHANGE ME marks what to change.\n\ntest it:\n  {result['test']}\nuse it:\n  {result['use']}"
    )


def _test(test: Path) -> str:
    python = terminal.python()
    install = f"{python} -m pip install pytest && " if find_spec("pytest") is None else ""
    return f"{install}{python} -m pytest {shlex.quote(str(test))}"


def _text(template: str, name: str) -> str:
    text = (TEMPLATES / f"{template}.txt").read_text()
    return Template(text).substitute(name=name, Class=_class(name))


def _class(name: str) -> str:
    """``two_views`` -> ``TwoViews``."""
    return "".join(part.capitalize() for part in name.split("_"))


def _check_name(name: str) -> None:
    """Refuse what is no name of a function in lower case, and what hides something when a file of this name lies beside others."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or len(name) > LONGEST:
        raise UsageError(
            f"name {name!r} is not allowed; expected a Python identifier: lower-case letters, digits and '_', a letter "
            f"first, no keyword, at most {LONGEST} in all"
        )
    spec = find_spec(name)
    if hasattr(builtins, name) or (
        spec is not None and spec.origin is not None
    ):  # without: a folder that may be anything
        raise UsageError(f"name {name!r} would hide Python's own or an installed {name!r}; take another: my_{name}")


def _taken(kind: Kind) -> set[str]:
    """Names that Sparring has already."""
    if kind == "network":
        from sparring.agents.networks import NETWORKS

        return set(NETWORKS)
    if kind == "dataset":
        from sparring.trainers.datasets import SOURCES

        return set(SOURCES)
    recipes = {str(entry["name"]) for entry in listing.recipes()} if kind == "recipe" else set()
    return recipes | set(listing.methods())  # a method's name is that of its recipe on digits


def _check_folder(out: Path) -> None:
    if any(out.resolve().is_relative_to(terminal.HOME / layer) for layer in LAYERS):
        raise UsageError(
            f"--out {out} is Sparring's own code, where every file counts as part of it; write into a folder of yours. "
            "How one moves in later: docs/adding-a-method.md"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected a folder")


def _check_hiding(kind: Kind, name: str, text: str) -> None:
    """Refuse a name under which a file would bind one name twice, such as ``nn``."""
    if kind == "recipe":
        return
    bound: Counter[str] = Counter()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound[node.name] += 1
    twice = [one for one, count in bound.items() if count > 1]
    if twice:
        raise UsageError(
            f"name {name!r} is not allowed: the file uses {twice[0]!r} for something else; take another: my_{name}"
        )


def _said(kind: Kind) -> str:
    return {"dataset": "data set", "recipe": "recipe or method"}.get(kind, kind)


def _again(kind: Kind, name: str) -> str:
    return f"{terminal.command()} new {kind} my_{name}"
