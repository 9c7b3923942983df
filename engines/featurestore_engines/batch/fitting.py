"""Statistics of a source's rows after some steps, for the steps that are fitted, in bounded memory.

The rows are put through the door once and kept in a temporary file (in `TMPDIR`), one row of each event id.
For every fitted step they go through the steps before it, and its column's values into another file. Over
that one, sums are exact, `std` takes a second pass around the mean, and DuckDB sorts and groups, and spills.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import plans
from featurestore.contracts import BatchSource, OfflineTable
from featurestore.errors import RequestError
from featurestore.instants import ALWAYS, format_instant
from featurestore.plans import SourcePlan
from featurestore.rows.door import admit
from featurestore.steps.frames import run
from featurestore.steps.plan import StepPlan
from featurestore_engines.batch.ingest import READ_ROWS
from featurestore_engines.batch.sums import exact_sum

MEMORY = "512MB"
_NUMBER = "__number"


class Fitting:
    """A source's rows up to an instant, of which columns can be fitted."""

    def __init__(self, source: SourcePlan, until: int | None, folder: Path) -> None:
        self._source = source
        self._until = until
        self._folder = folder
        self._path = folder / "rows.parquet"
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0
        given = {plans.ORDER: source.order_by, plans.EVENT_ID: source.event_id, plans.DELETED: source.deleted}
        self._columns = [
            *(field.name for field in source.schema),
            *(plans.EVENT_TIME, plans.INGEST_TIME, plans.ROW_HASH),
            *(name for name, declared in given.items() if declared),
        ]

    def add(self, rows: pl.DataFrame) -> None:
        """Take admitted rows."""
        if self._until is not None:
            rows = rows.filter(pl.col(plans.EVENT_TIME).dt.epoch("us") <= self._until)
        if not rows.height:
            return
        numbered = rows.select(self._columns).with_columns(
            pl.int_range(self._rows, self._rows + rows.height, dtype=pl.Int64).alias(_NUMBER)
        )
        table = numbered.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        self._rows += rows.height

    def close(self) -> None:
        """Take no more rows."""
        if self._writer is not None:
            self._writer.close()

    def fit(self, before: StepPlan, column: str, statistics: Sequence[str]) -> dict[str, Any]:
        """Return statistics of a column after the steps `before`, as JSON values.

        Raises RequestError where it has no value that is a finite number or, of other types, not null.
        """
        values = _Values(self._folder / "values.parquet")
        for rows in self._unique():
            values.add(run(before, rows)[0][column])
        values.close()
        if not values.count:
            when = "" if self._until is None else f" up to {format_instant(self._until)}"
            raise RequestError(
                f"There is nothing to fit: '{column}' has no value{when}.",
                where=f"source '{self._source.name}'",
                hint="Look for where its rows are, or give --until or --rows otherwise.",
            )
        return {statistic: values.statistic(statistic) for statistic in statistics}

    def _unique(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in parts, without those that other rows of their event id stand for."""
        if not self._rows:
            return
        with _query(self._superfluous(), self._path, self._folder) as numbers:
            part: list[int] | None = next(numbers, None)
            with pq.ParquetFile(self._path) as file:
                for batch in file.iter_batches(READ_ROWS):
                    rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))
                    end = rows[_NUMBER][-1] + 1
                    gone: list[int] = []
                    while part is not None and part[0] < end:
                        gone += [number for number in part if number < end]
                        part = [number for number in part if number >= end] or next(numbers, None)
                    if gone:
                        rows = rows.filter(~pl.col(_NUMBER).is_in(gone))
                    yield rows.drop(_NUMBER).with_columns(
                        pl.col(field.name).cast(field.type.polars()) for field in self._source.schema
                    )

    def _superfluous(self) -> str:
        """Return the query of the numbers of rows that do not count, rising (DESIGN 3.8)."""
        source = self._source
        deleted = plans.DELETED if source.deleted is not None else "false"
        if not source.event_id:
            return f"SELECT {_NUMBER} FROM values_ WHERE {deleted} ORDER BY 1"
        order = [plans.INGEST_TIME, plans.ROW_HASH]
        if source.order_by is not None:
            order.insert(0, plans.ORDER)
        direction = "DESC" if source.on_duplicate == "replace" else "ASC"
        ranked = ", ".join(f"{name} {direction} NULLS FIRST" for name in order)
        same = f"PARTITION BY {plans.EVENT_TIME}, {plans.EVENT_ID}"
        # the newest of an id decides where it replaces; else any deletion takes the id back
        gone = f"bool_or({deleted}) OVER ({same})"
        if source.on_duplicate == "replace":
            gone = f"first_value({deleted}) OVER ({same} ORDER BY {ranked})"
        return (
            f"SELECT {_NUMBER} FROM (SELECT {_NUMBER}, {gone} AS gone,"
            f" row_number() OVER ({same} ORDER BY {ranked}) AS rank FROM values_)"
            " WHERE rank > 1 OR gone ORDER BY 1"
        )


class _Values:
    """A column's values in a file: not null and, of floats, finite. Times are whole numbers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._dtype: pl.DataType = pl.Null()
        self._is_time = False
        self.count = 0

    def add(self, column: pl.Series) -> None:
        values = column.drop_nulls()
        if values.dtype.is_float():
            values = values.filter(values.is_finite())
        self._is_time = values.dtype in (pl.Datetime, pl.Date)
        if self._is_time:
            values = values.to_physical().cast(pl.Int64)
        if not len(values):
            return
        table = values.alias("v").to_frame().to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
            self._dtype = values.dtype
        self._writer.write_table(table)
        self.count += len(values)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def statistic(self, name: str) -> Any:
        """Return a statistic: mean, std (of the population), min, max, median, mode, or quantiles_n."""
        if name.startswith("quantiles_"):
            parts = int(name.removeprefix("quantiles_"))
            return [self._number(edge) for edge in self._quantiles(parts)]
        if name == "median":
            return self._number(self._quantiles(2)[0])
        return {
            "mean": lambda: float(self._mean),
            "std": self._std,
            "min": lambda: _plain(min(part.min() for part in self._parts())),  # type: ignore[type-var]
            "max": lambda: _plain(max(part.max() for part in self._parts())),  # type: ignore[type-var]
            "mode": self._mode,
        }[name]()

    def _number(self, value: Fraction) -> int | float:
        """Return a whole number for what is whole, and the nearest, half to even, of times; else a float."""
        if self._is_time:
            return round(value)
        return int(value) if value.denominator == 1 and not self._dtype.is_float() else float(value)

    def _parts(self) -> Iterator[pl.Series]:
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(READ_ROWS):
                yield pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch]))).to_series()

    @cached_property
    def _mean(self) -> Fraction:
        return sum((exact_sum(part) for part in self._parts()), Fraction(0)) / self.count

    def _std(self) -> float:
        """Return the deviation from the mean: squares around a pivot near it, corrected for the rest.

        The corrected two-pass algorithm (Chan, Golub and LeVeque, 1983); what is left of the mean after the
        pivot is exact, so equal values have 0.
        """
        mean = self._mean
        pivot = Fraction(round(mean)) if not self._dtype.is_float() else Fraction(float(mean))
        deviations = self._from_pivot(pivot)
        largest = max(max(map(abs, part), default=0.0) for part in deviations())
        if largest == 0.0 or math.isinf(largest):
            return largest
        scale = 2.0 ** (math.frexp(largest)[1] - 1)  # so that no square leaves the range of floats
        squares = math.fsum((d / scale) * (d / scale) for part in deviations() for d in part)
        rest = float((mean - pivot) / Fraction(scale))
        variance = squares / self.count - rest * rest
        return scale * math.sqrt(max(variance, 0.0))

    def _from_pivot(self, pivot: Fraction) -> Callable[[], Iterator[list[float]]]:
        """Return what yields each value's distance from the pivot, rounded once."""
        if self._dtype.is_float():
            near = float(pivot)
            return lambda: ((part.cast(pl.Float64) - near).to_list() for part in self._parts())
        if self._dtype.is_integer():
            whole = int(pivot)
            return lambda: ([float(v - whole) for v in part.to_list()] for part in self._parts())
        return lambda: ([float(Fraction(v) - pivot) for v in part.to_list()] for part in self._parts())

    def _quantiles(self, parts: int) -> list[Fraction]:
        """Return the quantiles k / parts: at (count - 1) k / parts, linear between neighbours."""
        wanted = [divmod((self.count - 1) * k, parts) for k in range(1, parts)]
        ranks = sorted({rank for low, _ in wanted for rank in (low, min(low + 1, self.count - 1))})
        found: dict[int, Fraction] = {}
        seen = 0
        with _query("SELECT v FROM values_ ORDER BY v", self._path, self._path.parent) as batches:
            for batch in batches:
                while ranks and ranks[0] < seen + len(batch):
                    rank = ranks.pop(0)
                    found[rank] = Fraction(batch[rank - seen])
                seen += len(batch)
        return [
            found[low] + Fraction(over, parts) * (found[min(low + 1, self.count - 1)] - found[low])
            for low, over in wanted
        ]

    def _mode(self) -> Any:
        query = "SELECT v FROM values_ GROUP BY v ORDER BY count(*) DESC, v LIMIT 1"
        with _query(query, self._path, self._path.parent) as batches:
            return _plain(next(batches)[0])


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: decimals as text."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


