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
from collections.abc import Callable, Iterator, Mapping
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


def python_file(spec: object) -> str | None:
    """``file.py`` of ``file.py:function`` or ``file.py``; None of anything else."""
    if not isinstance(spec, str):
        return None
    file = spec.rpartition(":")[0] if ".py:" in spec else spec
    return file if ".py:" in spec or spec.endswith(".py") else None


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
                files[name] = importlib.util.decode_source((path.parent / name).read_bytes())
                own = Path(name).stem if name == path.name else ""
                waiting += _beside(ast.parse(files[name]), Path(name), path.parent, but=own)
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"{path.parent / name} is not Python: {error}") from error
    return Code(path.name, files, str(path))


def _beside(tree: ast.AST, name: Path, folder: Path, *, but: str) -> Iterator[str]:
    """Files of ``folder`` that a module in it imports, as Python would find them if it were run there.

    Args:
        but: name of the file itself: ``timm.py`` that imports timm means the library.
    """
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
            if parts[0] == but or not _ours(parts[0], folder):
                continue
            for length in range(1, len(parts) + 1):
                stem = "/".join(parts[:length])
                yield from (file for file in (f"{stem}.py", f"{stem}/__init__.py") if (folder / file).is_file())


def _ours(top: str, folder: Path) -> bool:
    """Whether a module of this name in the user's folder is meant, and not Python's, ours or an installed one."""
    if not top or top in sys.stdlib_module_names or top == "sparring":
        return False
    regular = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
    if regular or not (folder / top).is_dir():
        return regular
    found = importlib.util.find_spec(top)
    return found is None or str(folder / top) in [str(Path(p)) for p in found.submodule_search_locations or []]


def key_of(name: str) -> str | None:
    """KEY of ``code/KEY/file.py``; None for any other name, such as that of a file in a folder ``code/`` of a user's."""
    match = re.fullmatch(rf"{KEPT}/([0-9a-f]{{16}})/[^/]+", name)
    return match[1] if match else None


def known_as(code: Code) -> Code:
    """Know this code from now on; the one that was known before, where it is the same."""
    return _known.setdefault(code.key, code)


def known(key: str) -> Code | None:
    """What was read, arrived or found here before."""
    return _known.get(key)


def places() -> set[str]:
    """Where the files of all known code were read, as tracebacks name them."""
    return {str(Path(code.origin).parent / name) for code in _known.values() for name in code.files}


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
        tops = {f.partition("/")[0].removesuffix(".py") for f in code.files} - ({stem} if file == code.main else set())
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
