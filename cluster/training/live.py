"""The live view in a terminal: one row per agent, redrawn in place, with as many columns as fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sparring.trainers.types import Metrics

HIDDEN = {"lr", "total"}
SPLIT = ("craft", "answer", "predict", "learn", "exchange", "idle")  # where an agent's time goes


class LiveView:
    """Shows the newest step of every agent, the way to go, and recent events above."""

    def __init__(self, console: Console, *, total: int) -> None:
        self.console, self.total = console, total
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._live.start()

    def event(self, text: str) -> None:
        """A line that stays."""
        self._live.console.print(text, highlight=False, markup=False)

    def step(self, t: int, metrics: Mapping[str, Metrics], *, epoch: str, per_second: float, eta: str) -> None:
        """Redraw."""
        self._live.update(self.render(t, metrics, epoch=epoch, per_second=per_second, eta=eta))

    def render(
        self, t: int, metrics: Mapping[str, Metrics], *, epoch: str, per_second: float, eta: str
    ) -> RenderableType:
        """The table and the bar below it."""
        room = self.console.width
        names = list(dict.fromkeys(k for m in metrics.values() for k in m.values if k not in HIDDEN))
        times = {agent: split(m.seconds) for agent, m in metrics.items()}
        columns = {"agent": list(metrics), "loss": _column(metrics, "total")}
        columns |= {"images/s": [f"{per_second:,.0f}"] * len(metrics)}
        for name in sorted(names, key=lambda n: not n.endswith("accuracy")):  # what counts most comes first
            header = name.replace("_accuracy", " acc").replace("_", " ")
            more = {**columns, header: _column(metrics, name)}
            columns = more if _width(more) <= room else columns
        with_time = {**columns, "time": list(times.values())}
        columns, below = (with_time, {}) if _width(with_time) <= room else (columns, times)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, header in enumerate(columns):
            table.add_column(header, justify="right" if i else "left", no_wrap=True)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        where = f"step {t + 1}/{self.total}  {epoch}  eta {eta}"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(self.total, t + 1, width=max(4, min(30, room - len(where) - 2))), Text(where))
        lines = [Text(f"{agent}: {text}"[:room].rstrip()) for agent, text in below.items()]
        return Group(table, *lines, bar)

    def close(self) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()


def _column(metrics: Mapping[str, Metrics], name: str) -> list[str]:
    return [shown(name, m.values[name]) if name in m.values else "" for m in metrics.values()]


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """Characters of a table of these columns, two of which are apart by two."""
    return sum(max(map(len, (header, *cells))) for header, cells in columns.items()) + 2 * (len(columns) - 1)


def shown(name: str, value: float) -> str:
    """A loss with four digits, an accuracy in per cent."""
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:.4g}"


def split(seconds: Mapping[str, float]) -> str:
    """``craft 62 % answer 9 % ...``: the verbs' shares of the step."""
    whole = sum(seconds.values()) or 1.0
    return " ".join(f"{k} {100 * seconds[k] / whole:.0f}%" for k in SPLIT if seconds.get(k, 0) > 0.005 * whole)
