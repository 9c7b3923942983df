"""Rows into many entities' leaves at once give the bytes that `tree.Update` gives, entity by entity."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from parity import aggregate_columns, examples
from strategies import HOUR, ORIGIN, SECOND
from test_online_tree import ALL, PLAIN, SPANS, Entity, a_plan, batches, leaf_rows, logs

from featurestore.online import leaves, nodes
from featurestore.online.layout import MARGIN, ROOT
from featurestore.online.tree import Update
from featurestore.plans import AggregateColumn


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
