"""What users declare: the same models behind YAML and Python (DESIGN 4).

They hold what was written, checked for form only. `featurestore.compiler` resolves names and types.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from featurestore.errors import SpecError
from featurestore.specs.fields import OBJECT, TEXT, Duration, Model, Name, duration_or
from featurestore.steps.base import Step
from featurestore.types import DataType

LIFETIME = "lifetime"
"""The window of all rows up to t."""

OBSERVER: ContextVar[Callable[[BaseModel], None] | None] = ContextVar("observer", default=None)
"""Told of every declaration that comes into being; the loader of Python files notes lines with it."""


def _history(text: str) -> str:
    return duration_or(text, "all")


def _window(text: str) -> str:
    return duration_or(text, LIFETIME)


def _type(text: str) -> str:
    try:
        return str(DataType.parse(text))
    except SpecError as error:
        raise ValueError(str(error)) from None


def _name_of(value: Any) -> Any:
    """Return names where Python spec files give Entity objects."""
    if isinstance(value, dict):
        return {_name_of(key): column for key, column in value.items()}
    return value.name if isinstance(value, Entity) else value


def _is_text(value: Any) -> str:
    return TEXT if isinstance(value, str) else OBJECT


FeatureName = Annotated[str, Field(pattern=r"^([a-z]|_[a-z0-9])[a-z0-9_]*$")]
VectorName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")]
Column = Annotated[str, Field(pattern=r"^([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*$")]
WindowText = Annotated[
    str,
    Field(
        json_schema_extra={
            "pattern": rf"^((\d+(us|ms|s|m|h|d|w))+|{LIFETIME})$",
            "examples": ["90s", "2h", "1d12h", "14d", LIFETIME],
        }
    ),
    AfterValidator(_window),
]
KeyReference = Annotated[
    str, Field(pattern=r"^([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*(\.([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*)?$")
]
TypeName = Annotated[
    str,
    Field(
        json_schema_extra={
            "anyOf": [
                {
                    "enum": [
                        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
                        "float32",
                        "float64",
                        "bool",
                        "string",
                        "binary",
                        "date",
                        "timestamp",
                        "json",
                    ]
                },
                {"pattern": r"^decimal\(\d+, ?\d+\)$"},
                {"pattern": r"^list<.+>$"},
                {"pattern": r"^vector<float(32|64), ?[0-9]+>$"},
            ]
        }
    ),
    AfterValidator(_type),
]


class Declared(Model):
    """What every declared object may say of itself."""

    description: str = ""
    """What it is, for people; shown by `featurestore show`."""
    owner: str = ""
    """Who answers for it: a person, a team, an address."""
    tags: tuple[str, ...] = ()
    """Words to find it by."""

    def model_post_init(self, _context: Any, /) -> None:
        """Tell the observer, while a Python spec file is read."""
        if (observer := OBSERVER.get()) is not None:
            observer(self)


class Entity(Declared):
    """What a feature is about: a name and one typed key."""

    kind: Literal["Entity"] = "Entity"
    name: Name
    """The entity's name, such as `customer`."""
    type: TypeName = "string"
    """The key's type: an integer type, string, binary, bool, date or timestamp."""
    key: Column | None = None
    """The key's column in requests; default, the entity's name."""

    @property
    def column(self) -> str:
        """The key's column in requests and entity rows."""
        return self.key or self.name


class BatchHalf(Model):
    """Where a source's history lies."""

    kind: Literal["parquet", "csv", "json", "delta", "sql"]
    """The format of the files, or `sql` for a database."""
    path: str | None = None
    """A file, a folder or a glob; relative paths begin at the project's folder."""
    url: str | None = None
    """The database's URL, for `sql`."""
    query: str | None = None
    """The SELECT that gives the rows, for `sql`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the reader, such as a CSV delimiter."""

    @model_validator(mode="after")
    def _complete(self) -> BatchHalf:
        if self.kind == "sql":
            if not (self.url and self.query):
                raise ValueError("a sql source needs url: and query:.")
        elif not self.path:
            raise ValueError(f"a {self.kind} source needs path:.")
        return self


