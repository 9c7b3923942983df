"""What aggregations read of a row, each part once: value columns, conditions, categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featurestore.aggregates.arrays import Array
from featurestore.aggregates.functions import carrier
from featurestore.expressions import Expression
from featurestore.plans import Input
from featurestore.types import DataType


@dataclass(frozen=True)
class RowParts:
    """The parts of rows as arrays: values with their validity, conditions, category codes (-1: other)."""

    columns: tuple[tuple[Array, Array], ...]
    conditions: tuple[Array, ...]
    categories: tuple[Array, ...]


@dataclass(frozen=True)
class PartsPlan:
    """The distinct parts that inputs are made of, and which of them each input uses."""

    columns: tuple[tuple[str, DataType], ...]
    conditions: tuple[Expression, ...]
    categories: tuple[tuple[str, tuple[Any, ...]], ...]
    uses: tuple[tuple[int | None, int | None, tuple[int, int] | None], ...]

    @staticmethod
    def of(inputs: Sequence[Input]) -> PartsPlan:
        """Return the parts of these inputs."""
        columns: dict[tuple[str, DataType], int] = {}
        conditions: dict[Expression, int] = {}
        categories: dict[str, dict[Any, int]] = {}
        uses = []
        for item in inputs:
            column = condition = category = None
            if item.column is not None and item.type is not None:
                column = columns.setdefault((item.column, item.type), len(columns))
            if item.where is not None:
                condition = conditions.setdefault(item.where, len(conditions))
            if item.by is not None:
                codes = categories.setdefault(item.by, {})
                category = (list(categories).index(item.by), codes.setdefault(item.value, len(codes)))
            uses.append((column, condition, category))
        return PartsPlan(
            tuple(columns),
            tuple(conditions),
            tuple((by, tuple(codes)) for by, codes in categories.items()),
            tuple(uses),
        )

    def input(self, number: int, parts: RowParts, size: int) -> tuple[Array, Array | None]:
        """Return an input's values for `size` rows, and where it counts (None: everywhere)."""
        column, condition, category = self.uses[number]
        valid: Array | None = None
        values: Array
        if column is None:
            values = np.zeros(size, np.int8)
        else:
            values, present = parts.columns[column]
            valid = None if present.all() else present
        if condition is not None:
            holds = parts.conditions[condition]
            valid = holds if valid is None else valid & holds
        if category is not None:
            matches = parts.categories[category[0]] == category[1]
            valid = matches if valid is None else valid & matches
        return values, valid

    def dtypes(self) -> list[str]:
        """Return the carriers of the value columns."""
        return self._dtypes

    @cached_property
    def _dtypes(self) -> list[str]:
        return [carrier(kind) for _, kind in self.columns]
