"""Values, tables and trees as the command line prints them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from featurestore.cli.console import Console
from featurestore.cli.trees import Node, draw
from featurestore.cli.values import cell, plain, short_bytes, short_duration, to_json

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (-(2**60), "-1152921504606846976"),
        (0.1, 0.1),
        (float("nan"), None),
        (float("-inf"), None),
        (AT, "2026-11-21T10:00:00.000000Z"),
        (date(2026, 11, 21), "2026-11-21"),
        (Decimal("1.10"), "1.10"),
        (Decimal("0E-10"), "0.0000000000"),
        (b"\x00\xff", "AP8="),
        ((1, [float("nan")]), [1, [None]]),
        ({1: AT}, {"1": "2026-11-21T10:00:00.000000Z"}),
    ],
)
def test_json_holds_every_value(value: object, expected: object) -> None:
    assert plain(value) == expected
    assert json.loads(to_json(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (1234567, "1,234,567"),
        (0.1 + 0.2, "0.30000000000000004"),
        (AT, "2026-11-21T10:00:00Z"),
        (AT.replace(microsecond=5), "2026-11-21T10:00:00.000005Z"),
        ([1, None], "[1, null]"),
        ("[red]é\x1b[31m\n", "[red]é\\x1b[31m\\n"),
    ],
)
def test_cells_are_one_printable_line(value: object, expected: str) -> None:
    assert cell(value) == expected


def test_short_forms() -> None:
    assert [short_bytes(n) for n in (0, 999, 1000, 21_349, 10**12, None)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "21.3 kB",
        "1.0 TB",
        None,
    ]
    assert [short_duration(t) for t in ("1d2h35m13s", "12s", "0s", None)] == ["1d2h", "12s", "0s", None]


def test_a_table_without_a_terminal_is_aligned_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table(("name", "n"), [("a", 5), ("long " * 30, 12_000), ("c", None)], absent="-")
    width = len("long " * 30)
    assert capsys.readouterr().out.splitlines() == [
        "name".ljust(width) + "       n",
        "a".ljust(width) + "       5",
        "long " * 30 + "  12,000",
        "c".ljust(width) + "       -",
    ]


def test_quiet_keeps_results_and_json_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    for console in (Console(quiet=True), Console(json=True)):
        console.say("done")
        console.report(("n",), [(1,)])
    Console(json=True).line("a result for people")
    assert capsys.readouterr().out == ""
    Console(quiet=True).table(("n",), [(1,)])
    assert capsys.readouterr().out == "n\n1\n"


def test_progress_without_a_terminal_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("ingest") as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")


def test_trees_are_drawn_in_ascii() -> None:
    tree = Node("a", [Node("b", [Node("c"), Node("d")]), Node("e")])
    assert list(draw(tree)) == ["a", "|-- b", "|   |-- c", "|   `-- d", "`-- e"]
    assert all(line.isascii() for line in draw(tree))
