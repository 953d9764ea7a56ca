"""Who asks whom: one SVG per method, drawn from its ``step``: docs/images/methods/NAME.svg.

python docs/pictures.py           # write them
python docs/pictures.py --check   # fail when one differs from its method
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE))

from sparring.trainers import methods  # noqa: E402

FOLDER = CLONE / "docs" / "images" / "methods"
COLUMN, ROW, BOX_WIDTH, BOX_HEIGHT, LEFT, TOP = 150, 64, 104, 34, 132, 18
COLOURS = {"craft": "#d9534f", "answer": "#3b7dd8", "predict": "#7a5cc2", "learn": "#2e8b57"}


@dataclass
class Call:
    """One verb of one agent; what it waits for."""

    role: str
    verb: str
    label: str
    needs: list[Call]
    level: int = 0


@dataclass
class Recorder:
    """A team whose handles note their calls instead of making them."""

    calls: list[Call] = field(default_factory=list)

    def __getitem__(self, role: str) -> Handle:
        return Handle(self, role)

    def note(self, role: str, verb: str, label: str, payloads: Any) -> Call:
        """Add a call behind everything that it needs and behind the agent's last one."""
        needs = _calls_in(payloads)
        own = [c for c in self.calls if c.role == role][-1:]
        call = Call(role, verb, label, needs, 1 + max((c.level for c in [*needs, *own]), default=-1))
        self.calls.append(call)
        return call


@dataclass
class Handle:
    """An agent as ``step`` sees it."""

    team: Recorder
    role: str

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Call:
        return self.team.note(self.role, "craft", "craft" if attack == "train" else f"craft {attack}", hints)

    def answer(self, t: int, on: Any = None) -> Call:
        return self.team.note(self.role, "answer", "answer x" if on is None else "answer", on)

    def predict(self, t: int, **seen: Any) -> Call:
        return self.team.note(self.role, "predict", "predict", seen)

    def learn(self, t: int, **seen: Any) -> None:
        self.team.note(self.role, "learn", "learn", seen)


def _calls_in(payload: Any) -> list[Call]:
    if isinstance(payload, Call):
        return [payload]
    values = payload.values() if isinstance(payload, Mapping) else ()
    found = [c for v in values for c in _calls_in(v)]
    return [c for i, c in enumerate(found) if c not in found[:i]]


def draw(name: str) -> str:
    """The picture of a method's step: a lane per agent, time to the right, an arrow per reference between agents."""
    method = methods.load(name)()
    team = Recorder()
    method.step(team, 0)  # type: ignore[arg-type]
    roles = method.roles()
    width = LEFT + COLUMN * (1 + max(c.level for c in team.calls)) - (COLUMN - BOX_WIDTH) + 20
    height = TOP + ROW * (len(roles) - 1) + BOX_HEIGHT + TOP
    said = "; ".join(f"{c.role} {c.label}" for c in team.calls)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="{escape(f"One step of {name}: {said}")}">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
    ]
    lanes = {role: TOP + ROW * i for i, role in enumerate(roles)}
    for role, y in lanes.items():
        kind = roles[role]
        note = "learns" if kind.learns else "frozen"
        note = f"holds {', '.join(kind.beside)}" if kind.beside else note
        middle = y + BOX_HEIGHT // 2
        out.append(f'<line x1="{LEFT - 8}" y1="{middle}" x2="{width - 10}" y2="{middle}" stroke="#ddd"/>')
        out.append(f'<text x="10" y="{middle - 2}" fill="#111" font-weight="600">{escape(role)}</text>')
        out.append(f'<text x="10" y="{middle + 14}" fill="#666" font-size="11">{escape(note)}</text>')
    for call in team.calls:
        x, y = _corner(call, lanes)
        for need in call.needs:
            if need.role != call.role:
                out.append(_arrow(_corner(need, lanes), (x, y)))
    for call in team.calls:
        x, y = _corner(call, lanes)
        out.append(
            f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{COLOURS[call.verb]}"/>'
        )
        out.append(
            f'<text x="{x + BOX_WIDTH // 2}" y="{y + 22}" fill="#fff" text-anchor="middle">{escape(call.label)}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def _corner(call: Call, lanes: Mapping[str, int]) -> tuple[int, int]:
    return LEFT + COLUMN * call.level, lanes[call.role]


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT // 2
    x2, y2 = end[0], end[1] + BOX_HEIGHT // 2
    bend = (x2 - x1) // 2
    path = f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2 - 2} {y2}"
    return f'<path d="{path}" fill="none" stroke="#555" stroke-width="1.4" marker-end="url(#a)"/>'


def main() -> int:
    """Write or check all pictures; the number that differ."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name in methods.names():
        path, picture = FOLDER / f"{name}.svg", draw(name)
        if not path.exists() or path.read_text() != picture:
            wrong += 1
            print(f"{path.relative_to(CLONE)} {'differs from its method' if '--check' in sys.argv else 'written'}")
            if "--check" not in sys.argv:
                path.write_text(picture)
    return wrong if "--check" in sys.argv else 0


if __name__ == "__main__":
    raise SystemExit(main())
