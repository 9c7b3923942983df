"""An entity's online state is a function of its rows, and answers as the oracle does, however deep the tree.

Rows are applied straight to the fields of one entity, read back through the fields that a request would
read. `LEAF_ROWS` is lowered so that a few rows make directories several levels deep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity import (
    COLUMNS,
    TYPES,
    aggregate_columns,
    check_cells,
    examples,
    instants_of,
    kernel_frame,
    predicate,
)
from strategies import HOUR, ORIGIN, SECOND, kernel_log, queries, schedules

from featurestore import plans
from featurestore.aggregates import function_names, plain_values, result_type
from featurestore.aggregates.functions import Finished
from featurestore.aggregates.layout import AllFinished
from featurestore.errors import HistoryError
from featurestore.expressions import Expression, parse
from featurestore.online import few, nodes, tree
from featurestore.online.frames import order_columns, row_features, row_parts
from featurestore.online.layout import MARGIN, ROOT, OnlineLayout
from featurestore.online.many import ManyRows
from featurestore.online.nodes import Directory, Leaf
from featurestore.online.requests import row_value
from featurestore.online.view import EntityView, NewestAtOnce, UsualLeaf, aggregates
from featurestore.plans import AggregateColumn, Input, SetPlan, SourcePlan
from featurestore.steps import StepPlan
from featurestore.types import Field

MILLI = SECOND // 1000
SPANS = [HOUR, 20 * MILLI, 90 * SECOND]
ALL = function_names()
HISTORIES = st.sampled_from([None, HOUR])
PLAIN = ("amount", "kind", "price", "day", "at")


def a_plan(
    made: tuple[AggregateColumn, ...],
    *,
    plain: Sequence[str] = PLAIN,
    ids: bool = True,
    order: bool = False,
    on_duplicate: str = "first",
    left_closed: bool = False,
    ttl: int | None = None,
    history: int | None = None,
    deleted: bool = False,
) -> SetPlan:
    """Return the plan of a set of these aggregations over `COLUMNS`."""
    fields = tuple(Field(name, kind) for name, kind in TYPES.items())
    marks: Expression | None = parse("flag", {"flag": TYPES["flag"]}) if deleted else None
    source = SourcePlan(
        "source",
        fields,
        "at",
        None,
        ("id",) if ids else (),
        "whole" if order else None,
        None,
        0,
        0,
        1_000_000,
        None,
        on_duplicate,
        marks,
        None,
        None,
        "",
    )
    visible = tuple(Field(name, TYPES[name]) for name in plain)
    return SetPlan(
        "set",
        "parity",
        source,
        (),
        StepPlan((), fields, fields, ""),
        visible,
        fields,
        made,
        ttl,
        left_closed,
        history,
        True,
        "rows",
        "state",
    )


def each_output(finished: AllFinished, size: int) -> list[Finished]:
    """Return each output's values and validity, of `size` entities."""
    parts = {
        place: (values[n * size : (n + 1) * size], found[n * size : (n + 1) * size])
        for places, (values, found) in finished
        for n, place in enumerate(places)
    }
    return [parts[place] for place in range(len(parts))]


