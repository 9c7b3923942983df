"""Write docs/engines.md from the conformance suite: what engines and stores are held to, and their gaps.

Run by `make docs`; tests/conformance/test_engines_page.py tells when the page is stale.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "engines.md"
sys.path.insert(0, str(ROOT / "tests"))

from conformance.cases import cases, topics  # noqa: E402
from conformance.gaps import GAPS, Gap  # noqa: E402
from conformance.modes import MODES, READINGS, Mode  # noqa: E402

_ORDERS = {"ordered": "in order", "shuffled": "in any order", "reversed": "backwards"}


def text(gaps: Iterable[Gap] = GAPS) -> str:
    """Return the page."""
    known = cases()
    counts = Counter(case.topic for case in known)
    lines = [
        "# Engines and stores",
        "",
        "<!-- Written by scripts/engines_page.py from tests/conformance. Run: make docs -->",
        "",
        "One suite holds every engine and every online store to the [contract](concepts.md). A case is data:"
        " declarations, rows with the times at which they became known, instants to ask about, and the values"
        " that must come back, worked out by hand. The same case goes through every mode below, and each mode"
        f" is asked in {len(READINGS)} ways: the present vector, a vector as of an instant, the training set,"
        " and the training set of what was known at the time.",
        "",
        f"There are {len(known)} cases and {len(MODES)} modes. `make test` takes each case through the"
        + " oracle, batch and two more modes in turn; `make conformance` takes all. How values are"
        + " compared, and the generated cases beside these, is in [Parity](parity.md).",
        "",
        "## What an engine cannot do",
        "",
        *_gaps(list(gaps)),
        "",
        "## Cases",
        "",
        "| topic | about | cases |",
        "|---|---|---|",
        *(f"| {name} | {about} | {counts[name]} |" for name, about in topics().items()),
        "",
        "## Modes",
        "",
        "| mode | how rows arrive | engine | online store |",
        "|---|---|---|---|",
        *(_mode(mode) for mode in MODES),
    ]
    return "\n".join(lines) + "\n"


def _gaps(gaps: list[Gap]) -> list[str]:
    if not gaps:
        return ["Nothing in the suite: no engine and no store has a case that it does not pass."]
    rows = [f"| {gap.trait} | {gap.case} | {gap.reason} |" for gap in gaps]
    return ["| where | case | why |", "|---|---|---|", *rows]


def _mode(mode: Mode) -> str:
    if mode.is_oracle:
        return f"| {mode.name} | no stores: plain loops over all rows, which judge the rest | | |"
    engine = "" if mode.batch == 1 else mode.engine + (", two workers" if mode.workers == 2 else "")
    return f"| {mode.name} | {_arrival(mode)} | {engine or 'batch'} | {mode.online} |"


def _arrival(mode: Mode) -> str:
    half = {1.0: "by batch", 0.0: "by stream"}.get(mode.batch)
    said = [half or f"{mode.batch:.0%} by batch, then the rest by stream", _ORDERS[mode.order]]
    if mode.files:
        said.append("from several files")
    if mode.overlap:
        said.append("the stream repeats what the batch had")
    if mode.again:
        said.append("everything delivered twice")
    if mode.stops:
        said.append("row by row" if mode.batch == 1 else "stopped and resumed at every micro-batch")
    if mode.deep:
        said.append("entities spread over many slices")
    if mode.renewed:
        said.append("then compacted and materialized anew")
    return ", ".join(said)


def main() -> int:
    """Write the page; return the exit status."""
    PAGE.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
