"""Write the table of docs/reliability.md from what the fault tests measured.

    make faults                                      writes build/faults.jsonl
    python scripts/reliability.py build/faults.jsonl

The page's prose stays; what stands between its two markers is replaced.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
BEGIN = "<!-- Written by scripts/reliability.py from a run of `make faults`. -->"
END = "<!-- End of what is written. -->"
_OWN = {"test", "fault", "promised", "long"}


def table(lines: list[dict[str, Any]]) -> str:
    """Return the table: a row for each fault, with the newest figures of each test."""
    newest = {(line["test"], line["fault"]): line for line in lines}
    rows = ["| fault | promised | measured | test |", "|---|---|---|---|"]
    for (test, fault), line in sorted(newest.items(), key=lambda item: item[0]):
        figures = ", ".join(f"{_words(name)} {_figure(v)}" for name, v in line.items() if name not in _OWN)
        file = test.partition("::")[0].rpartition("/")[2]
        size = "" if line["long"] else " (short form)"
        rows.append(
            f"| {_cell(fault)} | {_cell(line.get('promised', ''))} | {_cell(figures)}{size} | `{file}` |"
        )
    return "\n".join(rows)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return "; ".join(f"{_words(str(name))} {_figure(v)}" for name, v in value.items())
    if isinstance(value, list):
        return " ".join(map(_figure, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(paths: list[str]) -> None:
    """Write the page from files of JSON lines."""
    lines = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines()]
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(lines)}\n\n{END}{tail}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python scripts/reliability.py FILE...")
    main(sys.argv[1:])