class Entity:
    """One entity's fields, written and read as the online store's users do, without a store."""

    def __init__(self, plan: SetPlan) -> None:
        self.plan = plan
        self.layout = OnlineLayout.of(plan)
        self.fields: dict[bytes, bytes] = {}

    def apply(self, rows: Sequence[Mapping[str, Any]], now: int | None = None) -> None:
        """Apply one micro-batch; with `now`, what is older than the history is pruned."""
        leaf = self.leaf(rows)
        floors = None if now is None else self.layout.floors(now)
        update = tree.Update(self.layout, dict(self.fields), floors, self._fetch)
        for name, data in update.apply(leaf).items():
            if data is None:
                self.fields.pop(name, None)
            else:
                self.fields[name] = data

    def view(self, t: int, base: Mapping[str, Any] | None = None) -> EntityView:
        """Return the entity at `t`, of the fields that a request at `t` reads."""
        stored = {name: self.fields.get(name) for name in self.layout.read_fields(t, base is not None)}
        return EntityView(self.layout, stored, t, None if base is None else self.leaf([base]))

    def read(self, t: int, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return every feature at `t`."""
        view = self.view(t, base)
        newest = view.newest() if self.plan.plain else None
        late = newest is not None and self.plan.ttl is not None and newest[0] <= t - self.plan.ttl
        packed = [None] * len(self.plan.plain)
        if newest is not None and not late:
            packed = msgspec.msgpack.decode(newest[1])
        result = {
            field.name: row_value(value, field.type) if field.type.name == "decimal" else value
            for field, value in zip(self.plan.plain, packed, strict=True)
        }
        for output, finished in zip(
            self.layout.aggregates.outputs, each_output(aggregates(self.layout, [view]), 1), strict=True
        ):
            [result[output.name]] = plain_values(*finished, output.type)
        return result

    def leaf(self, rows: Sequence[Mapping[str, Any]]) -> Leaf:
        """Return rows, in order, as the writer makes them of a frame."""
        layout = self.layout
        frame = kernel_frame(rows, ids=layout.has_ids, order=layout.has_order, deleted=layout.has_deleted)
        frame = frame.sort(order_columns(frame))

        def whole(name: str) -> np.ndarray:
            return frame[name].to_physical().to_numpy()

        return Leaf(
            whole(plans.EVENT_TIME),
            whole(plans.INGEST_TIME),
            whole(plans.ROW_HASH),
            whole(plans.ORDER) if layout.has_order else None,
            whole(plans.EVENT_ID) if layout.has_ids else None,
            row_parts(layout.parts, frame),
            row_features(layout, frame),
            deleted=frame[plans.DELETED].to_numpy() if layout.has_deleted else None,
        )

    def depth(self) -> int:
        """Return how many levels of directories there are."""
        return len({name[0] for name, data in self.fields.items() if name != ROOT}) if self.fields else 0

    def reachable(self) -> set[bytes]:
        """Return the fields that can be reached from the root."""
        found: set[bytes] = set()

        def walk(name: bytes, level: int) -> None:
            found.add(name)
            node = nodes.decode(self.fields[name], self.layout)
            if isinstance(node, Directory):
                for number in node.slices.tolist():
                    walk(tree.node_name(level + 1, number), level + 1)

        if self.fields:
            walk(ROOT, -1)
        return found

    def _fetch(self, names: Sequence[bytes]) -> Sequence[bytes | None]:
        return [self.fields.get(name) for name in names]


@contextmanager
def leaf_rows(count: int) -> Iterator[None]:
    """Split leaves beyond that many rows."""
    with mock.patch.object(tree, "LEAF_ROWS", count):
        yield


@st.composite
def batches(draw: st.DrawFn, rows: Sequence[Any]) -> list[list[Any]]:
    """Return the rows cut into micro-batches of at least one row."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(rows) - 1)), max_size=5)))
    parts = [list(rows[low:high]) for low, high in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    return [part for part in parts if part]


def logs(**options: Any) -> st.SearchStrategy[list[dict[str, Any]]]:
    return kernel_log(COLUMNS, SPANS, keys=[b"a"], **options)


@given(st.data())
@examples(150)
def test_every_instant_reads_as_the_oracle_says_at_any_depth(data: st.DataObject) -> None:
    ids, order, deleted = (data.draw(st.booleans()) for _ in range(3))
    plan = a_plan(
        data.draw(aggregate_columns(ALL, SPANS)),
        ids=ids,
        order=order,
        deleted=deleted,
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])),
        left_closed=data.draw(st.booleans()),
        ttl=data.draw(st.sampled_from([None, *SPANS])),
    )
    rows = data.draw(logs(ids=ids, order=order, deleted=deleted))
    entity = Entity(plan)
    with leaf_rows(data.draw(st.sampled_from([1, 2, 3, 512]))):
        delivered = data.draw(schedules(rows) if ids else st.permutations(rows))
        for batch in data.draw(batches(delivered)):
            entity.apply(batch)
    for t in data.draw(queries(plan, instants_of(rows))):
        check_cells(oracle.expected_cells(plan, rows, b"a", t, predicate=predicate), entity.read(t), t)