class StreamHalf(Model):
    """Where a source's new rows arrive. The kind of broker is the project's."""

    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    """The topic's name."""
    format: Literal["json", "avro"] = "json"
    """How a message is written: one JSON object, or one Avro record."""
    schema_: Annotated[str | None, Field(alias="schema")] = None
    """The Avro schema's file, `payments.avsc`; relative paths begin at the project's folder."""
    start: str = "earliest"
    """Where a topic that was never read begins: `earliest`, `latest`, or an instant of the broker's time."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the reader: `epoch`, `framing`, and properties of the topic's client."""
    definition: SkipJsonSchema[str | None] = None
    """The Avro schema, as an applied version holds it; nobody writes this."""

    @model_validator(mode="after")
    def _complete(self) -> StreamHalf:
        if (self.format == "avro") != (self.schema_ is not None):
            raise ValueError("format: avro needs schema:, its file, and no other format takes one.")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return what differs from the defaults of fields that came later: old versions stay the same."""
        data: dict[str, Any] = handler(self)
        later = {"schema": None, "schema_": None, "start": "earliest", "definition": None}
        return {name: value for name, value in data.items() if name not in later or value != later[name]}


_Columns = Annotated[
    Annotated[Column, Tag(TEXT)] | Annotated[tuple[Column, ...], Tag(OBJECT)], Discriminator(_is_text)
]


class Source(Declared):
    """Typed rows with an event time: a batch half, a stream half, one schema."""

    kind: Literal["Source"] = "Source"
    name: Name
    """The source's name, such as `payments`."""
    schema_: Annotated[dict[Column, TypeName], Field(alias="schema", min_length=1)]
    """The columns and their types, in order. Other columns of the files or messages are not read."""
    event_time: str
    """The timestamp column of when a row happened, or `always` for a table without time."""
    ingest_time: Column | None = None
    """The timestamp column of when a row became known; default, the broker's time or the event time."""
    event_id: _Columns | None = None
    """The column or columns that identify an event, so that it counts once however often it is sent."""
    order_by: Column | None = None
    """A number, date or timestamp that orders rows of one entity and event time."""
    timezone: str | None = None
    """The zone of timestamps that carry none, such as `Europe/London`; without it they are refused."""
    delay: Duration = "0s"
    """How long after its event time a batch row became known."""
    future: Duration = "5m"
    """How far ahead of its ingest time an event may be stamped; what is further is a dead letter."""
    max_bytes: Annotated[int, Field(gt=0, strict=True)] = 1_048_576
    """The largest message that is taken, in bytes."""
    cutover: str | None = None
    """The instant of ingest time before which the batch half owns the rows, and from which the stream."""
    on_duplicate: Literal["first", "replace"] = "first"
    """Which row of one event_id counts: the first in order, or the newest."""
    deleted: str | None = None
    """A boolean expression that marks a row as retracting its event_id or, without ids, its entity."""
    batch: BatchHalf | None = None
    stream: StreamHalf | None = None

    @property
    def id_columns(self) -> tuple[str, ...]:
        """The columns that identify an event; none where there is no `event_id:`."""
        if self.event_id is None:
            return ()
        return (self.event_id,) if isinstance(self.event_id, str) else self.event_id


