"""Small charts as SVG text that follow the page's colours, and images as data URLs. No script, nothing from outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 34
Line = tuple[str, Sequence[tuple[float, float]]]  # name, points


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, percent: bool = False) -> str:
    """Lines over a common x axis, with a legend; ``percent`` fixes the y axis to 0..1 shown as 0..100 %."""
    points = [p for _, line in lines for p in line]
    if not points:
        return f'<p class="quiet">{escape(title)}: nothing recorded.</p>'
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_low, y_high = (0.0, 1.0) if percent else (min(0.0, *(p[1] for p in points)), max(p[1] for p in points))
    x_span, y_span = (x_high - x_low) or 1.0, (y_high - y_low) or 1.0

    def at(p: tuple[float, float]) -> str:
        x = LEFT + (p[0] - x_low) / x_span * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (p[1] - y_low) / y_span * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for i in range(5):
        value = y_low + i / 4 * y_span
        y = at((x_low, value)).split(",")[1]
        text = f"{100 * value:.0f}%" if percent else f"{value:.2g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/><text x="{LEFT - 6}" y="{y}" class="tick y">{text}</text>'
        )
    for i in range(5):
        value = x_low + i / 4 * x_span
        x = at((value, y_low)).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" class="tick x">{value:.3g}</text>')
    for i, (_, line) in enumerate(lines):
        parts.append(f'<polyline class="line c{i % 6}" points="{" ".join(at(p) for p in line)}"/>')
    described = "; ".join(
        f"{name}: {_value(line[0][1], percent)} to {_value(line[-1][1], percent)}" for name, line in lines if line
    )
    legend = "".join(f'<span class="key c{i % 6}">{escape(name)}</span>' for i, (name, _) in enumerate(lines))
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}. {escape(described)}">'
        f"{''.join(parts)}<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 4}' class='tick x'>{escape(x_label)}</text></svg>"
        f'<div class="legend">{legend}</div></figure>'
    )


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} per cent" if percent else f"{value:.3g}"


def image(pixels: object, *, alt: str) -> str:
    """Rows of 8-bit pixels (1 or 3 channels) as an <img> with its own data."""
    from PIL import Image

    array = np.asarray(pixels, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def difference(clean: object, adversarial: object) -> tuple[list[object], float]:
    """The perturbation around middle grey, magnified to the full range, and the factor."""
    d = np.asarray(adversarial, dtype=float) - np.asarray(clean, dtype=float)
    factor = 127 / max(float(np.abs(d).max()), 1.0)
    return (128 + d * factor).clip(0, 255).astype(np.uint8).tolist(), factor


def heat(value: float) -> str:
    """Background of a matrix cell: stronger for higher values, readable in both themes."""
    return f"background:color-mix(in srgb, var(--accent) {round(70 * value)}%, transparent)"
