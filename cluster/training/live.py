"""The live view in a terminal: one row per agent, redrawn in place."""

from __future__ import annotations

from collections.abc import Mapping

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
        learners = {a: m for a, m in metrics.items() if m.values}
        names = list(dict.fromkeys(k for m in learners.values() for k in m.values if k not in HIDDEN))
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("agent", no_wrap=True)
        for name in ("loss", *(n.replace("_accuracy", " acc").replace("_", " ") for n in names), "images/s", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        for agent, m in metrics.items():
            values = [shown(k, m.values[k]) if k in m.values else "" for k in ("total", *names)]
            table.add_row(agent, *values, f"{per_second:,.0f}", split(m.seconds))
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(self.total, t + 1, width=30), Text(f"step {t + 1}/{self.total}  {epoch}  eta {eta}"))
        return Group(table, bar)

    def close(self) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()


def shown(name: str, value: float) -> str:
    """A loss with four digits, an accuracy in per cent."""
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:.4g}"


def split(seconds: Mapping[str, float]) -> str:
    """``craft 62 % answer 9 % ...``: the verbs' shares of the step."""
    whole = sum(seconds.values()) or 1.0
    return " ".join(f"{k} {100 * seconds[k] / whole:.0f}%" for k in SPLIT if seconds.get(k, 0) > 0.005 * whole)
