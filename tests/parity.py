"""What the parity tests share: plans made of text, rows as frames, and how a value is compared.

`FEATURESTORE_EXAMPLES` multiplies the number of Hypothesis examples (default 1); `FEATURESTORE_NO_SHRINK=1`
reports the first counterexample as it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oracle
import polars as pl
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from featurestore import plans
from featurestore.aggregates import result_type
from featurestore.compiler import CompiledProject, compile_project
from featurestore.expressions import parse
from featurestore.plans import AggregateColumn, Input, Window
from featurestore.specs.loading import load_project
from featurestore.types import DataType, Field

INSTANT = pl.Datetime("us", "UTC")


_PHASES = [p for p in Phase if p is not Phase.shrink or not os.environ.get("FEATURESTORE_NO_SHRINK")]


def examples(count: int) -> settings:
    """Return settings of that many examples, times `FEATURESTORE_EXAMPLES`."""
    return settings(
        max_examples=max(1, int(count * float(os.environ.get("FEATURESTORE_EXAMPLES", "1")))),
        deadline=None,
        phases=_PHASES,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )


def compiled(specs: str, config: str = "project: parity\n") -> CompiledProject:
    """Return the plans of specs in YAML."""
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder), specs, config)
        return compile_project(load_project(Path(folder), environ={}))


def write_project(root: Path, specs: str, config: str) -> Path:
    """Write a project's two files; return its folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "featurestore.yaml").write_text(config)
    (root / "specs.yaml").write_text(specs)
    return root


# Conditions, as SQL for the code under test and as Python for the oracle


def _greater(row: Mapping[str, Any]) -> bool | None:
    return None if row["amount"] is None else not row["amount"] <= 5


CONDITIONS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "amount > 5": _greater,  # NaN is greater than any number
    "kind = 'a'": lambda row: None if row["kind"] is None else row["kind"] == "a",
    "whole is null": lambda row: row["whole"] is None,
}


