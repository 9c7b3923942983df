"""What a whole batch input is like: rows, nulls, means and repeated keys, in bounded memory.

Rows come a batch at a time. Counts and sums are kept exactly. The columns of `unique:` are written to a
temporary file, over which DuckDB groups, and spills; so its answer is exact too.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq

from featurestore.plans import DELETED, Expectation, SetPlan
from featurestore_engines.batch.sums import exact_sum

MEMORY = "512MB"


@dataclass(frozen=True)
class Verdict:
    """What an expectation found in one input. `value` is None where there was nothing to measure."""

    input: str
    name: str
    severity: str
    value: float | None
    is_met: bool
    text: str


class Expectations:
    """The expectations of a set over the rows of one input, as they come."""

    def __init__(self, plan: SetPlan, name: str) -> None:
        self._name = name
        self._rows = 0
        self._parts: list[tuple[Expectation, Any]] = []
        self._stack = ExitStack()
        self._plan = plan

    def __enter__(self) -> Expectations:
        """Begin with an input; the temporary files last until the end."""
        for number, expectation in enumerate(self._plan.expectations):
            part: Any = None
            if expectation.kind == "unique":
                folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="featurestore-unique-"))
                part = _Repeats(Path(folder) / f"{number}.parquet")
                self._stack.callback(part.close)
            elif expectation.kind != "rows":
                part = _Mean() if expectation.kind == "mean" else _Nulls()
            self._parts.append((expectation, part))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, rows: pl.DataFrame) -> None:
        """Take rows after the steps. Deletions do not count."""
        if DELETED in rows.columns:
            rows = rows.remove(DELETED)
        self._rows += rows.height
        for expectation, part in self._parts:
            if part is not None:
                part.add(rows.select(expectation.columns))

    def verdicts(self) -> list[Verdict]:
        """Return what each expectation found."""
        return [self._verdict(expectation, part) for expectation, part in self._parts]

    def _verdict(self, expectation: Expectation, part: Any) -> Verdict:
        value: float | None = self._rows if part is None else part.value()
        low, high = expectation.low, expectation.high
        is_met = value is None or (
            (low is None or value >= low) and (high is None or value <= high) and value == value
        )
        if expectation.kind == "unique":
            text = f"{value} rows repeat the {', '.join(expectation.columns)} of another"
        else:
            bounds = (("at least", low), ("at most", high))
            wanted = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
            text = f"{'no values' if value is None else f'{value:.12g}'}, expected {' and '.join(wanted)}"
        return Verdict(self._name, expectation.name, expectation.severity, value, is_met, text)


class _Nulls:
    """The share of nulls of a column."""

    def __init__(self) -> None:
        self._rows = self._nulls = 0

    def add(self, rows: pl.DataFrame) -> None:
        self._rows += rows.height
        self._nulls += rows.to_series().null_count()

    def value(self) -> float:
        return self._nulls / self._rows if self._rows else 0.0


class _Mean:
    """The mean of a column: an exact sum, rounded once. Infinities and NaN make it what they make a sum."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = Fraction(0)
        self._beyond = 0.0  # the sum of what is not finite

    def add(self, rows: pl.DataFrame) -> None:
        values = rows.to_series().drop_nulls()
        self._count += len(values)
        if values.dtype.is_float():
            finite = values.is_finite()
            self._beyond += float(values.filter(~finite).cast(pl.Float64).sum())
            values = values.filter(finite)
        self._sum += exact_sum(values)

    def value(self) -> float | None:
        if not self._count:
            return None
        return self._beyond if self._beyond != 0.0 else float(self._sum / self._count)


class _Repeats:
    """How many rows have the same values as an earlier one; nulls apart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._columns: list[str] = []

    def add(self, rows: pl.DataFrame) -> None:
        table = rows.drop_nulls().to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._columns = rows.columns
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def value(self) -> int:
        if self._writer is None:
            return 0
        self._writer.close()
        names = ", ".join(f'"{name}"' for name in self._columns)
        config: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": str(self._path.parent)}
        with duckdb.connect(":memory:", config=config) as connection:
            query = f"SELECT count(*) n FROM read_parquet($path) GROUP BY {names}"
            found = connection.execute(
                f"SELECT coalesce(sum(n - 1), 0) FROM ({query})", {"path": str(self._path)}
            ).fetchone()
        assert found is not None
        return int(found[0])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def describe(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as JSON values: NaN and infinities as text."""
    return [
        {
            "input": v.input,
            "name": v.name,
            "severity": v.severity,
            "value": v.value if v.value is None or math.isfinite(v.value) else str(v.value),
            "is_met": v.is_met,
            "text": v.text,
        }
        for v in verdicts
    ]
