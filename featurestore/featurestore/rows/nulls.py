"""Where a column has nulls, without a query where it has none.

Methods of a Polars series that are built on expressions start a query each, and a batch of a few events is
dozens of them: 0.1 ms each, and more on a busy machine, since every query changes threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl


def absent(series: pl.Series) -> pl.Series:
    """Return which values are null."""
    return series.is_null() if series.null_count() else pl.Series(np.zeros(len(series), np.bool_))


def present(series: pl.Series) -> npt.NDArray[np.bool_]:
    """Return which values are not null."""
    return series.is_not_null().to_numpy() if series.null_count() else np.ones(len(series), np.bool_)


def filled(series: pl.Series, value: Any) -> pl.Series:
    """Return the column with `value` for every null."""
    return series.fill_null(value) if series.null_count() else series
