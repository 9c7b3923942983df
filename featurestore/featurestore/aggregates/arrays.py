"""The array types of the algebra: values, ranges and partials."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""A one-dimensional numpy array."""

Partial = tuple[Array, ...]
"""Partial states, column by column: arrays of one length, one entry per state."""


def object_array(items: list[Any]) -> Array:
    """Return a one-dimensional object array of exactly these items, lists included."""
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def take(partial: Partial, index: Any) -> Partial:
    """Return the states at `index` (a slice, a mask or positions)."""
    return tuple(column[index] for column in partial)


def concatenate(partials: list[Partial]) -> Partial:
    """Return the states of all partials, one after another."""
    if len(partials) == 1:
        return partials[0]
    return tuple(np.concatenate(columns) for columns in zip(*partials, strict=True))


def put(partial: Partial, index: Any, source: Partial) -> None:
    """Write `source` over the states at `index`."""
    for column, values in zip(partial, source, strict=True):
        column[index] = values