@st.composite
def numbers(draw: st.DrawFn) -> tuple[AggregateColumn, ...]:
    """Return aggregations that the reader has a short way for: of numbers, without where and by."""
    columns = ["amount", "whole"]
    made = []
    for number in range(draw(st.integers(1, 6))):
        function = draw(st.sampled_from(few._FUNCTIONS))
        column = draw(st.sampled_from([*columns, None] if function == "count" else columns))
        kind = None if column is None else TYPES[column]
        window = plans.Window(draw(st.sampled_from(SPANS)), draw(st.booleans()))
        made.append(
            AggregateColumn(
                f"f{number}",
                function,
                Input(column, kind, None, None, None),
                window,
                None,
                result_type(function, kind),
            )
        )
    return tuple(made)


def usual_functions(*widths: int) -> tuple[AggregateColumn, ...]:
    """Return each of these functions, of a float and of a whole number, in each window."""
    return tuple(
        AggregateColumn(
            f"{column}_{function}_{width}",
            function,
            Input(column, TYPES[column], None, None, None),
            plans.Window(width),
            None,
            result_type(function, TYPES[column]),
        )
        for column in ("amount", "whole")
        for function in few._FUNCTIONS
        for width in widths
    )


@given(st.data())
@examples(150)
def test_the_short_ways_of_a_read_give_what_the_general_one_does_to_the_bit(data: st.DataObject) -> None:
    made = data.draw(numbers())
    left_closed = data.draw(st.booleans())
    plan = a_plan(made, left_closed=left_closed, history=data.draw(HISTORIES))
    amounts = data.draw(st.sampled_from([st.floats(), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float)]))
    wholes = data.draw(st.sampled_from([st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9)]))
    steps = st.sampled_from([0, 1, *SPANS])
    rows, t = [], ORIGIN
    for number in range(data.draw(st.integers(1, 8))):
        t += data.draw(steps)
        rows.append(one(t, number, amount=data.draw(amounts), whole=data.draw(wholes)))
    entity = Entity(plan)
    with leaf_rows(data.draw(st.sampled_from([3, 512]))):
        entity.apply(rows, data.draw(st.sampled_from([None, t])))
    root = entity.fields[ROOT]
    short = few.FewRows.of(entity.layout, range(len(made)))
    many = ManyRows.of(entity.layout)
    usual = UsualLeaf(entity.layout, range(len(made)), with_newest=False)
    newest_too = UsualLeaf(entity.layout, range(len(made)), with_newest=True)
    assert short is not None
    assert many is not None
    edges = {t + span + step for span in (0, *SPANS) for step in (-1, 0, 1)}
    for at in sorted(edges):
        try:
            whole = entity.read(at)
        except HistoryError:
            assert NewestAtOnce(entity.layout)(root, at) is None
            assert usual(root, at) is None
            continue
        newest = entity.view(at).newest()
        assert NewestAtOnce(entity.layout)(root, at) in (None, newest)
        leaf = newest_too(root, at)
        assert leaf is None or (leaf.last, leaf.newest) == newest
        leaf = usual(root, at)
        if leaf is None:
            continue
        expected = [repr(whole[column.name]) for column in made]
        finished = each_output(many.read([leaf], [at]), 1)
        assert expected == [repr(plain_values(*finished[i], c.type)[0]) for i, c in enumerate(made)]
        if (found := short.read(leaf, at)) is not None:
            assert expected == list(map(repr, found))


@pytest.mark.parametrize("count", [1, 40])
def test_a_read_of_a_few_usual_rows_takes_the_short_ways(count: int) -> None:
    made = tuple(
        AggregateColumn(
            f,
            f,
            Input(c, TYPES[c], None, None, None),
            plans.Window(HOUR),
            None,
            result_type(f, TYPES[c]),
        )
        for f, c in zip(few._FUNCTIONS, ["amount", "whole"] * 4, strict=False)
    )
    entity = Entity(a_plan(made))
    entity.apply([one(ORIGIN + number, number, amount=0.1, whole=3) for number in range(count)])
    short = few.FewRows.of(entity.layout, range(len(made)))
    t = ORIGIN + count
    assert short is not None
    assert NewestAtOnce(entity.layout)(entity.fields[ROOT], t) is not None
    leaf = UsualLeaf(entity.layout, range(len(made)), with_newest=True)(entity.fields[ROOT], t)
    assert leaf is not None
    assert short.read(leaf, t) == [entity.read(t)[f] for f in few._FUNCTIONS]


