"""Which rows are one row, by hand: an entity, an instant and an id; and what a base row is known at."""

from __future__ import annotations

import numpy as np
import pytest
from parity import compiled

from featurestore.instants import parse_instant
from featurestore.kernel import EntityRows
from featurestore.online.base import BaseRows

SOURCE = """
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
delay: 1h
schema: {customer: string, at: timestamp, known: timestamp}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
"""


def rows(*given: tuple[int, int, int]) -> EntityRows:
    """Return rows in order: each an entity, an instant and an id."""
    codes, times, ids = (np.array(column, np.int64) for column in zip(*given, strict=True))
    none = np.zeros(len(given), np.int64)
    return EntityRows(2, codes, times, none, none, None, ids, np.arange(len(given)), ())


@pytest.mark.parametrize(
    ("given", "first", "last"),
    [
        ([(0, 1, 7), (0, 1, 7), (0, 1, 7)], [0], [2]),
        ([(0, 1, 7), (0, 1, 8), (0, 1, 7)], [0, 1], [1, 2]),
        # One id at two instants, both beside others of their instant: two rows.
        ([(0, 1, 5), (0, 1, 7), (0, 2, 7), (0, 2, 8)], [0, 1, 2, 3], [0, 1, 2, 3]),
        # The id that is last at one instant is first at the next one.
        ([(0, 1, 7), (0, 1, 9), (0, 2, 9), (0, 2, 9)], [0, 1, 2], [0, 1, 3]),
        # Another entity's, at the same instant: two rows.
        ([(0, 1, 5), (0, 1, 7), (1, 1, 7), (1, 1, 8)], [0, 1, 2, 3], [0, 1, 2, 3]),
        ([(0, 1, 7), (1, 1, 7)], [0, 1], [0, 1]),
        ([(0, 1, 9), (0, 1, 9), (1, 1, 9), (1, 1, 9)], [0, 2], [1, 3]),
        ([(0, 1, 7)], [0], [0]),
    ],
)
def test_copies_are_of_one_entity_one_instant_and_one_id(
    given: list[tuple[int, int, int]], first: list[int], last: list[int]
) -> None:
    assert rows(*given).distinct(replace=False).index.tolist() == first
    assert rows(*given).distinct(replace=True).index.tolist() == last


@pytest.mark.parametrize(
    ("said", "known", "expected"),
    [
        ("delay: 1h\n", None, "2026-03-01T11:00:00Z"),
        ("ingest_time: known\n", "2026-03-01T10:30:00Z", "2026-03-01T10:30:00Z"),
    ],
)
def test_a_base_row_is_known_as_a_batch_row_is(said: str, known: str | None, expected: str) -> None:
    """By the source's column, else `delay:` after it happened."""
    plan = compiled(SOURCE.replace("delay: 1h\n", said)).sets["spending"]
    row = BaseRows(plan).build({"customer": "c", "at": "2026-03-01T10:00:00Z", "known": known})
    assert row.leaf.ingest.tolist() == [parse_instant(expected)]