class Aggregation(Model):
    """Windowed functions of one column (or of rows) of an entity."""

    functions: Annotated[tuple[str, ...], Field(min_length=1)]
    """The functions, such as `[sum, avg, max]`."""
    windows: Annotated[tuple[WindowText, ...], Field(min_length=1)]
    """The windows, such as `[2h, 14d, lifetime]`; each gives one feature per function."""
    column: Column | None = None
    """The column whose values are aggregated; without it, rows are counted."""
    by: Column | None = None
    """A column of categories: one feature per value in `values:`."""
    values: tuple[str | int | bool, ...] = ()
    """The categories that count; rows of others count nowhere."""
    where: str | None = None
    """A boolean expression; rows where it is not true do not count."""
    name: FeatureName | None = None
    """What the features' names begin with, in place of the column."""
    k: Annotated[int, Field(gt=0, le=1000, strict=True)] | None = None
    """How many values `first_k`, `last_k`, `top_k`, `bottom_k` keep; how far `lag` and `diff` look back."""
    half_life: Duration | None = None
    """After how long a value counts half in `decay_sum` and `decay_avg`."""
    percentile: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    """What share of the values lies below the one that `approx_percentile` gives, such as 0.95."""
    closed: Literal["right", "left"] | None = None
    """Which edge of the windows is inside; default, the feature set's."""
    granularity: Duration | None = None
    """Rounds the left edge down to a multiple, for cheaper windows (never the right one)."""
    offset: Duration = "0s"
    """Shifts both edges into the past."""

    @model_validator(mode="after")
    def _complete(self) -> Aggregation:
        if self.by is not None and not self.values:
            raise ValueError("by: needs values:, the categories to count.")
        if self.values and self.by is None:
            raise ValueError("values: needs by:, the column of the categories.")
        return self


class Bounds(Model):
    """A least and a greatest number, both allowed; one may be left out."""

    min: float | None = None
    """The least."""
    max: float | None = None
    """The greatest."""

    @model_validator(mode="after")
    def _complete(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("say min:, max: or both.")
        if self.min is not None and self.max is not None and not self.min <= self.max:
            raise ValueError(f"min: {self.min:g} is above max: {self.max:g}.")
        return self


class Expectation(Model):
    """What a whole batch input must be like, as it is after the steps: exactly one of the four."""

    rows: Bounds | None = None
    """How many rows."""
    column: Column | None = None
    """The column of `null_share:` or `mean:`."""
    null_share: Bounds | None = None
    """The share of nulls in the column, 0 to 1; 0 of no rows."""
    mean: Bounds | None = None
    """The mean of the column's values that are not null; of none, it is as expected; NaN is not."""
    unique: Annotated[tuple[Column, ...], Field(min_length=1)] | None = None
    """Columns whose values together no two rows share; rows with a null in one of them are left out."""
    severity: Literal["warn", "fail"] = "fail"
    """Whether an input that is otherwise is only reported, or not ingested."""
    name: FeatureName | None = None
    """What it is called in reports."""

    @model_validator(mode="after")
    def _one(self) -> Expectation:
        said = [kind for kind in ("rows", "null_share", "mean", "unique") if getattr(self, kind) is not None]
        if len(said) != 1:
            found = f", not {' and '.join(said)}" if said else ""
            raise ValueError(f"say one of rows:, null_share:, mean:, unique:{found}.")
        if (self.column is not None) != (said[0] in ("null_share", "mean")):
            needs = f"{said[0]}: needs column:." if self.column is None else f"{said[0]}: takes no column:."
            raise ValueError(needs)
        return self


_EntityKey = Annotated[
    Annotated[
        Annotated[Name, Tag(TEXT)] | Annotated[dict[Name, Column], Tag(OBJECT)], Discriminator(_is_text)
    ],
    BeforeValidator(_name_of),
]
_SourceOrName = Annotated[
    Annotated[Annotated[Name, Tag(TEXT)] | Annotated[Source, Tag(OBJECT)], Discriminator(_is_text)],
    BeforeValidator(lambda value: value.name if isinstance(value, FeatureSet) else value),
]


class FeatureSet(Declared):
    """Entities, a source, steps on its rows, aggregations over windows of them."""

    kind: Literal["FeatureSet"] = "FeatureSet"
    name: Name
    """The feature set's name; its features are `name.feature`."""
    entities: Annotated[tuple[_EntityKey, ...], Field(min_length=1)]
    """The entities: a name, or `entity: column` where the key's column has another name."""
    source: _SourceOrName
    """The name of a source or of another feature set, or a source written here."""
    steps: tuple[Step, ...] = ()
    """Functions of one row, in order."""
    aggregations: tuple[Aggregation, ...] = ()
    """Windowed functions of an entity's rows."""
    expectations: tuple[Expectation, ...] = ()
    """What a whole batch input must be like to be ingested."""
    online: StrictBool = True
    """Whether the set is kept in the online store; a label's need not be."""
    ttl: Duration | None = None
    """How old a row may be for its plain features to be served."""
    closed: Literal["right", "left"] = "right"
    """Which edge of windows is inside; `left` leaves out rows at the very instant asked for."""
    history: Annotated[str, AfterValidator(_history)] = "1h"
    """How far back `as_of` is answered online: a duration, or `all`."""

    @property
    def key_columns(self) -> dict[str, str]:
        """Entity name to the column that holds its key, in the declared order."""
        keys: dict[str, str] = {}
        for entry in self.entities:
            keys.update(entry if isinstance(entry, dict) else {entry: entry})
        return keys


class FeatureSelection(Model):
    """Features of one set by another key or under other names."""

    set: Name
    """The feature set."""
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    """Its features: names, `name as alias`, or `*` for all."""
    keys: dict[Name, KeyReference] = Field(default_factory=dict)
    """Entity name to the request's column, such as `{account: payee}`, or to a feature whose value is the
    key, such as `{merchant: transactions.last_merchant}`: it is found first, in a round trip of its own."""
    as_: Annotated[str | None, Field(alias="as")] = None
    """The names' pattern, such as `payee_*`."""


_Selector = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[FeatureSelection, Tag(OBJECT)], Discriminator(_is_text)
]


