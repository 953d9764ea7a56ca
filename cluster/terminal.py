"""How we print: tables, paths and per cents as a person reads them."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent  # the folder that holds trainers/, agents/, cluster/ and serve/


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        shown.add_row(*row)
    shown.columns[0].overflow = "fold"  # a name is never shortened
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000
    with console.capture() as printed:
        console.print(shown)
    print("\n".join(line.rstrip() for line in printed.get().rstrip("\n").splitlines()))


def paragraph(text: str) -> None:
    """Print words in lines of the terminal's width; in one line where there is no terminal."""
    width = shutil.get_terminal_size().columns
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines) if sys.stdout.isatty() else text)


def command() -> str:
    """How this user can call the command from here: by name, as the script beside the interpreter, or from the clone."""
    if shutil.which("sparring"):
        return "sparring"
    script = Path(sys.executable).parent / "sparring"
    if script.is_file():
        return os.path.relpath(script)
    return f"{sys.executable} {HOME / 'sparring.py'}"


def python() -> str:
    """How this user can call this interpreter from here, with ``sparring`` importable: where it is not installed, by PYTHONPATH."""
    found = shutil.which("python")
    beside = found is not None and Path(found).parent == Path(sys.executable).parent
    called = "python" if beside else relative(sys.executable)
    installed = shutil.which("sparring") or (Path(sys.executable).parent / "sparring").is_file()
    return called if installed else f"PYTHONPATH={HOME} {called}"


@contextmanager
def once(library: str) -> Iterator[None]:
    """Inside the block an OSError of a library's own thread is not printed: the library raises it again when it is next asked."""
    before = threading.excepthook

    def hook(seen: threading.ExceptHookArgs) -> None:
        if not (isinstance(seen.exc_value, OSError) and type(seen.thread).__module__.startswith(library)):
            before(seen)

    threading.excepthook = hook
    try:
        yield
    finally:
        if threading.excepthook is hook:
            threading.excepthook = before


def is_terminal() -> bool:
    """Whether stderr is a terminal in which things may be redrawn and coloured."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def percent(value: float) -> str:
    """0.987 -> 98.7 %."""
    return f"{100 * value:.1f} %"


def with_interval(value: float, ci95: Sequence[float]) -> str:
    """0.71 and its interval -> 71.0 % [66.1, 75.4]."""
    return f"{percent(value)} [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"


def radius(threat: str) -> str:
    """A threat as people write it, in bytes where it is a whole number of them: linf:0.0313725 -> linf:8/255."""
    norm, _, eps = threat.partition(":")
    of_byte = 255 * float(eps)
    whole = norm == "linf" and round(of_byte) >= 1 and abs(of_byte - round(of_byte)) < 1e-4
    return f"{norm}:{round(of_byte)}/255" if whole else threat


def duration(seconds: float) -> str:
    """62 -> 1m02s, 5000 -> 1h23m, four million -> 46 days."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{s:02}s" if minutes else f"{s}s"


def relative(path: Path | str) -> str:
    """A path below the working directory without it; any other as it is."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
