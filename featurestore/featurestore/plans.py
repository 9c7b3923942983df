"""Plans: what declarations compile to. Immutable, typed, fingerprinted; engines receive nothing else.

Columns that the store adds to a source's rows are named here. Each begins with two underscores, which
no declared column may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from featurestore.expressions import Expression
from featurestore.steps.plan import StepPlan
from featurestore.types import DataType, Field

if TYPE_CHECKING:
    import numpy.typing as npt

Instants = TypeVar("Instants", int, "npt.NDArray[Any]")

EVENT_TIME = "__event_time"  # timestamp: when it happened
INGEST_TIME = "__ingest_time"  # timestamp: when it became known
ROW_HASH = "__row_hash"  # int64: of the source row's canonical bytes, the last tie-break
EVENT_ID = "__event_id"  # int64: hash of the event_id columns; null-free; absent without event_id
ORDER = "__order"  # int64: rank of the source's order_by value (see rows.order_rank); absent without
DELETED = "__deleted"  # bool; absent unless the source declares `deleted:`
PARTITION = "__partition"  # string: the position's partition
SEQUENCE = "__sequence"  # int64: the position within the partition
SHARD = "__shard"  # int16: shard_of(canonical key)
KEY = "__key"  # binary: canonical key bytes


BEGINNING = -(2**62)
"""Before the event time of any row, in microseconds: where a lifetime window begins."""


@dataclass(frozen=True)
class SourcePlan:
    """A source, resolved. Durations and instants are microseconds."""

    name: str
    schema: tuple[Field, ...]
    event_time: str | None  # None: always
    ingest_time: str | None
    event_id: tuple[str, ...]
    order_by: str | None
    timezone: str | None
    delay: int
    future: int
    max_bytes: int
    cutover: int | None
    on_duplicate: str  # first | replace
    deleted: Expression | None
    batch: dict[str, Any] | None  # BatchHalf, as written
    stream: dict[str, Any] | None  # StreamHalf, as written
    fingerprint: str


@dataclass(frozen=True)
class KeyColumn:
    """One entity of a set: its name, the column with its key after the steps, and the key's type."""

    entity: str
    column: str
    type: DataType
    request_column: str


@dataclass(frozen=True)
class Input:
    """What an aggregation sees of a row: a column's value, where a condition and a category hold.

    A row counts when `where` is true (or absent) and `by` equals `value` (or is absent); then its value
    is `column`'s, null included; without a column, the row itself.
    """

    column: str | None
    type: DataType | None  # of the column
    where: Expression | None
    by: str | None
    value: Any


def seen_until(t: Instants, left_closed: bool) -> Instants:
    """Return the event time before which rows are visible at `t`: one instant, or a numpy array of them."""
    return t if left_closed else t + 1


@dataclass(frozen=True)
class Window:
    """`(t - width, t]`, or `[t - width, t)` where left-closed; microseconds (DESIGN 3.5).

    Without a width, a lifetime window, it reaches back to the first row.
    """

    width: int | None
    left_closed: bool = False
    granularity: int | None = None
    offset: int = 0

    def bounds(self, t: Instants) -> tuple[Instants, Instants]:
        """Return half-open [low, high) microseconds of event time that the window covers at `t`.

        `t` is one instant, or a numpy array of them.
        """
        t = t - self.offset
        if self.width is None:
            low = t * 0 + BEGINNING
            return low, seen_until(t, self.left_closed)
        low = t - self.width
        if self.granularity is not None:
            low = low // self.granularity * self.granularity
        return (low, t) if self.left_closed else (low + 1, t + 1)


@dataclass(frozen=True)
class AggregateColumn:
    """One aggregated feature: a function's finish over a state of an input, in a window.

    `k`, `half_life` (microseconds) and `percentile` are None where the function has no such parameter.
    """

    name: str
    function: str  # a name in featurestore.aggregates.FUNCTIONS
    input: Input
    window: Window
    k: int | None
    type: DataType
    half_life: int | None = None
    percentile: float | None = None


@dataclass(frozen=True)
class Expectation:
    """What a whole batch input must be like after the steps. It changes no row, so no fingerprint either."""

    name: str
    kind: str  # rows | null_share | mean | unique
    columns: tuple[str, ...]  # none of rows, one of null_share and mean
    low: float | None  # of what is measured: rows, share, mean, or rows that repeat another's values
    high: float | None
    severity: str  # warn | fail


