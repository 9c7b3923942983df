"""`join`: columns of a small table that does not change."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from featurestore import types
from featurestore.errors import SpecError
from featurestore.steps import plan, tables
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope


class Join(Parameters):
    """Columns of a static table, `table: mcc.csv`: of its one row with the row's value, or values, of `on`.

    Null where no row of the table has them, or one is null. Two rows of the table with equal values are an
    error. CSV columns are text unless `types:` says otherwise; the columns of `on` have the row's types. The
    table is read when specs are compiled: `apply` keeps its rows with the version, which works on when the
    file changes, and a file with other rows is a new version. For tables that fit into 4 MiB, compressed.
    """

    key: ClassVar[str] = "join"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"table": "mcc.csv", "on": "mcc", "types": {"risk": "float64"}},
            {"mcc": 5411},
            {"mcc": 5411, "name": "Grocery", "risk": 0.1},
            files={"mcc.csv": "mcc,name,risk\n5411,Grocery,0.1\n7995,Betting,0.9\n"},
        ),
        Example(
            {"table": "rates.csv", "on": {"currency": "code"}, "columns": ["rate"], "prefix": "usd_"},
            {"currency": "XXX"},
            {"currency": "XXX", "usd_rate": None},
            files={"rates.csv": "code,rate\nEUR,1.1\n"},
        ),
    )

    table: Annotated[str, Field(description="A .csv or .parquet file; relative paths begin at the project.")]
    on: Annotated[
        ColumnName | Annotated[dict[ColumnName, str], Field(min_length=1)],
        Field(description="A column of both, or the row's column to the table's, for one or several."),
    ]
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Which columns of the table; default, all but those of `on`."
    )
    prefix: str = Field("", description="What the new columns' names begin with.")
    types: dict[str, str] = Field({}, description="Types of the table's columns, where the file has none.")
    data: SkipJsonSchema[str | None] = Field(
        None, description="The rows, as an applied version holds them; nobody writes this."
    )

    def compile(self, scope: Scope) -> None:
        """Add the columns."""
        pairs = self.on if isinstance(self.on, dict) else {self.on: self.on}
        keys = [(types.Field(name, scope.column(name).type), column) for name, column in pairs.items()]
        for field, _ in keys:
            if not field.type.is_key:
                raise SpecError(
                    f"A table is joined by integers, text, binary, bool, dates or timestamps, and"
                    f" '{field.name}' is {field.type}."
                )
        if self.data is None:
            found, table = tables.read(self.table, keys, self.columns, self.types)
        else:
            _, found, table = tables.kept(self.data)
        for field in found:
            name = f"{self.prefix}{field.name}"
            if name in scope.types:
                raise SpecError(
                    f"'{name}' of '{self.table}' is a column already.", hint="Add a prefix:, or columns:."
                )
        outputs = tuple(types.Field(f"{self.prefix}{field.name}", field.type) for field in found)
        scope.join(plan.Join(tuple(field for field, _ in keys), outputs, table))
