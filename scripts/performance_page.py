"""Write the tables and the charts of docs/performance.md from what `make bench` measured.

    make bench                                                    writes benchmarks/results/<time>.json
    python scripts/performance_page.py benchmarks/results/*.json

Of each work, and of each chart, the newest file's figures count. The page's prose stays; what stands between
its two markers is replaced. A chart is an SVG file beside the page, with both axes logarithmic.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "performance.md"
CHARTS = DOCS / "performance"
BEGIN = "<!-- Written by scripts/performance_page.py from a run of `make bench`. -->"
END = "<!-- End of what is written. -->"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 76, 150, 34, 44
COLORS = ("#2a6fb0", "#c4561e", "#3c8f4a", "#8a4fa3", "#b08a1e", "#5c6770")


def amount(value: float, unit: str) -> str:
    """Return a figure with its unit, to three digits."""
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{number} {unit}"


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table of the rows of runs, oldest first; of each work, those of the latest run."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        for number in {row["number"] for row in record["rows"]}:
            rows[number] = [row for row in record["rows"] if row["number"] == number]
    lines = [
        "| # | work | ours | reference | ratio | target | | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for number in sorted(rows) for row in rows[number]):
        theirs = "" if row["theirs"] is None else f"{row['reference']}: {amount(row['theirs'], row['unit'])}"
        cells = (
            str(row["number"]),
            row["work"],
            amount(row["ours"], row["unit"]),
            theirs,
            "" if row["ratio"] is None else f"{row['ratio']:.3g}×",
            row["target"].replace("<=", "≤").replace(">=", "≥").replace("x", "×"),
            {True: "met", False: "**missed**", None: "not compared"}[row["met"]],
            "" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e9:.2f} GB",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def runs(records: Sequence[dict[str, Any]]) -> str:
    """Return what the figures were measured on, and by which commands."""
    machine = records[-1]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    commands = "\n".join(f"{record['command']}   # {record['began'][:10]}" for record in records)
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB,"
        f" {machine['system']}, Python {machine['python']}; {versions}.\n\n```text\n{commands}\n```"
    )


def charts(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the points of each chart, of the newest run that has it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for name in {point["chart"] for point in record.get("points", ())}:
            found[name] = [point for point in record["points"] if point["chart"] == name]
    return dict(sorted(found.items()))


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 10, 100 … within a range; 2 and 5 between them where it spans less than two decades."""
    steps = (1.0,) if math.log10(high / low) >= 2 else (1.0, 2.0, 5.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [s * 10.0**p for p in powers for s in steps if low * 0.999 <= s * 10.0**p <= high * 1.001]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def draw(name: str, points: Sequence[dict[str, Any]]) -> str:
    """Return a chart as SVG: a line for each `line` of the points."""
    xs, ys = [point["x"] for point in points], [point["y"] for point in points]
    x_low, x_high, y_low, y_high = min(xs), max(xs) * 1.0001, min(ys) / 1.3, max(ys) * 1.3

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / x_low) / math.log(x_high / x_low)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(y / y_low) / math.log(y_high / y_low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(name)}</text>',
    ]
    for y in _ticks(y_low, y_high):
        label = escape(f"{_short(y)} {points[0]['unit']}")
        parts.append(
            f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for x in _ticks(x_low, x_high):
        parts.append(
            f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_short(x)}</text>'
        )
    for place, title in enumerate(dict.fromkeys(point["line"] for point in points)):
        color = COLORS[place % len(COLORS)]
        ends = [
            (across(p["x"]), down(p["y"])) for p in sorted(points, key=lambda p: p["x"]) if p["line"] == title
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in ends)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in ends]
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{TOP + 14 + 16 * place}" fill="{color}">{escape(title)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _file(chart: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in chart.lower()) + ".svg"


def main(paths: Sequence[str]) -> None:
    """Write the page and its charts from result files."""
    records = sorted(
        (json.loads(Path(path).read_text()) for path in paths), key=lambda record: record["began"]
    )
    CHARTS.mkdir(exist_ok=True)
    drawn = charts(records)
    for name, points in drawn.items():
        (CHARTS / _file(name)).write_text(draw(name, points))
    images = "\n\n".join(f"![{name}](performance/{_file(name)})" for name in drawn)
    growth = f"\n\n## How each cost grows\n\n{images}" if images else ""
    written = f"{runs(records)}\n\n{table(records)}{growth}"
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{written}\n\n{END}{tail}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python scripts/performance_page.py FILE...")
    main(sys.argv[1:])
