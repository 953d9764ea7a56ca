"""Python files of a user's, by name: ``file.py``, ``file.py:function``, or as a run keeps them, ``code/KEY/file.py:function``."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from sparring.trainers import code as contents
from sparring.trainers import trusting
from sparring.trainers.code import PREFIX, Code


def is_function(spec: str) -> bool:
    """Whether ``spec`` has the form ``file.py:function``."""
    return ".py:" in spec


def kept(spec: str) -> str:
    """``file.py`` or ``file.py:function`` by the file's content: ``code/KEY/file.py:function``; anything else as it is.

    Raises:
        ValueError: no such file, or one that is not Python.
    """
    file = contents.python_file(spec)
    return spec if file is None else code_of(file).name + spec.removeprefix(file)


def code_of(file: str) -> Code:
    """What ``file.py`` or ``code/KEY/file.py`` means.

    Raises:
        ValueError: no such file, one that is not Python, or a kept one that nothing here holds.
    """
    key = contents.key_of(file)
    if key is None:
        return contents.known_as(contents.read(Path(file)))
    code = contents.known(key)
    if code is None:
        raise ValueError(
            f"{file} is a file of a user's that a run or a model keeps; the copy is not where it was looked for"
        )
    return code


def codes(specs: Iterable[str | None]) -> tuple[Code, ...]:
    """Those of the given names that are files of a user's, each once."""
    files = [file for file in map(contents.python_file, specs) if file is not None]
    return tuple({code.key: code for code in map(code_of, files)}.values())


def function(spec: str) -> Callable[..., Any]:
    """The function of ``file.py:function``. What it prints goes to stderr.

    Raises:
        ValueError: no such file or function.
    """
    file, _, name = spec.rpartition(":")
    if is_function(file):
        raise ValueError(f"{spec} is not file.py:function, which takes no options; set them in the file")
    found = getattr(module(file), name, None)
    if not callable(found):
        raise ValueError(f"{file} has no function {name!r}")

    @functools.wraps(found)
    def called(*args: Any, **options: Any) -> Any:
        with _held(file):
            return found(*args, **options)

    return called


def network(spec: str, config: object) -> Any:
    """What ``file.py:function`` returns for a network's configuration, which it gets where it asks for one: its first argument has
    no default, or is called ``config``.

    Raises:
        ValueError: no such file or function.
    """
    made = function(spec)
    try:
        first = next(iter(inspect.signature(made).parameters.values()), None)
    except (TypeError, ValueError):  # a callable that tells no signature
        first = None
    asks = first is not None and (first.name == "config" or (first.default is first.empty and first.kind in _GIVEN))
    return made(config) if asks else made()


_GIVEN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def module(file: str | Path) -> ModuleType:
    """The module of ``file.py``, imported once per content, under a name that is nobody else's.

    Raises:
        ValueError: no such file, or it ends the process.
        Untrusted: it is somebody else's, and was not admitted.
    """
    code = code_of(str(file))
    trusting.check(code)
    with _held(code.origin):
        return importlib.import_module(f"{PREFIX}{code.key}.{Path(code.main).stem}")


def file_of(name: str) -> str | None:
    """``code/KEY/file.py`` of a module that was imported here; None when it is no user's."""
    code = contents.known(name.removeprefix(PREFIX).partition(".")[0]) if name.startswith(PREFIX) else None
    return code.name if code else None


class OwnCodeError(ValueError):
    """An error that a user's file raised: where, what, and what it had been given."""


def placed(error: BaseException) -> BaseException:
    """The error with the line of a user's file that it came through; as it is where there is none, or where it is one of ours."""
    if isinstance(error, (OwnCodeError, MemoryError, SystemExit)) or type(error).__module__.startswith("sparring."):
        return error
    if not isinstance(error, Exception) or type(error).__name__ == "OutOfMemoryError":
        return error
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in contents.places()]
    if not frames:
        return error
    given = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
    text = " ".join(str(error).split())
    return OwnCodeError(f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}: {text}{given}")


def told(error: BaseException) -> str:
    """An error of a network, a method or a data function in one line: with its place where it has one, and its kind where it has none."""
    own = placed(error)
    if isinstance(own, ValueError):
        return str(own)
    given = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
    return f"{type(error).__name__}: {' '.join(str(error).split())}{given}"


def shown(spec: str) -> str:
    """``code/KEY/own.py:net`` as its owner named it: ``own.py:net``."""
    file, colon, function = spec.rpartition(":") if is_function(spec) else (spec, "", "")
    return spec if contents.key_of(file) is None else Path(file).name + colon + function


def telling(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose errors are :func:`placed`: in an actor the place is known only where they are raised."""

    @functools.wraps(verb)
    def called(*args: Any, **options: Any) -> Any:
        try:
            return verb(*args, **options)
        except Exception as error:
            own = placed(error)
            if own is error:
                raise
            raise own from error

    return called


@contextmanager
def _held(file: str) -> Iterator[None]:
    """A user's code does not write into our answers, nor end our process."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except SystemExit as error:
        raise ValueError(f"{file} ends the process (exit {error.code}); a file that we import must not") from error
