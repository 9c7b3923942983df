"""What the verbs print: results to stdout, the rest to stderr; tables, JSON and progress bars.

On a terminal tables are drawn; elsewhere they are aligned plain text, never folded or shortened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from featurestore.cli.values import cell, printable, to_json

Advance = Callable[[int], None]
"""Called with how much was just done."""


class Console:
    """The output of one command. Under `json` stdout is one JSON document; `quiet` keeps results only."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    def data(self, value: Any) -> None:
        """Print a value as JSON."""
        print(to_json(value))

    def line(self, text: str = "") -> None:
        """Print a line of a result."""
        if not self.json:
            print("\n".join(printable(part) for part in text.split("\n")))

    def say(self, text: str = "") -> None:
        """Print a line that tells what was done."""
        if not self.quiet:
            self.line(text)

    def warn(self, text: str) -> None:
        """Print a line for people to stderr."""
        if not self.quiet:
            print(printable(text), file=sys.stderr)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], absent: str = "null") -> None:
        """Print a table of a result; columns of numbers are flush right, None is `absent`."""
        if self.json:
            return
        numeric = [_is_numeric([row[place] for row in rows]) for place in range(len(columns))]
        texts = [[absent if value is None else cell(value) for value in row] for row in rows]
        if sys.stdout.isatty():
            _draw(columns, texts, numeric)
        else:
            _align(columns, texts, numeric)

    def report(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table that tells what was done."""
        if not self.quiet:
            self.table(columns, rows)

    @contextmanager
    def progress(self, label: str, total: int | None = None, unit: str = "rows") -> Iterator[Advance]:
        """Show a progress bar on stderr, where that is a terminal; yields the function that advances it."""
        if self.quiet or self.json or not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.console import Console as Screen
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        count = f"{{task.completed:,.0f}} {unit}" if unit else ""
        columns = [
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn(count),
            TimeElapsedColumn(),
        ]
        with Progress(*columns, console=Screen(stderr=True), transient=True) as bar:
            task = bar.add_task(printable(label), total=total)
            yield lambda number: bar.advance(task, number)


def _is_numeric(values: Sequence[Any]) -> bool:
    numbers = [v for v in values if v is not None]
    return bool(numbers) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    from rich.console import Console as Screen
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for place, (name, right) in enumerate(zip(columns, numeric, strict=True)):
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    Screen().print(table)


def _align(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    lines = [list(columns), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(padded).rstrip())
