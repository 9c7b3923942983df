"""Cases as data: one YAML file per topic, read into specs, rows, questions and expected tables.

A topic file:

    about: what the topic is about
    specs: |                      # spec documents that its cases share
      kind: Entity
      …
    cases:
      - name: an_event_exactly_w_old_is_out
        t0: [2026-01-01T00:00:00Z, 1970-01-01T00:00:00Z]   # each origin is a case of its own
        rows:                     # by source: a header, then rows
          payments:
            - [customer, at, amount]
            - [a, t0, 1.0]
        expect:                   # a header: what is asked, `=>`, what must come back
          - [customer, at, =>, amount_sum_1h]
          - [a, t0 + 1h, =>, 0.0]
        known: …                  # the same with as_known=True; left out where it equals `expect`

A time is `t0` or an instant, and durations added or taken: `t0 + 1h - 1us`. Text stands for what JSON cannot
say: binary as text in UTF-8, decimals, dates. A column left out of the rows is null, but the source's
ingest time, which is then the event time, and its `id` column, which is then the row's number. `~1.5` is
within 1e-9 of 1.5, relatively, `≈1.5` within 2 %. `name?` is a status, of online vectors alone.

A case may also have `specs`, `vector` (default: the only one, else all features of the only set),
`messages` (JSON texts by source, in place of rows), `rejected` (reason codes of dead letters), `only`
(readings, see `modes.READINGS`), `both` (all rows come by both halves),
`fit` (raw rows by set, which its steps are fitted to) and `skip` (traits of modes that do
not apply, with the reason as a comment).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from featurestore.instants import format_instant, parse_duration, parse_instant
from featurestore.types import DataType

TOPICS = Path(__file__).parent / "topics"
ORIGIN = "2026-01-01T00:00:00Z"
GIVES = "=>"
_TERM = re.compile(r"\s*([+-])\s*((?:\d+(?:us|ms|s|m|h|d|w))+)$")
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_ALWAYS = {"name", "expect"}
_FIELDS = (
    _ALWAYS
    | {"t0", "specs", "rows", "messages", "known", "vector"}
    | {"rejected", "only", "skip", "both", "fit"}
)


@dataclass(frozen=True)
class Question:
    """One line of an expected table: what is asked, at which instant, and what must come back."""

    asked: Mapping[str, Any]
    gives: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One case, at one origin."""

    topic: str
    name: str
    specs: str
    t0: int
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    messages: Mapping[str, Sequence[str]]
    expect: Sequence[Question]
    known: Sequence[Question]
    vector: str | None
    rejected: frozenset[str]
    only: frozenset[str]
    skip: frozenset[str] = field(default_factory=frozenset)
    both: bool = False
    fit: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The topic and the case."""
        return f"{self.topic}/{self.name}"


def cases() -> list[Case]:
    """Return all cases, topic by topic. Raises ValueError for a file that is not as described."""
    return [case for path in _files() for case in topic(path)]


def topics() -> dict[str, str]:
    """Return the topics' names, and what each is about."""
    return {path.stem: YAML(typ="safe", pure=True).load(path.read_text())["about"] for path in _files()}


def _files() -> list[Path]:
    return sorted(TOPICS.glob("*.yaml"))


def topic(path: Path) -> Iterator[Case]:
    """Yield the cases of a topic's file."""
    document = YAML(typ="safe", pure=True).load(path.read_text())
    if document.keys() - {"about", "specs", "cases"}:
        raise ValueError(f"{path}: {document.keys() - {'about', 'specs', 'cases'}} is no part of a topic")
    names = set()
    for given in document["cases"]:
        if given.keys() - _FIELDS or given["name"] in names:
            raise ValueError(f"{path}: {given['name']} comes twice, or has {given.keys() - _FIELDS}")
        names.add(given["name"])
        made = Case(
            topic=path.stem,
            name=given["name"],
            specs=given.get("specs", document.get("specs", "")),
            t0=0,
            rows={source: _records(table) for source, table in given.get("rows", {}).items()},
            messages=given.get("messages", {}),
            expect=_questions(given["expect"]),
            known=_questions(given.get("known", given["expect"])),
            vector=given.get("vector"),
            rejected=frozenset(given.get("rejected", ())),
            only=frozenset(given.get("only", ())),
            skip=frozenset(given.get("skip", ())),
            both=given.get("both", False),
            fit={name: _records(table) for name, table in given.get("fit", {}).items()},
        )
        origins = given.get("t0", ORIGIN)
        if isinstance(origins, list):
            for origin in origins:
                t0 = parse_instant(origin)
                yield replace(made, name=f"{made.name}@{_short(t0)}", t0=t0)
        else:
            yield replace(made, t0=parse_instant(origins))


def _short(t0: int) -> str:
    """Return an instant without the zeros at its end."""
    day, time = format_instant(t0).rstrip("Z").split("T")
    while time.endswith((":00", ".000000")):
        time = time.removesuffix(".000000").removesuffix(":00")
    return f"{day}T{time}"


def _records(table: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    header, *rows = table
    return [dict(zip(header, row, strict=True)) for row in rows]


def _questions(table: Sequence[Sequence[Any]]) -> list[Question]:
    header, *rows = table
    middle = header.index(GIVES)
    found = []
    for row in rows:
        if row[middle] != GIVES:
            raise ValueError(f"{row} lacks its {GIVES}")
        asked = dict(zip(header[:middle], row[:middle], strict=True))
        found.append(Question(asked, dict(zip(header[middle + 1 :], row[middle + 1 :], strict=True))))
    return found


def instant(text: Any, t0: int) -> int:
    """Return the microseconds of `t0 + 1h - 1us`, or of an instant with terms, or of microseconds."""
    if isinstance(text, int):
        return text
    total, rest = 0, str(text)
    while found := _TERM.search(rest):
        total += (1 if found[1] == "+" else -1) * parse_duration(found[2])
        rest = rest[: found.start()]
    return total + (t0 if rest.strip() == "t0" else parse_instant(rest.strip()))


def typed(value: Any, kind: DataType, t0: int) -> Any:
    """Return a cell as a row value of a type: instants in µs, dates in days. `~1.5` stays text."""
    if value is None or (isinstance(value, str) and value[:1] in ("~", "≈") and kind.is_float):
        return value
    if kind.key is not None and kind.item is not None:
        return {typed(k, kind.key, t0): typed(item, kind.item, t0) for k, item in value.items()}
    if kind.item is not None:
        return [typed(item, kind.item, t0) for item in value]
    if kind.name == "timestamp":
        return instant(value, t0)
    if kind.name == "date":
        return date.fromisoformat(str(value)).toordinal() - _EPOCH_DAY
    if kind.name == "decimal":
        return Decimal(str(value)).quantize(Decimal(1).scaleb(-kind.scale))
    if kind.name == "binary":
        return value.encode() if isinstance(value, str) else value
    if kind.is_float:
        return float(value)
    return value
