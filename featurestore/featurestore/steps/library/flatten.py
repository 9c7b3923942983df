"""`parse` and `flatten`: values out of JSON documents and of text."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from featurestore.errors import SpecError
from featurestore.expressions import Column, Expression
from featurestore.expressions.build import call, cast, constant
from featurestore.steps.base import ColumnName, Example, Parameters
from featurestore.steps.compiler import Scope
from featurestore.types import JSON, STRING, DataType


class Parse(Parameters):
    """A value out of a JSON document (`json: $.a.b`) or of text (`regex: '…'`), as `type:`, text by default.

    A path is `$`, then `.name`, `[number]` (from the end below 0) or `["any name"]`. A regular expression is
    Python's and may match anywhere; `group:` is 1 where it has groups, else 0, all that it matches. Null
    of null, where nothing is found, where what is found spells no value of the type, and of malformed JSON.
    In place, or a new column with `into:`.
    """

    key: ClassVar[str] = "parse"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"column": "doc", "json": "$.lines[0].price", "type": "float64", "into": "price"},
            {"doc": '{"lines": [{"price": 2.5}]}'},
            {"doc": '{"lines": [{"price": 2.5}]}', "price": 2.5},
        ),
        Example(
            {"column": "text", "regex": "MCC=([0-9]+)", "type": "int64", "into": "mcc"},
            {"text": "POS MCC=5411 DE"},
            {"text": "POS MCC=5411 DE", "mcc": 5411},
        ),
        Example({"column": "doc", "json": "$.a", "type": "int64"}, {"doc": '{"a": "x"}'}, {"doc": None}),
    )

    column: ColumnName
    json_: Annotated[str | None, Field(alias="json", description="The path of a JSON value.")] = None
    regex: str | None = Field(None, description="A regular expression.")
    group: int | None = Field(None, ge=0, description="Which group of the regular expression.")
    type: str = Field("string", description="The type of what is found; list<…> for a JSON array.")
    into: ColumnName | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def compile(self, scope: Scope) -> None:
        """Assign what is found, cast."""
        column = scope.column(self.column)
        if (self.json_ is None) == (self.regex is None):
            raise SpecError("Say json: or regex:, one of the two.")
        if self.regex is None:
            if self.group is not None:
                raise SpecError("group: goes with regex:.")
            scope.put(self.column, self.into, at_path(column, str(self.json_), self.type))
            return
        group = () if self.group is None else (constant(self.group),)
        found = call("regex_extract", column, constant(self.regex), *group)
        scope.put(self.column, self.into, cast(found, DataType.parse(self.type)))


class FieldPath(BaseModel):
    """Where a field lies in the document, and its type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    type: str = "string"


class Flatten(Parameters):
    """Columns out of a JSON document, `fields: {name: {path: $.a.b, type: float64}}`.

    `{name: $.a.b}` alone is text. Each as `parse` with `json:` gives it: null of null, where nothing lies at
    the path, where that spells no value of the type, and of malformed JSON. The column itself stays; `drop`
    takes it out of sight.
    """

    key: ClassVar[str] = "flatten"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {
                "column": "doc",
                "fields": {
                    "city": "$.address.city",
                    "total": {"path": "$.total", "type": "float64"},
                    "tags": {"path": "$.tags", "type": "list<string>"},
                },
            },
            {"doc": '{"address": {"city": "Bern"}, "tags": ["a", "b"]}'},
            {
                "doc": '{"address": {"city": "Bern"}, "tags": ["a", "b"]}',
                "city": "Bern",
                "total": None,
                "tags": ["a", "b"],
            },
        ),
    )

    column: ColumnName
    fields: Annotated[
        dict[ColumnName, str | FieldPath],
        Field(min_length=1, description="Name to path, or to {path, type}."),
    ]

    def compile(self, scope: Scope) -> None:
        """Assign each field."""
        column = scope.column(self.column)
        for name, field in self.fields.items():
            if name == self.column:
                raise SpecError(
                    f"The field '{name}' would take the document's place.",
                    hint="Name it otherwise; rename it after.",
                )
            path, kind = (field, "string") if isinstance(field, str) else (field.path, field.type)
            try:
                scope.assign(name, at_path(column, path, kind))
            except SpecError as error:
                raise SpecError(f"{name}: {error.message}", hint=error.hint) from None
            scope.reveal(name)


def at_path(document: Column, path: str, kind: str) -> Expression:
    """Return the expression of what lies at a path of a document. Raises SpecError."""
    if document.type not in (JSON, STRING):
        raise SpecError(f"json or text is needed, and '{document.name}' is {document.type}.")
    return cast(call("json_extract", document, constant(path)), DataType.parse(kind))
