"""The rules of the contract one at a time, by hand: what an instant sees in training and in serving.

Each rule is a few rows and what is seen of them. The kernel and the online state give the same, whatever the
order and the batches in which the rows came, with all rows in one leaf or each in its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from parity import COLUMNS, TYPES, set_like
from test_kernel_oracle import answers
from test_online_tree import Entity, a_plan, leaf_rows

from featurestore import plans
from featurestore.aggregates import result_type
from featurestore.expressions import parse
from featurestore.plans import AggregateColumn, Input, Window

H = 3600 * 1_000_000
T = 1_000 * H
Row = dict[str, Any]
_ids = itertools.count(1000)


def row(at: int, amount: float | None = 1.0, **given: Any) -> Row:
    """Return a row at `T + at`: an id of its own, known when it happens, its amount for a hash."""
    known = given.pop("known", at)
    made: Row = dict.fromkeys(COLUMNS) | {
        "amount": amount,
        plans.KEY: b"a",
        plans.EVENT_TIME: T + at,
        plans.INGEST_TIME: T + known,
        plans.ROW_HASH: given.pop("hash", 0 if amount is None else int(amount)),
        plans.EVENT_ID: given.pop("id", next(_ids)),
        plans.ORDER: given.pop("order", 0),
        plans.DELETED: given.pop("deleted", False),
    }
    return made | given


def agg(
    function: str, column: str | None = "amount", window: Window | None = None, **given: Any
) -> AggregateColumn:
    """Return an aggregation over an hour, named by its function."""
    kind = None if column is None else TYPES[column]
    where = given.get("where")
    source = Input(
        column, kind, None if where is None else parse(where, TYPES), given.get("by"), given.get("value")
    )
    name = given.get("name", function)
    return AggregateColumn(
        name,
        function,
        source,
        window or Window(H),
        given.get("k"),
        result_type(function, kind, given.get("k")),
    )


@dataclass(frozen=True)
class Rule:
    """Rows, a question at `T + at`, and what is seen: `sees` of plain features and aggregates."""

    name: str
    rows: Sequence[Row]
    sees: Mapping[str, Any]
    at: int = 0
    aggregates: tuple[AggregateColumn, ...] = (agg("sum"), agg("count"), agg("first"), agg("last"))
    base: Row | None = None
    as_known: bool = False
    order: bool = False
    ids: bool = True
    deleted: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


CLOSED = Window(H, left_closed=True)
EDGES = [row(-H - 1, 1), row(-H, 2), row(-H + 1, 4), row(-1, 8), row(0, 16), row(1, 32)]
TIE = [row(0, 1, hash=3), row(0, 2, hash=1), row(0, 4, hash=2)]

RULES = [
    Rule(
        "a window is open on the left and closed on the right",
        EDGES,
        {"sum": 28.0, "count": 3, "amount": 16.0},
    ),
    Rule(
        "a left-closed window is the other way round, and so is the newest row",
        EDGES,
        {"sum": 14.0, "amount": 8.0},
        aggregates=(agg("sum", window=CLOSED),),
        options={"left_closed": True},
    ),
    Rule(
        "windows of several widths, sides and granularities do not disturb one another",
        EDGES,
        {"a": 28.0, "b": 14.0, "c": 31.0, "d": 30.0, "e": 31.0},
        aggregates=(
            agg("sum", name="a"),
            agg("sum", name="b", window=CLOSED),
            agg("sum", name="c", window=Window(2 * H)),
            agg("sum", name="d", window=Window(H + 1)),
            agg("sum", name="e", window=Window(H, granularity=2 * H)),
        ),
    ),
    Rule(
        "granularity rounds the left edge alone, down",
        [row(-H - H // 2, 1), row(-H // 4, 2), row(0, 4)],
        {"fine": 6.0, "coarse": 7.0},
        at=H // 8,
        aggregates=(agg("sum", name="fine"), agg("sum", name="coarse", window=Window(H, granularity=2 * H))),
    ),
    Rule(
        "an offset shifts both edges",
        [row(-2 * H, 1), row(-2 * H + 1, 2), row(-H, 4), row(-H + 1, 8)],
        {"sum": 6.0, "amount": 8.0},
        aggregates=(agg("sum", window=Window(H, offset=H)),),
    ),
    Rule(
        "an idle entity decays to an empty window, and keeps its newest row",
        EDGES[:3],
        {"sum": 0.0, "count": 0, "first": None, "last": None, "amount": 4.0},
        at=2 * H,
    ),
    Rule("a row exactly as old as its ttl is too old", [row(-H)], {"amount": None}, options={"ttl": H}),
    Rule("a row younger than its ttl is not", [row(-H + 1)], {"amount": 1.0}, options={"ttl": H}),
    Rule(
        "the newest row counts though its value is null",
        [row(-2, 1), row(-1, None)],
        {"amount": None, "last": 1.0},
    ),
    Rule(
        "rows of one instant are in the order of their hashes",
        TIE,
        {"first": 2.0, "last": 1.0, "amount": 1.0},
    ),
    Rule(
        "ingest time comes before the hash",
        [row(-5, 1, hash=3, known=1), row(-5, 2, hash=1, known=2), row(-5, 4, hash=2, known=0)],
        {"first": 4.0, "last": 2.0, "amount": 2.0},
    ),
    Rule(
        "order_by comes before ingest time, and null before all",
        [row(-5, 1, order=2, known=0), row(-5, 2, order=1, known=2), row(-5, 4, order=None, known=3)],
        {"first": 4.0, "last": 1.0, "amount": 1.0},
        order=True,
    ),
    Rule(
        "event time comes before order_by",
        [row(-5, 1, order=9), row(-4, 2, order=1)],
        {"last": 2.0},
        order=True,
    ),
    Rule(
        "of copies of an id the first in order counts",
        [row(-5, 1, id=7, known=2), row(-5, 2, id=7, known=0), row(-5, 4, id=7, known=1)],
        {"sum": 2.0, "count": 1, "amount": 2.0},
    ),
    Rule(
        "with on_duplicate replace, the newest",
        [row(-5, 1, id=7, known=2), row(-5, 2, id=7, known=0), row(-5, 4, id=7, known=1)],
        {"sum": 1.0, "count": 1, "amount": 1.0},
        options={"on_duplicate": "replace"},
    ),
    Rule(
        "one id at two instants is two rows, and two ids at one instant are",
        [row(-5, 1, id=6), row(-5, 2, id=7), row(-4, 4, id=7), row(-4, 8, id=8)],
        {"sum": 15.0, "count": 4},
    ),
    Rule(
        "the id that is last at one instant is another row where it is first at the next one",
        [row(-5, 1, id=7), row(-5, 2, id=9), row(-4, 4, id=9), row(-4, 8, id=9)],
        {"sum": 7.0, "count": 3},
    ),
    Rule(
        "without ids every row counts",
        [row(-5, 1, id=7), row(-5, 2, id=7)],
        {"sum": 3.0, "count": 2},
        ids=False,
    ),
    Rule(
        "a base row counts before it has arrived",
        [row(-5, 1)],
        {"sum": 9.0, "count": 2},
        base=row(0, 8, id=7),
    ),
    Rule(
        "a base row counts once after it has arrived",
        [row(-5, 1), row(0, 8, id=7)],
        {"sum": 9.0, "count": 2},
        base=row(0, 8, id=7),
    ),
    Rule(
        "what has arrived counts, not what the request says of it",
        [row(-5, 1), row(0, 8, id=7, hash=9)],
        {"sum": 9.0, "count": 2},
        base=row(0, 4, id=7, hash=1),
    ),
    Rule(
        "a base row counts beside others of its instant",
        [row(-5, 1), row(0, 2, id=6)],
        {"sum": 11.0, "count": 3},
        base=row(0, 8, id=7),
    ),
    Rule(
        "a base row stands in its place among rows of its instant",
        [row(0, 1, id=1, order=1, known=5, hash=5), row(0, 2, id=2, order=2, known=4, hash=4)],
        {"first": 1.0, "last": 2.0, "last_k": [1.0, 8.0, 2.0]},
        base=row(0, 8, id=7, order=1, known=5, hash=6),
        aggregates=(agg("first"), agg("last"), agg("last_k", k=5)),
        order=True,
    ),
    Rule(
        "its place follows ingest time",
        [
            row(0, 1, id=1, known=-5, hash=9),
            row(0, 2, id=2, known=-4, hash=8),
            row(0, 4, id=3, known=5, hash=1),
        ],
        {"last_k": [1.0, 2.0, 8.0, 4.0]},
        base=row(0, 8, id=7, known=0, hash=5),
        aggregates=(agg("last_k", k=5),),
    ),
    Rule(
        "its place follows the hash",
        [row(0, 1, id=1, hash=1), row(0, 2, id=2, hash=9)],
        {"last_k": [1.0, 8.0, 2.0]},
        base=row(0, 8, id=7, hash=5),
        aggregates=(agg("last_k", k=5),),
    ),
    Rule(
        "a left-closed window leaves the base row out",
        [row(-5, 1)],
        {"sum": 1.0, "count": 1},
        base=row(0, 8, id=7),
        aggregates=(agg("sum", window=CLOSED), agg("count", window=CLOSED)),
    ),
    Rule(
        "as known, what became known at the instant counts, and what came a microsecond later does not",
        [row(-9, 1), row(-8, 2, known=0), row(-7, 4, known=1)],
        {"sum": 3.0, "count": 2, "amount": 2.0},
        as_known=True,
    ),
    Rule(
        "as known, the first copy that was known counts",
        [row(-9, 1, id=7, known=0), row(-9, 2, id=7, known=-1), row(-8, 4, id=8, known=5), row(-8, 8, id=9)],
        {"sum": 10.0, "count": 2, "amount": 8.0},
        as_known=True,
    ),
    Rule(
        "as known, the newest row may be the entity's first",
        [row(-9, 1), row(-8, 2, known=5), row(-7, 4, known=5)],
        {"amount": 1.0, "sum": 1.0},
        as_known=True,
    ),
    Rule("as known, there may be no row", [row(-9, 1, known=1)], {"amount": None, "sum": 0.0}, as_known=True),
    Rule(
        "where counts the rows of which it is true, of those whose value is there",
        [
            row(-9, 9, kind="a"),
            row(-8, 2, kind="a"),
            row(-7, 8, kind=None),
            row(-6, None, kind="a"),
            row(-5, 4),
        ],
        {"big": 17.0, "a": 2, "rows": 3},
        aggregates=(
            agg("sum", where="amount > 5", name="big"),
            agg("count", where="kind = 'a'", name="a"),
            agg("count", None, where="kind = 'a'", name="rows"),
        ),
    ),
    Rule(
        "by counts the rows of its category, of those where where holds",
        [
            row(-9, 9, kind="a"),
            row(-8, 7, kind="b"),
            row(-7, 8, kind=None),
            row(-6, 6, kind="c"),
            row(-5, 1, kind="a"),
        ],
        {"a": 10.0, "b": 7.0, "big_a": 9.0},
        aggregates=(
            agg("sum", by="kind", value="a", name="a"),
            agg("sum", by="kind", value="b", name="b"),
            agg("sum", by="kind", value="a", where="amount > 5", name="big_a"),
        ),
    ),
    Rule(
        "aggregations of two columns do not share their states",
        [row(-9, 1, whole=10), row(-8, 2, whole=None), row(-7, 4, whole=30)],
        {"amounts": 3, "wholes": 2, "last_amount": 4.0, "last_whole": 30, "total": 40},
        aggregates=(
            agg("count", name="amounts"),
            agg("count", "whole", name="wholes"),
            agg("last", name="last_amount"),
            agg("last", "whole", name="last_whole"),
            agg("sum", "whole", name="total"),
        ),
    ),
    Rule(
        "a retraction takes its id back, whichever came first",
        [row(-9, 1, id=6), row(-8, 2, id=7, known=5), row(-8, 4, id=7, known=9, deleted=True)],
        {"sum": 1.0, "count": 1, "amount": 1.0},
        deleted=True,
    ),
    Rule(
        "without ids a deleted row ends its entity: it and all before it count nowhere",
        [row(-9, 1), row(-8, 2, deleted=True), row(-7, 4)],
        {"sum": 4.0, "count": 1, "first": 4.0, "amount": 4.0},
        ids=False,
        deleted=True,
    ),
    Rule(
        "an entity that has ended has no newest row",
        [row(-9, 1), row(-8, 2, deleted=True)],
        {"sum": 0.0, "count": 0, "amount": None},
        ids=False,
        deleted=True,
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_training_sees_what_the_rule_says(rule: Rule) -> None:
    made = set_like(rule.aggregates, plain=("amount",), **rule.options)
    kinds = {"ids": rule.ids, "order": rule.order} | ({"deleted": True} if rule.deleted else {})
    for rows in (list(rule.rows), list(reversed(rule.rows))):
        [got] = answers(
            made,
            rows,
            [(b"a", T + rule.at)],
            as_known=rule.as_known,
            base=None if rule.base is None else [rule.base],
            **kinds,
        )
        assert {name: got[name] for name in rule.sees} == rule.sees


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("leaf", [1, 512])
def test_serving_sees_what_the_rule_says(rule: Rule, leaf: int) -> None:
    """What was served had seen the rows that were known, in any order and any batches."""
    options = dict(rule.options) | ({"deleted": True} if rule.deleted else {})
    plan = a_plan(rule.aggregates, plain=("amount",), ids=rule.ids, order=rule.order, **options)
    known = [r for r in rule.rows if not rule.as_known or r[plans.INGEST_TIME] <= T + rule.at]
    for batches in (
        [known],
        [[r] for r in known],
        [[r] for r in reversed(known)],
        [known[1:], known] if rule.ids else [known],
    ):
        entity = Entity(plan)
        with leaf_rows(leaf):
            for batch in filter(len, batches):
                entity.apply(batch)
        got = entity.read(T + rule.at, rule.base)
        assert {name: got[name] for name in rule.sees} == rule.sees