USUAL = [st.integers(-3, 3).map(float), st.sampled_from([1e16, -1e16, 1.0, -1.0, 0.1, 2.0**53, 2.0**-60])]
UNUSUAL = [
    st.floats(-1e6, 1e6),
    st.floats(),
    st.none() | st.just(0.5),
    st.sampled_from([1e300, -1e300, 1e-300]),
]


@given(st.data())
@examples(100)
def test_the_short_way_through_many_leaves_gives_what_the_general_one_does_to_the_bit(
    data: st.DataObject,
) -> None:
    made = data.draw(numbers())
    plan = a_plan(made, plain=(), left_closed=data.draw(st.booleans()), history=data.draw(HISTORIES))
    amounts, wholes, is_usual = data.draw(
        st.sampled_from(
            [
                *((floats, st.integers(-(2**53) - 1, 2**53 + 1), True) for floats in USUAL),
                *((floats, st.integers(-9, 9), False) for floats in UNUSUAL),
                (USUAL[0], st.integers(-(2**63), 2**63 - 1), False),
            ]
        )
    )
    steps = st.sampled_from([0, 0, 1, 7 * MILLI, SECOND, *SPANS])
    rows, t = [], ORIGIN
    for number in range(data.draw(st.integers(4, 40))):
        t += data.draw(steps)
        rows.append(one(t, number, amount=data.draw(amounts), whole=data.draw(wholes)))
    entity = Entity(plan)
    with leaf_rows(data.draw(st.sampled_from([1, 2, 3, 12]))):
        for batch in data.draw(batches(data.draw(st.permutations(rows)))):
            entity.apply(batch, data.draw(st.sampled_from([None, t])))
    short = few.FewRows.of(entity.layout, range(len(made)))
    assert short is not None
    for at in data.draw(queries(plan, instants_of(rows))):
        try:
            view = entity.view(at)
        except HistoryError:
            continue
        if not view.is_deep:
            continue
        found, whole = short.read(view, at), entity.read(at)
        assert found is not None or not is_usual
        if found is not None:
            assert [repr(whole[column.name]) for column in made] == list(map(repr, found))


@pytest.mark.parametrize(
    ("amounts", "wholes", "least_taken"),
    [
        ([1e16, -1e16, 1.0, 0.1, -0.3], [1, -1, 2**53 + 1, -(2**53)], 1.0),
        ([0.5] * 60 + [math.nan, math.inf, -math.inf], [7], 0.4),
        ([0.5] * 20 + [None] * 3, [None, 3, None], 0.05),
        ([1e-300, 2.0**-1000, 0.0, 1e305, -1e305], [2**62, -(2**61)], 0.3),
    ],
    ids=["that cancel", "that are not finite", "that are null", "at the ends of their types"],
)
def test_each_function_of_values(amounts: list[Any], wholes: list[Any], least_taken: float) -> None:
    made = usual_functions(20 * MILLI, SECOND, HOUR)
    entity = Entity(a_plan(made, plain=()))
    random = np.random.default_rng(11)
    times = ORIGIN + np.cumsum(random.integers(0, 20, 400) ** 4)
    rows = [
        one(t, n, amount=amounts[random.integers(len(amounts))], whole=wholes[random.integers(len(wholes))])
        for n, t in enumerate(times.tolist())
    ]
    with leaf_rows(5):
        entity.apply(rows)
    assert entity.depth() > 1
    each = [few.FewRows.of(entity.layout, [place]) for place in range(len(made))]
    taken = 0
    for t in times[::7].tolist():
        view, whole = entity.view(t), entity.read(t)
        for column, short in zip(made, each, strict=True):
            assert short is not None
            if (found := short.read(view, t)) is not None:
                taken += 1
                assert repr(found[0]) == repr(whole[column.name]), (column.name, t)
    assert taken >= least_taken * len(made) * len(times[::7])


