"""A user's file by its content, with the modules beside it that it imports: read, kept, carried to other processes, imported.

own.py, blocks.py --read--> Code --keep--> RUN/code/KEY/ --know--> any later process
Code --pickle--> an actor, which knows it once it has arrived;   sparring_user_KEY.own, .blocks: imported from memory
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "sparring_user_"  # of the packages as which users' files are imported
KEPT = "code"  # first part of a kept file's name, and the folder of a run that holds such files


@dataclass(frozen=True, slots=True)
class Code:
    """A file of a user's and the modules beside it that it imports."""

    main: str  # its name: own.py
    files: Mapping[str, str]  # own.py, blocks.py, parts/__init__.py -> source
    origin: str  # where it was read, and data beside it still lies

    @property
    def sha256(self) -> str:
        """Of names and content; where the file was is no part of it."""
        return hashlib.sha256(json.dumps([self.main, dict(sorted(self.files.items()))]).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Names it among all others: by content, and by place, where it may read data beside itself."""
        return hashlib.sha256(f"{self.sha256} {self.origin}".encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """``code/KEY/own.py``."""
        return f"{KEPT}/{self.key}/{self.main}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.main, dict(self.files), self.origin)


_known: dict[str, Code] = {}


def _arrived(main: str, files: Mapping[str, str], origin: str) -> Code:
    code = Code(main, files, origin)
    return _known.setdefault(code.key, code)


def read(path: Path) -> Code:
    """A file and what it imports from beside it.

    Raises:
        ValueError: no such file, or one that is not Python.
    """
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    files: dict[str, str] = {}
    waiting = [path.name]
    while waiting:
        name = waiting.pop()
        if name not in files:
            try:
                files[name] = (path.parent / name).read_bytes().decode()
                waiting += _beside(ast.parse(files[name]), Path(name), path.parent)
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"{path.parent / name} is not Python: {error}") from error
    code = Code(path.name, files, str(path))
    return _known.setdefault(code.key, code)


def _beside(tree: ast.AST, name: Path, folder: Path) -> Iterator[str]:
    """Files of ``folder`` that a module in it imports, as Python would find them if it were run there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(name.parent.parts)[: len(name.parent.parts) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            dotted = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        else:
            continue
        for one in dotted:
            parts = one.strip(".").split(".")
            if not _ours(parts[0], folder):
                continue
            for length in range(1, len(parts) + 1):
                stem = "/".join(parts[:length])
                yield from (file for file in (f"{stem}.py", f"{stem}/__init__.py") if (folder / file).is_file())


def _ours(top: str, folder: Path) -> bool:
    """Whether a module of this name in the user's folder is meant, and not Python's, ours or an installed one."""
    if not top or top in sys.stdlib_module_names or top == "sparring":
        return False
    regular = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
    return regular or ((folder / top).is_dir() and importlib.util.find_spec(top) is None)


def known(key: str) -> Code | None:
    """What was read, arrived or found here before."""
    return _known.get(key)


def keep(these: Sequence[Code], folder: Path) -> list[str]:
    """Keep code in ``folder/code``: a folder of files per content, and ``KEY.json`` that says what they are.

    Returns:
        The files' names in ``folder``.
    """
    written = []
    for code in these:
        home = folder / KEPT / code.key
        for name, source in code.files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(source, newline="")
        facts = {"main": code.main, "files": sorted(code.files), "origin": code.origin, "sha256": code.sha256}
        home.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        written += [f"{KEPT}/{code.key}.json", *(f"{KEPT}/{code.key}/{name}" for name in code.files)]
    return written


def find(spec: str, *, near: Path) -> None:
    """Know the kept file that ``spec`` names; it lies in ``near`` or in one of the four folders around it.

    Raises:
        ValueError: a kept file is missing or altered.
    """
    parts = Path(spec).parts
    if parts[0] != KEPT or len(parts) != 3 or parts[1] in _known:
        return
    for folder in (near, *near.resolve().parents[:4]):
        if (folder / KEPT / f"{parts[1]}.json").is_file():
            know(folder)
            return


def know(folder: Path) -> list[Code]:
    """What ``folder/code`` keeps, from now on known by name.

    Raises:
        ValueError: a kept file is missing or altered.
    """
    found = []
    names = [p for p in sorted((folder / KEPT).glob("*.json")) if re.fullmatch("[0-9a-f]{16}", p.stem)]
    for path in names:
        home = path.with_suffix("")
        try:
            facts = json.loads(path.read_bytes())
            with_source = {name: (home / name).read_bytes().decode() for name in facts["files"]}
            code = Code(facts["main"], with_source, facts["origin"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{home}, a kept copy of a user's file, cannot be read: {error}") from error
        if code.key != home.name:
            raise ValueError(
                f"{home}, the kept copy of {code.origin}, is altered; bring it back, or move the folder away"
            )
        found.append(_known.setdefault(code.key, code))
    return found


def know_all(folder: Path) -> list[Code]:
    """What a published model keeps, an ensemble's members' too; errors as :func:`know`."""
    return [code for home in (folder, *sorted(folder.glob("members/*"))) for code in know(home)]


def changed(these: Iterable[Code]) -> list[str]:
    """One sentence per file that is no longer what was kept of it."""
    said = []
    for code in these:
        if not Path(code.origin).is_file():
            continue
        try:
            now = read(Path(code.origin)).sha256
        except ValueError:
            now = "no Python"
        if now != code.sha256:
            said.append(
                f"{code.origin} has changed since it was kept (sha256 {code.sha256[:12]}, now {now[:12]}); the kept copy, "
                f"{code.name}, is used"
            )
    return said


class _FromMemory(MetaPathFinder, Loader):
    """Imports ``sparring_user_KEY.own`` and its neighbours from known code, alive or unpickled."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX):
            return None
        code, stem = self._place(fullname)
        if code is None:
            return None
        package = not stem or f"{stem}/__init__.py" in code.files or any(f.startswith(f"{stem}/") for f in code.files)
        if not package and f"{stem}.py" not in code.files:
            return None
        return ModuleSpec(fullname, self, origin=code.origin, is_package=package)

    def exec_module(self, module: ModuleType) -> None:
        code, stem = self._place(module.__name__)
        assert code is not None
        file = next((f for f in (f"{stem}.py", f"{stem}/__init__.py") if f in code.files), None)
        if file is None:
            return
        module.__file__ = str(Path(code.origin).parent / file)  # data that it reads beside itself stays where it is
        tops = {f.partition("/")[0].removesuffix(".py") for f in code.files}
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importing(code.key, tops)}
        exec(compile(code.files[file], module.__file__, "exec"), module.__dict__)

    def _place(self, fullname: str) -> tuple[Code | None, str]:
        key, _, rest = fullname.removeprefix(PREFIX).partition(".")
        return _known.get(key), rest.replace(".", "/")


def _importing(key: str, neighbours: set[str]) -> Callable[..., Any]:
    """``import`` as a kept file has it: its neighbours are those that were kept with it, whenever it asks for them."""

    def imported(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level or name.partition(".")[0] not in neighbours:
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{PREFIX}{key}.{name}", globals, locals, fromlist, 0)
        return found if fromlist else getattr(found, name.partition(".")[0])

    return imported


sys.meta_path.append(_FromMemory())
