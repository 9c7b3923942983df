"""`python`: the author's own function."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from featurestore import types
from featurestore.steps import functions, plan
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope


class Python(Parameters):
    """Columns from a Python function of a Polars frame: `function: "module:name"`, `outputs: {name: type}`.

    The function gets a DataFrame of the input columns (default: all in sight) and returns one with the
    output columns, a row for a row. It treats each row by itself: online it gets frames of one row.
    What it raises, or returns wrongly, rejects the rows that it does so for. Null reaches it as null, and
    may be what it returns. A change of its source is a new version. For `lengths.py` beside
    `featurestore.yaml` that holds `import polars as pl` and
    `def of(rows): return rows.select(n=pl.col("name").str.len_chars())`, the step is
    `python: {function: "lengths:of", inputs: [name], outputs: {n: uint32}}`.
    """

    key: ClassVar[str] = "python"
    examples: ClassVar[tuple[Example, ...]] = ()

    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:function")]
    outputs: Annotated[dict[ColumnName, str], Field(min_length=1, description="Name to type.")]
    inputs: tuple[ColumnName, ...] | None = Field(None, description="Default: all columns in sight.")

    def compile(self, scope: Scope) -> None:
        """Let the function give the output columns."""
        names = [field.name for field in scope.visible] if self.inputs is None else self.inputs
        inputs = tuple(types.Field(name, scope.column(name).type) for name in names)
        outputs = tuple(types.Field(name, types.DataType.parse(kind)) for name, kind in self.outputs.items())
        digest = functions.digest(self.function)
        scope.python(plan.Python(self.function, inputs, outputs, digest))
