"""Rows into many entities' leaves at once give the bytes that `tree.Update` gives, entity by entity."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity import TYPES, aggregate_columns, examples
from strategies import HOUR, ORIGIN, SECOND
from test_online_tree import ALL, PLAIN, SPANS, Entity, a_plan, batches, leaf_rows, logs

from featurestore.aggregates import result_type
from featurestore.aggregates.inputs import RowParts
from featurestore.expressions import parse
from featurestore.online import leaves, nodes, tree
from featurestore.online.layout import MARGIN, ROOT, OnlineLayout
from featurestore.online.nodes import Leaf
from featurestore.online.tree import Update
from featurestore.plans import AggregateColumn, Input, Window


@given(st.data())
@examples(200)
def test_a_root_that_grows_with_others_is_the_root_that_grows_alone(data: st.DataObject) -> None:
    ids, order, deleted = (data.draw(st.booleans()) for _ in range(3))
    made: tuple[AggregateColumn, ...] = data.draw(st.just(()) | aggregate_columns(ALL, SPANS, most=4))
    plan = a_plan(
        made,
        plain=data.draw(st.sampled_from([PLAIN, ("amount",), ()])) if made else PLAIN,
        ids=ids,
        order=order,
        deleted=deleted and data.draw(st.booleans()),
        on_duplicate=data.draw(st.sampled_from(["first", "replace"])),
        left_closed=data.draw(st.booleans()),
        ttl=data.draw(st.sampled_from([None, *SPANS])),
        history=data.draw(st.sampled_from([None, 0, 60 * SECOND, HOUR])),
    )
    limit = data.draw(st.sampled_from([1, 3, 8, 512]))
    is_compiled = data.draw(st.booleans())
    leaves.kernel().result()
    alone: list[Entity] = []
    schedule: list[list[list[dict[str, Any]]]] = []
    for _ in range(data.draw(st.integers(1, 4))):
        rows = data.draw(logs(ids=ids, order=order, deleted=plan.source.deleted is not None))
        alone.append(Entity(plan))
        delivered = data.draw(st.just(rows) | st.permutations(rows))
        schedule.append(data.draw(batches(delivered)))
    with leaf_rows(limit), mock.patch.object(leaves, "_MANY", 1 if is_compiled else 1_000_000):
        for step in range(max(map(len, schedule))):
            later = st.integers(0, 40).map(lambda n: n * HOUR // 6)
            now = data.draw(st.none() | later.map(lambda later: ORIGIN + MARGIN + later))
            floors = None if now is None else alone[0].layout.floors(now)
            here = [(e, parts[step]) for e, parts in zip(alone, schedule, strict=True) if step < len(parts)]
            given_rows = [entity.leaf(rows) for entity, rows in here]
            starts = np.cumsum([0, *map(len, given_rows)])
            before = [entity.fields.get(ROOT) for entity, _ in here]
            found = leaves.grow(alone[0].layout, before, nodes.join_leaves(given_rows), starts, floors)
            for (entity, rows), leaf, root in zip(here, given_rows, found, strict=True):
                update = Update(entity.layout, dict(entity.fields), floors, entity._fetch)
                expected = update.apply(leaf)
                entity.apply(rows, now)
                if root is not None:
                    assert expected == {ROOT: root.data}
                    assert update.newest == root.newest
                elif limit == 512:
                    assert plan.source.deleted is not None


def sums(condition: str | None, by: str | None) -> tuple[AggregateColumn, ...]:
    where = None if condition is None else parse(condition, TYPES)
    taken = Input("amount", TYPES["amount"], where, by, None if by is None else "a")
    return (AggregateColumn("total", "sum", taken, Window(HOUR), None, result_type("sum", TYPES["amount"])),)


def drawn_rows(layout: OnlineLayout, random: np.random.Generator, sizes: Any) -> Leaf:
    """Return new rows of some entities, many of one instant, some of them copies of an event."""
    count = int(sizes.sum())
    values = random.integers(0, 5, count)
    rows = Leaf(
        ORIGIN + random.integers(0, 40, count) * SECOND,
        ORIGIN + random.integers(0, 3, count),
        random.integers(-9, 9, count),
        random.integers(-2, 2, count) if layout.has_order else None,
        random.integers(0, 4, count) if layout.has_ids else None,
        RowParts(
            tuple((values.astype("<f8"), values > 0) for _ in layout.parts.columns),
            tuple(values > 2 for _ in layout.parts.conditions),
            tuple(values.astype("<i2") for _ in layout.parts.categories),
        ),
        [None if n == 1 else b"%d" % n * (100 * n) for n in values.tolist()] if layout.has_plain else [],
    )
    return rows.take(tree.row_order(rows, np.repeat(np.arange(len(sizes)), sizes)))


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize(("condition", "by"), [(None, None), ("amount > 5", "kind")])
@pytest.mark.parametrize(("plain", "order", "on_duplicate"), [(PLAIN, False, "first"), ((), True, "replace")])
@pytest.mark.parametrize("history", [None, 0])
def test_the_compiled_kernel_gives_the_roots_that_it_stands_for(
    ids: bool,
    condition: str | None,
    by: str | None,
    plain: tuple[str, ...],
    order: bool,
    on_duplicate: str,
    history: int | None,
) -> None:
    made = sums(condition, by)
    plan = a_plan(made, plain=plain, ids=ids, order=order, on_duplicate=on_duplicate, history=history)
    layout, random = OnlineLayout.of(plan), np.random.default_rng(1)
    roots: list[bytes | None] = [None] * 80
    leaves.kernel().result()
    for step in range(12):
        sizes = random.integers(1, 9, len(roots))
        rows, starts = drawn_rows(layout, random, sizes), np.cumsum([0, *sizes])
        floors = layout.floors(ORIGIN + HOUR + MARGIN + step * 2 * SECOND)
        with leaf_rows(60):
            compiled = leaves.grow(layout, roots, rows, starts, floors)
            with mock.patch.object(leaves, "_MANY", 1_000_000):
                assert compiled == leaves.grow(layout, roots, rows, starts, floors)
        roots = [old if new is None else new.data for old, new in zip(roots, compiled, strict=True)]
    assert all(root is not None for root in roots)