class Label(Model):
    """The feature to predict, at the row's instant or some time after it."""

    feature: str
    """`set.feature`, or `set.feature as name`."""
    offset: Duration = "0s"
    """How long after the row's instant the label is read, such as `7d`; `0s` matches it by `event_id` where
    base and label share a source."""
    pending: Literal["hide", "keep", "drop"] = "hide"
    """With an offset, what becomes of rows whose label's instant lies after the newest row of its set: `hide`
    gives null, `keep` what is known so far, `drop` leaves the row out."""


_LabelOrText = Annotated[Annotated[str, Tag(TEXT)] | Annotated[Label, Tag(OBJECT)], Discriminator(_is_text)]


class Training(Model):
    """Which rows training sets keep; by default all that are given, in their order."""

    where: str | None = None
    """A condition over outputs, inputs, the label or any `set.feature`; rows where it is not true are left
    out."""
    start: str | None = None
    """The first instant of rows that are kept, such as `2026-01-01T00:00:00Z`."""
    end: str | None = None
    """The instant from which rows are left out."""
    join: Literal["left", "inner"] = "left"
    """`inner` leaves out rows for which a look-up finds no row of its entity, or only one past its `ttl`."""


class FeatureVector(Declared):
    """An ordered list of features, label, request inputs, derived values and imputes."""

    kind: Literal["FeatureVector"] = "FeatureVector"
    name: VectorName
    """The vector's name; dashes are allowed."""
    features: Annotated[tuple[_Selector, ...], Field(min_length=1)]
    """`set.feature`, `set.*`, `set.feature as alias`, `set.* as prefix_*`, or a selection."""
    base: Name | None = None
    """The set one row of which is scored; online, the request carries that row."""
    label: _LabelOrText | None = None
    """The feature to predict, `set.feature`, or one with an `offset:`; in training sets only."""
    inputs: dict[Column, TypeName] = Field(default_factory=dict)
    """Fields of the request (in training, the caller's columns) that derive may use."""
    derive: dict[FeatureName, str] = Field(default_factory=dict)
    """Values computed from features and inputs: a name and an expression."""
    impute: dict[str, Any] = Field(default_factory=dict)
    """Output (or `*`) to a constant or `$mean`, `$median`, `$mode`, `$min`, `$max`, for what is null."""
    training: Training | None = None
    """Which rows training sets keep; by default all that are given."""

    @property
    def labelled(self) -> Label | None:
        """The label with its options, however it was written."""
        return Label(feature=self.label) if isinstance(self.label, str) else self.label


Declaration = Entity | Source | FeatureSet | FeatureVector

DECLARATIONS: tuple[type[Declaration], ...] = (Entity, Source, FeatureSet, FeatureVector)
