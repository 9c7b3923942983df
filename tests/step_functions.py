"""Functions for the tests of `python` steps."""

from __future__ import annotations

import numpy as np
import polars as pl


def doubled(rows: pl.DataFrame) -> pl.DataFrame:
    """Twice the amount, and the name's first letter."""
    return rows.select(twice=pl.col("amount") * 2, initial=pl.col("name").str.slice(0, 1))


def picky(rows: pl.DataFrame) -> pl.DataFrame:
    """The amount's inverse; refuses zero."""
    if (rows["amount"] == 0).any():
        raise ValueError("zero has no inverse")
    return rows.select(inverse=1 / pl.col("amount"))


def small(rows: pl.DataFrame) -> pl.DataFrame:
    """The amount as int64, declared int8."""
    return rows.select(twice=pl.col("amount").cast(pl.Int64))


def wrong_height(rows: pl.DataFrame) -> pl.DataFrame:
    """Two rows for every row."""
    return pl.concat([rows.select(twice="amount")] * 2)


def wrong_type(rows: pl.DataFrame) -> pl.DataFrame:
    """Text, declared float64."""
    return rows.select(twice=pl.lit("x"))


def no_frame(rows: pl.DataFrame) -> list[int]:
    """A list."""
    return [1]


def later(rows: pl.DataFrame) -> pl.DataFrame:
    """The timestamp, an hour later."""
    return rows.select(pl.col("at").dt.offset_by("1h").alias("later"))


def documented(rows: pl.DataFrame) -> pl.DataFrame:
    """A document of the name and the amount, as text of the author's; none of a negative amount."""
    texts = [f'{{"n": "{n}", "a": {a}}}' if a >= 0 else "{" for n, a in rows.select("name", "amount").rows()]
    return pl.DataFrame({"doc": texts})


def packed(rows: pl.DataFrame) -> pl.DataFrame:
    """The same as a struct."""
    return rows.select(doc=pl.struct(n="name", a="amount"))


def nothing(rows: pl.DataFrame) -> pl.DataFrame:
    """A column without any type."""
    return rows.select(twice=pl.lit(None))


def embedded(rows: pl.DataFrame) -> pl.DataFrame:
    """Half the last and the mean of four numbers, as rows of a numpy array."""
    pixels = rows["pixels"].to_numpy()
    made = pl.Series(np.stack([pixels[:, 3] / 2, pixels.mean(axis=1)], axis=1))
    return pl.DataFrame({"embedding": made.set(rows["pixels"].is_null(), None)})


def listed(rows: pl.DataFrame) -> pl.DataFrame:
    """The amount and its double, as lists."""
    return rows.select(made=pl.concat_list("amount", pl.col("amount") * 2))


def stacked(rows: pl.DataFrame) -> pl.DataFrame:
    """The amount and its double, as rows of numpy."""
    amounts = rows["amount"].to_numpy()
    return pl.DataFrame({"made": np.stack([amounts, amounts * 2], axis=1)})


def holed(rows: pl.DataFrame) -> pl.DataFrame:
    """The amount and a null, as lists."""
    return rows.select(made=pl.concat_list("amount", pl.lit(None, pl.Float64)))


def texts(rows: pl.DataFrame) -> pl.DataFrame:
    """Numbers as text, in lists."""
    return rows.select(made=pl.concat_list(pl.lit("1"), pl.lit("2")))
