"""The base row of a request: the raw row through the set's steps, as features and as one row of a leaf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurestore import instants
from featurestore.aggregates.arrays import Array, object_array
from featurestore.aggregates.carriers import carrier, carry
from featurestore.aggregates.inputs import RowParts
from featurestore.errors import RequestError
from featurestore.expressions import RowRejected
from featurestore.expressions.to_closure import to_closure
from featurestore.online.layout import OnlineLayout
from featurestore.online.nodes import Leaf
from featurestore.online.requests import cast_row
from featurestore.plans import SetPlan
from featurestore.rows.identity import event_id, order_rank, row_hash
from featurestore.steps.rows import compile_rows
from featurestore.types import DataType


@dataclass(frozen=True)
class BaseRow:
    """A request's base row: its event time, all columns after the steps, and the leaf that holds it."""

    t: int
    values: dict[str, Any]
    keys: dict[str, Any]
    leaf: Leaf


class BaseRows:
    """Makes base rows of one feature set from raw rows."""

    def __init__(self, plan: SetPlan) -> None:
        self._plan = plan
        self._layout = OnlineLayout.of(plan)
        self._steps = compile_rows(plan.steps)
        self._conditions = [to_closure(condition) for condition in self._layout.parts.conditions]
        self._types = {f.name: f.type for f in plan.source.schema}
        deleted = plan.source.deleted
        self._is_deleted = None if deleted is None else to_closure(deleted)

    def build(self, raw: Mapping[str, Any]) -> BaseRow:
        """Return the base row of a raw row, known as a batch row is (DESIGN 3.2).

        Raises RequestError or RowRejected where it cannot be one.
        """
        source = self._plan.source
        row = cast_row(raw, source.schema, source.timezone)
        t = instants.ALWAYS if source.event_time is None else row[source.event_time]
        if t is None:
            raise RequestError(f"The row lacks its event time, '{source.event_time}'.")
        ingest = row[source.ingest_time] if source.ingest_time is not None else None
        if ingest is not None and t > ingest + source.future:
            raise RequestError(
                f"{source.event_time} lies further than future: allows after {source.ingest_time}."
            )
        if self._is_deleted is not None and self._is_deleted(row):
            raise RequestError(f"The row is a deletion, by deleted: of source '{source.name}'.")
        values = self._steps(dict(row))
        if values is None:
            raise RowRejected(f"a filter of '{self._plan.name}' leaves the row out")
        ids = None
        if source.event_id:
            number = event_id(
                [row[name] for name in source.event_id], [self._types[name] for name in source.event_id]
            )
            if number is None:
                raise RequestError(f"The row lacks its event id, {', '.join(source.event_id)}.")
            ids = _whole(number)
        order = None
        if source.order_by is not None:
            order = _whole(order_rank(row[source.order_by], self._types[source.order_by]))
        leaf = Leaf(
            _whole(t),
            _whole(t + source.delay if ingest is None else ingest),
            _whole(row_hash(row, source.schema)),
            order,
            ids,
            self._parts(values),
            [None],
            deleted=None if self._is_deleted is None else np.zeros(1, bool),
        )
        keys = {key.request_column: values[key.column] for key in self._plan.keys}
        return BaseRow(t, values, {**values, **keys}, leaf)

    def _parts(self, values: Mapping[str, Any]) -> RowParts:
        parts = self._layout.parts
        return RowParts(
            tuple(_cell(values[name], kind) for name, kind in parts.columns),
            tuple(np.array([bool(condition(values))]) for condition in self._conditions),
            tuple(np.array([_code(values[by], categories)], "<i2") for by, categories in parts.categories),
        )


def _whole(value: int) -> Array:
    return np.array([value], "<i8")


def _cell(value: Any, kind: DataType) -> tuple[Array, Array]:
    dtype = carrier(kind)
    there = np.array([value is not None])
    carried = None if value is None else carry(value, kind)
    if dtype == "object":
        return object_array([carried]), there
    return np.array([0 if carried is None else carried], dtype) + np.zeros(1, dtype), there


def _code(value: Any, categories: tuple[Any, ...]) -> int:
    return categories.index(value) if value in categories else -1