@contextmanager
def _query(query: str, path: Path, folder: Path) -> Iterator[Iterator[list[Any]]]:
    """Yield the first column of a query over the file `values_`, in parts."""
    config: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": str(folder / "spilled")}
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.from_parquet(str(path)).create_view("values_")
        reader = connection.sql(query).to_arrow_reader(READ_ROWS)
        yield (batch.column(0).to_pylist() for batch in reader if batch.num_rows)


@contextmanager
def fitting(
    source: SourcePlan,
    inputs: Sequence[BatchSource],
    landing: OfflineTable | None,
    until: int | None,
    clock: Callable[[], int],
    *,
    either_half: bool,
) -> Iterator[Fitting]:
    """Yield the rows of the inputs, and of landing, with event times up to `until`, ready to be fitted."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="featurestore-fit-")))
        made = Fitting(source, until, folder)
        stack.callback(made.close)
        for given in inputs:
            for item in given.inputs():
                for batch in given.read(item, 0, READ_ROWS):
                    frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))
                    made.add(admit(source, frame, now=clock(), either_half=either_half).rows)
        snapshot = None if landing is None else landing.snapshot()
        if landing is not None and snapshot is not None:
            window = None if until is None else (ALWAYS, until + 1)
            landed = landing.lazy(snapshot, event_times=window, schema=source.schema)
            for frame in landed.collect_batches(chunk_size=READ_ROWS, maintain_order=False):
                made.add(frame)
        made.close()
        yield made