def test_tiles_of_rows_none_of_which_counts() -> None:
    made = usual_functions(6 * HOUR)
    entity = Entity(a_plan(made, plain=()))
    with leaf_rows(1):
        entity.apply([one(ORIGIN + n % 2 * HOUR, n, amount=None, whole=None) for n in range(4)])
    t = ORIGIN + 4 * HOUR
    view, whole = entity.view(t), entity.read(t)
    assert view.is_deep
    for place, column in enumerate(made):
        short = few.FewRows.of(entity.layout, [place])
        assert short is not None
        found = short.read(view, t)
        if column.function in ("count", "sum", "avg"):
            assert found is not None
            assert repr(found[0]) == repr(whole[column.name])
        else:
            assert found is None


def test_a_read_of_very_many_rows_takes_the_short_way() -> None:
    """As the benchmarks have it: windows of an hour, a day and a week over tiles of two levels and leaves."""
    made = usual_functions(HOUR, 24 * HOUR, 168 * HOUR)
    entity = Entity(a_plan(made))
    random = np.random.default_rng(7)
    times = ORIGIN + np.sort(random.integers(0, 168 * HOUR, 20_000))
    columns = (times, random.gamma(2.0, 30.0, len(times)).round(2), random.integers(1, 20, len(times)))
    rows = [
        one(t, number, amount=amount, whole=whole)
        for number, (t, amount, whole) in enumerate(zip(*(c.tolist() for c in columns), strict=True))
    ]
    entity.apply(rows)
    assert entity.depth() == 2
    short = few.FewRows.of(entity.layout, range(len(made)))
    assert short is not None
    for t in (
        ORIGIN + 168 * HOUR,
        rows[-1]["__event_time"],
        rows[12_345]["__event_time"],
        ORIGIN + 30 * HOUR,
    ):
        whole = entity.read(t)
        found = short.read(entity.view(t), t)
        assert found is not None
        assert [repr(value) for value in found] == [repr(whole[column.name]) for column in made]
        seen = [row["amount"] for row in rows if t - 24 * HOUR < row["__event_time"] <= t]
        assert whole[f"amount_sum_{24 * HOUR}"] == math.fsum(seen)
        assert whole[f"amount_count_{24 * HOUR}"] == len(seen)


@given(st.data())
@examples(60)
def test_many_leaves_at_once_give_what_each_gives_alone_to_the_bit(data: st.DataObject) -> None:
    made = data.draw(st.one_of(numbers(), aggregate_columns(ALL, SPANS, most=3)))
    plan = a_plan(made, left_closed=data.draw(st.booleans()))
    many = ManyRows.of(OnlineLayout.of(plan))
    usual = UsualLeaf(OnlineLayout.of(plan), range(len(made)), with_newest=False)
    amounts = data.draw(st.sampled_from([st.floats(), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float)]))
    wholes = data.draw(st.sampled_from([st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9)]))
    times = data.draw(st.sampled_from([st.just(ORIGIN), st.integers(ORIGIN, ORIGIN + HOUR)]))
    asked, leaves = [], []
    for _ in range(data.draw(st.integers(1, 5))):
        entity = Entity(plan)
        at = sorted(data.draw(st.lists(st.integers(ORIGIN - HOUR, ORIGIN + HOUR), min_size=1, max_size=6)))
        entity.apply(
            [one(t, n, amount=data.draw(amounts), whole=data.draw(wholes)) for n, t in enumerate(at)]
        )
        t = data.draw(times)
        leaf = usual(entity.fields[ROOT], t)
        if many is not None and leaf is not None:
            asked.append((entity, t))
            leaves.append(leaf)
    if many is None or not leaves:
        return
    finished = each_output(many.read(leaves, [t for _, t in asked]), len(leaves))
    for number, (entity, t) in enumerate(asked):
        whole = entity.read(t)
        for i, column in enumerate(made):
            value = plain_values(*finished[i], column.type)[number]
            assert repr(value) == repr(whole[column.name]), column.name