def predicate(expression: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Return the Python twin of a condition."""
    return _BY_SQL[expression.sql]


# Kernel rows

COLUMNS: dict[str, str] = {
    "amount": "float64",
    "single": "float32",
    "whole": "int64",
    "small": "int8",
    "unsigned": "uint64",
    "kind": "string",
    "flag": "bool",
    "day": "date",
    "at": "timestamp",
    "raw": "binary",
    "price": "decimal(10,2)",
    "long": "decimal(38,4)",
    "tags": "list<string>",
    "days": "list<date>",
}
TYPES: dict[str, DataType] = {name: DataType.parse(text) for name, text in COLUMNS.items()}
_BY_SQL = {parse(text, TYPES).sql: twin for text, twin in CONDITIONS.items()}


NUMERIC = (
    *("sum", "avg", "var", "std", "var_pop", "std_pop", "skew", "kurtosis"),
    *("approx_percentile", "decay_sum", "decay_avg"),
)
ANY = (
    *("count", "first", "last", "first_k", "last_k", "lag"),
    *("seconds_since_first", "seconds_since_last"),
)
ROWS = ("count", "seconds_since_first", "seconds_since_last")
PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    **{name: {"k": st.integers(1, 4)} for name in ("first_k", "last_k", "top_k", "bottom_k", "lag", "diff")},
    **{
        name: {"half_life": st.sampled_from([1, 7_000_001, 3_600_000_000])}
        for name in ("decay_sum", "decay_avg")
    },
    "approx_percentile": {"percentile": st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.95, 1.0])},
}
"""What functions are told beside a column, by their names."""


def takes(function: str, column: str) -> bool:
    """Tell whether the function takes the column, by the list of the reference."""
    kind = COLUMNS[column]
    if function in NUMERIC:
        return kind.startswith(("int", "uint", "float", "decimal"))
    if function == "diff":
        return kind.startswith(("int", "uint", "float", "decimal", "date", "timestamp"))
    if function == "histogram":
        return not kind.startswith(("float", "list"))
    return function in ANY or not kind.startswith("list")


@st.composite
def windows(draw: DrawFn, spans: Sequence[int], closed: bool | None = None) -> Window:
    """Return a window of one of the spans, at times left-closed, coarse or shifted."""
    return Window(
        draw(st.sampled_from([*spans, None])),
        draw(st.booleans()) if closed is None else closed,
        draw(st.sampled_from([None, None, *spans, spans[0] // 3 + 1])),
        draw(st.sampled_from([0, 0, *spans])),
    )


@st.composite
def aggregate_columns(
    draw: DrawFn, functions: Sequence[str], spans: Sequence[int], *, most: int = 5
) -> tuple[AggregateColumn, ...]:
    """Return aggregations of these functions, over any column that they take, windows, where and by."""
    made = []
    for number in range(draw(st.integers(1, most))):
        function = draw(st.sampled_from(functions))
        columns: list[str | None] = [name for name in COLUMNS if takes(function, name)]
        if function in ROWS:
            columns.append(None)
        column = draw(st.sampled_from(columns))
        kind = None if column is None else TYPES[column]
        where = draw(st.sampled_from([None, None, *CONDITIONS]))
        by = draw(st.sampled_from([None, None, None, "kind", "small", "flag"]))
        value = None
        if by is not None:
            value = draw(st.sampled_from({"kind": ["a", "b"], "small": [0, 1], "flag": [True, False]}[by]))
        told = {name: draw(strategy) for name, strategy in PARAMETERS.get(function, {}).items()}
        made.append(
            AggregateColumn(
                f"f{number}",
                function,
                Input(column, kind, None if where is None else parse(where, TYPES), by, value),
                draw(windows(spans)),
                told.get("k"),
                result_type(function, kind, **told),
                told.get("half_life"),
                told.get("percentile"),
            )
        )
    return tuple(made)


def set_like(
    aggregates: tuple[AggregateColumn, ...],
    *,
    plain: Sequence[str] = ("amount", "kind"),
    ttl: int | None = None,
    left_closed: bool = False,
    on_duplicate: str = "first",
) -> Any:
    """Return what the oracle needs of a set's plan."""
    return SimpleNamespace(
        source=SimpleNamespace(on_duplicate=on_duplicate),
        plain=tuple(Field(name, TYPES[name]) for name in plain),
        aggregates=aggregates,
        ttl=ttl,
        left_closed=left_closed,
    )


def kernel_frame(
    rows: Sequence[Mapping[str, Any]],
    kinds: Mapping[str, DataType] = TYPES,
    *,
    ids: bool,
    order: bool,
    deleted: bool = False,
) -> pl.DataFrame:
    """Return kernel rows (see `strategies.kernel_log`) as a frame of a feature set's table."""
    schema: dict[str, Any] = {name: kind.polars() for name, kind in kinds.items()}
    schema |= {plans.KEY: pl.Binary, plans.EVENT_TIME: INSTANT, plans.INGEST_TIME: INSTANT}
    if order:
        schema[plans.ORDER] = pl.Int64
    schema[plans.ROW_HASH] = pl.Int64
    if ids:
        schema[plans.EVENT_ID] = pl.Int64
    if deleted:
        schema[plans.DELETED] = pl.Boolean
    columns = {}
    for name, kind in schema.items():
        items = [row[name] for row in rows]
        if name == plans.ORDER:
            items = [-(2**63) if item is None else item for item in items]
        physical = {pl.Date: pl.Int32, pl.Datetime: pl.Int64}.get(type(kind), kind)
        columns[name] = pl.Series(name, items, physical, strict=True).cast(kind)
    return pl.DataFrame(columns)


def check_cells(cells: Mapping[str, oracle.Cell], got: Mapping[str, Any], where: object = "") -> None:
    """Fail where a value is not the oracle's, saying which."""
    wrong = {
        name: f"expected {cell.value!r}, got {got[name]!r} (within {cell.tolerance:g})"
        for name, cell in cells.items()
        if not cell.agrees(got[name])
    }
    assert not wrong, f"{where}: {wrong}"


def instants_of(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return where rows happen and become known."""
    return sorted({row[name] for row in rows for name in (plans.EVENT_TIME, plans.INGEST_TIME)})
