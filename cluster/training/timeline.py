"""One step as a timeline that chrome://tracing and ui.perfetto.dev show: a row per agent, a bar per call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sparring.agents.checkpoint import write
from sparring.agents.spec import Facts
from sparring.trainers.types import Metrics

STEP = 10  # the first ones are slow


def save(path: Path, t: int, metrics: Mapping[str, Metrics], facts: Mapping[str, Facts]) -> None:
    """Write the Chrome trace of step ``t``; agents of several hosts stand where their hosts' clocks put them."""
    begun = min(start for m in metrics.values() for _, start, _ in m.spans)
    events: list[dict[str, object]] = []
    for row, (agent, m) in enumerate(metrics.items()):
        where = {"pid": facts[agent].host, "tid": row}
        events.append({"ph": "M", "name": "thread_name", "args": {"name": f"{agent} ({facts[agent].device})"}, **where})
        events += [
            {"ph": "X", "name": name, "cat": f"step {t}", "ts": 1e6 * (start - begun), "dur": 1e6 * took, **where}
            for name, start, took in m.spans
        ]
    write(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, indent=1).encode())