def test_so_many_rows_at_once_that_sums_come_from_prefixes_are_exact_too() -> None:
    made = tuple(
        AggregateColumn(
            f"{f}_{span}",
            f,
            Input("amount", TYPES["amount"], None, None, None),
            plans.Window(span),
            None,
            result_type(f, TYPES["amount"]),
        )
        for f in ("sum", "avg", "min", "max", "count")
        for span in SPANS
    )
    plan = a_plan(made)
    many, short = ManyRows.of(OnlineLayout.of(plan)), few.FewRows.of(OnlineLayout.of(plan), range(len(made)))
    usual = UsualLeaf(OnlineLayout.of(plan), range(len(made)), with_newest=True)
    random = np.random.default_rng(7)
    t = ORIGIN + HOUR
    leaves = []
    for _ in range(20):
        entity = Entity(plan)
        ago = np.sort(random.integers(0, HOUR, 300))[::-1]
        entity.apply([one(t - a, n, amount=random.gamma(2.0, 30.0)) for n, a in enumerate(ago.tolist())])
        leaf = usual(entity.fields[ROOT], t)
        assert leaf is not None
        leaves.append(leaf)
    assert many is not None
    assert short is not None
    finished = each_output(many.read(leaves, [t] * len(leaves)), len(leaves))
    columns = [plain_values(*finished[i], column.type) for i, column in enumerate(made)]
    assert [list(row) for row in zip(*columns, strict=True)] == [short.read(leaf, t) for leaf in leaves]


@given(st.data())
@examples(60)
def test_the_state_is_the_same_bytes_whatever_the_order_and_the_batches(data: st.DataObject) -> None:
    ids, deleted = data.draw(st.booleans()), data.draw(st.booleans())
    plan = a_plan(
        data.draw(aggregate_columns(ALL, SPANS, most=3)),
        ids=ids,
        deleted=deleted,
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])),
    )
    rows = data.draw(logs(ids=ids, deleted=deleted))
    states = []
    with leaf_rows(data.draw(st.sampled_from([1, 3]))):
        for _ in range(2):
            entity = Entity(plan)
            delivered = data.draw(schedules(rows) if ids else st.permutations(rows))
            for batch in data.draw(batches(delivered)):
                entity.apply(batch)
            states.append(entity.fields)
    assert states[0] == states[1]


@given(st.data())
@examples(80)
def test_a_base_row_counts_once_whether_or_not_it_is_stored(data: st.DataObject) -> None:
    deleted = data.draw(st.booleans())
    plan = a_plan(data.draw(aggregate_columns(ALL, SPANS)), plain=(), deleted=deleted)
    rows = data.draw(logs(deleted=deleted))
    [base] = data.draw(kernel_log(COLUMNS, SPANS, keys=[b"a"], max_rows=1).filter(len))
    arrived = data.draw(st.sampled_from([None, *rows]))
    if arrived is not None:
        base |= {name: arrived[name] for name in (plans.EVENT_TIME, plans.EVENT_ID)}
    base[plans.DELETED] = False
    entity = Entity(plan)
    with leaf_rows(data.draw(st.sampled_from([1, 2, 512]))):
        for batch in data.draw(batches(rows)):
            entity.apply(batch)
    t = base[plans.EVENT_TIME]
    cells = oracle.expected_cells(plan, rows, b"a", t, predicate=predicate, base=base)
    check_cells(cells, entity.read(t, base), t)


@given(st.data())
@examples(150)
def test_pruning_changes_no_answer_within_the_history(data: st.DataObject) -> None:
    history = data.draw(st.sampled_from([0, 90 * SECOND, HOUR]))
    ids, order, deleted = (data.draw(st.booleans()) for _ in range(3))
    plan = a_plan(
        data.draw(aggregate_columns(ALL, SPANS, most=3)) if data.draw(st.booleans()) else (),
        ids=ids,
        order=order,
        deleted=deleted,
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])),
        left_closed=data.draw(st.booleans()),
        ttl=data.draw(st.sampled_from([None, *SPANS])),
        history=history,
    )
    rows = data.draw(logs(ids=ids, order=order, deleted=deleted, origin=ORIGIN))
    steps = data.draw(batches(data.draw(st.permutations(rows))))
    clock = sorted(
        data.draw(
            st.lists(
                st.sampled_from([ORIGIN, *(t + MARGIN + history + plan.reach for t in instants_of(rows))]),
                min_size=len(steps),
                max_size=len(steps),
            )
        )
    )
    entity = Entity(plan)
    with leaf_rows(data.draw(st.sampled_from([1, 2, 512]))):
        for batch, now in zip(steps, clock, strict=True):
            entity.apply(batch, now)
    now = clock[-1] if clock else ORIGIN
    assert set(entity.fields) == entity.reachable(), "a field was left behind"
    for t in [now - history, *data.draw(queries(plan, [now, *instants_of(rows)]))]:
        cells = oracle.expected_cells(plan, rows, b"a", t, predicate=predicate)
        try:
            got = entity.read(t)
        except HistoryError:
            assert t < now - history, "an instant within the history was refused"
            continue
        check_cells(cells, got, (t, now))


