"""Rows are told apart alike by whichever way their keys are looked up."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest

from featurestore.plans import KEY, SHARD
from featurestore_engines.batch import codes
from featurestore_engines.batch.lookup import Asked

CHANCE = np.random.default_rng(7)
FRAMES: dict[str, Callable[[int], pl.DataFrame]] = {
    "close numbers": lambda n: pl.DataFrame({"0": CHANCE.integers(-n // 3, n // 3, n)}),
    "small numbers": lambda n: pl.DataFrame({"0": CHANCE.integers(-128, 128, n)}).cast(pl.Int8),
    "far numbers": lambda n: pl.DataFrame({"0": CHANCE.integers(-(2**62), 2**62, n // 4)}).sample(
        n, with_replacement=True, seed=1
    ),
    "numbers and nulls": lambda n: pl.DataFrame(
        {"0": [None if v == 3 else v for v in CHANCE.integers(0, 9, n)]}
    ),
    "numbers past int64": lambda n: pl.DataFrame(
        {"0": pl.Series([2**64 - 1 - int(v) for v in CHANCE.integers(0, 9, n)], dtype=pl.UInt64)}
    ),
    "numbers of 128 bits": lambda n: pl.DataFrame({"0": CHANCE.integers(0, n, n)}).cast(pl.Int128),
    "text": lambda n: pl.DataFrame({"0": [f"c{v}" if v else None for v in CHANCE.integers(0, n // 2, n)]}),
    "floats": lambda n: pl.DataFrame({"0": CHANCE.choice([0.0, -0.0, 1.5, np.nan, 17850.0], n)}),
    "NaN alone": lambda n: pl.DataFrame({"0": [math.nan] * n}),
    "dates": lambda n: pl.DataFrame({"0": CHANCE.choice([date(2026, 1, 1), date(1, 1, 1)], n).tolist()}),
    "two columns": lambda n: pl.DataFrame(
        {"0": CHANCE.integers(0, 30, n), "1": [f"c{v}" for v in CHANCE.integers(0, 30, n)]}
    ),
}


@pytest.mark.parametrize("rows", [0, 1, 4000])
@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("at_once", [100, 131_072])
def test_each_row_is_the_distinct_one_at_its_place(
    kind: str, rows: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes, "_ROWS_AT_ONCE", at_once)
    frame = FRAMES[kind](max(rows, 4)).head(rows)
    distinct, places = codes.coded(frame)
    frame = frame.with_columns(cs.float().fill_nan(None))
    assert distinct.schema == frame.schema
    assert distinct.is_duplicated().sum() == 0
    assert distinct.height == frame.n_unique() if rows else distinct.height == 0
    assert distinct[places].equals(frame, null_equal=True)


@pytest.mark.parametrize("seed", range(60))
def test_questions_are_about_the_distinct_keys_by_shard(seed: int) -> None:
    """Whatever order the keys come in, repeated or not, and where some are none."""
    random = np.random.default_rng(seed)
    least = random.choice([0, 0, 1])
    drawn = [b"k%04d" % key for key in random.integers(0, random.choice([5, 40, 1000]), 30)]
    given: list[bytes | None] = [None] * least + (sorted(set(drawn)) if seed % 2 else drawn)
    shards = [None if key is None else key[-1] % 4 for key in given]
    keys = pl.DataFrame({KEY: pl.Series(given, dtype=pl.Binary), SHARD: pl.Series(shards, dtype=pl.Int16)})
    which = random.integers(0, len(given), 50)
    asked = Asked.of(keys, which, pl.Series(np.zeros(50, np.int64)))
    distinct = sorted({key for key in given if key is not None}, key=lambda key: (key[-1] % 4, key))
    assert asked.keys.rows() == [(key, key[-1] % 4) for key in distinct]
    assert asked.key().to_list() == [given[place] for place in which]
    assert Asked.of(keys, None, pl.Series(np.zeros(len(given), np.int64))).key().to_list() == given