@dataclass(frozen=True)
class SetPlan:
    """A feature set, resolved.

    `rows` fingerprints source, keys and steps and names the offline table; `state` adds the
    aggregations and whatever else shapes the online layout.
    """

    name: str
    project: str
    source: SourcePlan
    keys: tuple[KeyColumn, ...]
    steps: StepPlan
    plain: tuple[Field, ...]  # row-level features, in order
    columns: tuple[Field, ...]  # all columns of the offline table but the store's own
    aggregates: tuple[AggregateColumn, ...]
    ttl: int | None
    left_closed: bool
    history: int | None  # None: all
    online: bool
    rows_fingerprint: str
    state_fingerprint: str
    expectations: tuple[Expectation, ...] = ()

    @property
    def version(self) -> tuple[str, str, str]:
        """What tells versions of sets apart where they differ in what is stored: name, rows, state."""
        return self.name, self.rows_fingerprint, self.state_fingerprint

    @property
    def features(self) -> tuple[Field, ...]:
        """Row-level features, then aggregates, in declared order."""
        return self.plain + tuple(Field(a.name, a.type) for a in self.aggregates)

    @property
    def reach(self) -> int:
        """How far back of `t` the furthest window looks, in microseconds; 0 without windows.

        Lifetime windows, which look back to the first row, are left out.
        """
        windows = [a.window for a in self.aggregates if a.window.width is not None]
        return max((w.width + w.offset + (w.granularity or 0) for w in windows if w.width), default=0)

    @property
    def has_lifetime(self) -> bool:
        """Whether a window looks back to the first row, so that every row is needed for ever."""
        return any(a.window.width is None for a in self.aggregates)


@dataclass(frozen=True)
class Selected:
    """A feature of a set and its name in the vector.

    A hidden one is fetched for a derived value only: no output, its name is `set.feature`.
    """

    feature: str
    output: str
    type: DataType
    hidden: bool = False


@dataclass(frozen=True)
class Lookup:
    """Features of one set for one mapping of keys.

    `keys` are request columns, one per entity of the set, in the set's order; those at `feature_keys`
    are outputs of earlier look-ups (hidden ones too), whose values are the keys. `level` is how many
    look-ups come one after another before this one. `is_base` marks the vector's base set: its row-level
    features come from the base row, its aggregates see that row.
    """

    set: SetPlan
    keys: tuple[str, ...]
    features: tuple[Selected, ...]
    is_base: bool = False
    feature_keys: tuple[int, ...] = ()
    level: int = 0

    @property
    def given_keys(self) -> tuple[str, ...]:
        """The keys that a request, or its base row, must give."""
        return tuple(column for place, column in enumerate(self.keys) if place not in self.feature_keys)


@dataclass(frozen=True)
class DerivedValue:
    """A value computed after the look-ups. The expression's columns are `set.feature`, outputs or inputs."""

    name: str
    expression: Expression
    columns: tuple[tuple[str, str], ...]  # (column in the expression, output or input that it reads)
    hidden: bool = False


@dataclass(frozen=True)
class LabelPlan:
    """The label: a feature of a set as of `offset` after a row's instant.

    It is matched by event id where base and label share a source and there is no offset. `pending` is what
    becomes of rows whose label's instant the data has not reached: hide (null), keep, or drop.
    """

    set: SetPlan
    feature: str
    output: str
    type: DataType
    keys: tuple[str, ...]
    by_event_id: bool
    offset: int = 0
    pending: str = "hide"


@dataclass(frozen=True)
class Condition:
    """A condition on training rows, as written and typed. Its columns are `set.feature` or names.

    `set.feature` is what the look-up found; a name is an output (derived and imputed), an input or the label.
    `lookups` are fetched for the condition alone, in training sets only.
    """

    text: str
    expression: Expression
    columns: tuple[tuple[str, str], ...]  # (column in the expression, where its value is)
    lookups: tuple[Lookup, ...]


@dataclass(frozen=True)
class TrainingPlan:
    """Which rows a training set keeps, unless it is asked otherwise. Instants are microseconds."""

    where: Condition | None = None
    start: int | None = None
    end: int | None = None
    join: str = "left"  # left | inner


@dataclass(frozen=True)
class VectorPlan:
    """A feature vector, resolved: look-ups, then derived values, then imputes, in `outputs` order.

    The look-ups come by their level, so that what one takes its key from comes before it.
    """

    name: str
    project: str
    fingerprint: str
    base: SetPlan | None
    lookups: tuple[Lookup, ...]
    inputs: tuple[Field, ...]
    derived: tuple[DerivedValue, ...]
    label: LabelPlan | None
    impute: tuple[tuple[str, Any], ...]  # output and its constant, fitted values resolved
    outputs: tuple[Field, ...]  # the vector, in order; without label
    training: TrainingPlan = TrainingPlan()

    @property
    def request_keys(self) -> tuple[str, ...]:
        """The key columns that a request (without base) must carry, each once; not those that are found."""
        names: dict[str, None] = {}
        for lookup in self.lookups:
            names.update(dict.fromkeys(lookup.given_keys))
        return tuple(names)