def one(t: int, number: int, *, ingest: int | None = None, **given: Any) -> dict[str, Any]:
    """Return a row of amount `number`."""
    return dict.fromkeys(COLUMNS) | {
        "amount": float(number),
        "__event_time": t,
        "__ingest_time": t if ingest is None else ingest,
        "__key": b"a",
        "__event_id": number,
        "__row_hash": number,
        **given,
    }


LAST = AggregateColumn(
    "last",
    "last",
    plans.Input("amount", TYPES["amount"], None, None, None),
    plans.Window(HOUR),
    None,
    TYPES["amount"],
)


def test_a_base_row_is_recognised_at_the_last_microsecond_of_a_slice() -> None:
    """Its twin lies in the slice before the one where the window ends."""
    entity = Entity(a_plan((replace(LAST, name="n", function="count", type=TYPES["whole"]),), plain=()))
    t = (ORIGIN >> entity.layout.bits[0] << entity.layout.bits[0]) - 1
    with leaf_rows(1):
        entity.apply([one(t, 1), one(t - 1, 2), one(t - HOUR // 2, 3)])
    assert entity.depth() == len(entity.layout.bits)
    assert entity.read(t, one(t, 1))["n"] == 3
    assert entity.read(t, one(t, 4))["n"] == 4


def test_a_base_row_stands_in_its_place_among_rows_of_its_instant() -> None:
    entity = Entity(a_plan((LAST,), plain=()))
    entity.apply([one(ORIGIN, 1, ingest=ORIGIN + 5), one(ORIGIN, 2, ingest=ORIGIN + 3)])
    assert entity.read(ORIGIN, one(ORIGIN, 9, ingest=ORIGIN))["last"] == 1.0
    assert entity.read(ORIGIN, one(ORIGIN, 9, ingest=ORIGIN + 7))["last"] == 9.0


@pytest.mark.parametrize("limit", [1, 512])
def test_rows_of_the_newest_instant_before_the_history_keep_their_order(limit: int) -> None:
    """A copy, or a row of the same instant, that comes after the pruning is told from the newest."""
    entity = Entity(a_plan((), plain=("amount",), history=0))
    now = ORIGIN + 400 * 24 * HOUR
    with leaf_rows(limit):
        entity.apply([one(ORIGIN, 5, ingest=ORIGIN + 5), one(ORIGIN - HOUR, 1)], now)
        entity.apply([one(ORIGIN, 4, ingest=ORIGIN + 4)], now)
        assert entity.read(now)["amount"] == 5.0
        entity.apply([one(ORIGIN, 8, ingest=ORIGIN + 9, __event_id=5)], now)
        assert entity.read(now)["amount"] == 5.0
        entity.apply([one(ORIGIN - HOUR, 7)], now)
        assert entity.read(now)["amount"] == 5.0
    assert set(entity.fields) == entity.reachable()


def test_an_instant_before_trimmed_values_is_an_error() -> None:
    entity = Entity(a_plan((), plain=("amount",), history=0))
    entity.apply([one(ORIGIN - HOUR, 1), one(ORIGIN, 2)], ORIGIN + MARGIN)
    assert entity.read(ORIGIN)["amount"] == 2.0
    with pytest.raises(HistoryError):
        entity.read(ORIGIN - 1)


@pytest.mark.parametrize("limit", [1, 512])
def test_a_lifetime_window_keeps_every_row_and_reads_no_field_for_its_left_edge(limit: int) -> None:
    """Rows of a hundred years are there, far past any other window, and entities do not expire."""
    window = plans.Window(None)
    made = (
        replace(LAST, name="n", function="count", window=window, type=TYPES["whole"]),
        replace(LAST, name="first", function="first", window=window),
        replace(LAST, name="hour"),
    )
    plan = a_plan(made, plain=("amount",), history=0)
    entity = Entity(plan)
    day = 24 * HOUR
    now = ORIGIN + 300 * day
    with leaf_rows(limit):
        for number in range(20):
            entity.apply([one(ORIGIN - number * 1825 * day, number)], now)
    assert entity.layout.floors(now) is None
    assert entity.layout.expire_ms() is None
    got = entity.read(now)
    assert (got["n"], got["first"], got["hour"], got["amount"]) == (20, 19.0, None, 0.0)
    assert entity.read(ORIGIN - 1)["n"] == 19
    assert len(entity.layout.read_fields(now)) <= 1 + 2 * len(entity.layout.bits)


def test_a_directory_grows_several_levels_and_its_tiles_are_used() -> None:
    """2,000 rows, three to a leaf: sums over hours come from tiles, and equal the plain sums."""
    made = tuple(
        AggregateColumn(
            name,
            function,
            plans.Input("whole", TYPES["whole"], None, None, None),
            plans.Window(width),
            None,
            TYPES["whole"],
        )
        for name, function, width in [("sum", "sum", HOUR), ("low", "min", 90 * SECOND), ("n", "count", HOUR)]
    )
    rows = [
        dict.fromkeys(COLUMNS)
        | {
            "whole": number % 97,
            "__event_time": ORIGIN + number * 3 * SECOND + number * number % 1000,
            "__ingest_time": ORIGIN,
            "__key": b"a",
            "__event_id": number,
            "__row_hash": number,
        }
        for number in range(2000)
    ]
    entity = Entity(a_plan(made))
    with leaf_rows(3):
        for start in range(0, 2000, 400):
            entity.apply(rows[start : start + 400])
        entity.apply(rows[300:900])
    assert entity.depth() >= 3
    for t in [ORIGIN, ORIGIN + HOUR, ORIGIN + HOUR + 7, rows[-1]["__event_time"], ORIGIN + 3 * HOUR]:
        in_hour = [r["whole"] for r in rows if t - HOUR < r["__event_time"] <= t]
        in_moment = [r["whole"] for r in rows if t - 90 * SECOND < r["__event_time"] <= t]
        got = entity.read(t)
        assert (got["sum"], got["n"]) == (sum(in_hour), len(in_hour))
        assert got["low"] == min(in_moment, default=None)


@pytest.mark.parametrize("rows", [2, 40])
def test_nodes_decode_to_what_was_encoded(rows: int) -> None:
    made = tuple(
        AggregateColumn(
            f"{function}_{column}",
            function,
            plans.Input(column, TYPES[column], None, None, None),
            plans.Window(HOUR),
            3 if function == "last_k" else None,
            TYPES[column],
        )
        for function, column in [
            ("last_k", "raw"),
            ("max", "unsigned"),
            ("count_distinct", "kind"),
            ("std", "amount"),
            ("first", "day"),
            ("sum", "whole"),
        ]
    )
    log = [
        dict.fromkeys(COLUMNS)
        | {
            "raw": bytes([number]),
            "unsigned": 2**64 - 1 - number,
            "kind": f"é{number % 3}",
            "amount": float("nan") if number == 7 else number / 3,
            "day": number,
            "whole": 2**63 - 1 - number,
            "__event_time": ORIGIN + number * HOUR,
            "__ingest_time": ORIGIN,
            "__key": b"a",
            "__event_id": number,
            "__row_hash": -number,
        }
        for number in range(rows)
    ]
    entity = Entity(a_plan(made, order=False))
    with leaf_rows(4):
        entity.apply(log)
    for data in entity.fields.values():
        node = nodes.decode(data, entity.layout)
        assert nodes.encode(node, entity.layout) == data
