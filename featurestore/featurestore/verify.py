"""Verify: online values against offline ones, on the user's own data (DESIGN 1).

Two comparisons, both of whole vectors. **Any instant**: entities and instants are picked where values
change: events and ± 1 µs, events leaving windows and ± 1 µs, before the first and after the last. A scratch
generation, filled by the writer that fills the served ones, is read as of those instants and compared with
a training set. **Served**: values that serve now are read at instants within the history, with the
positions applied, and compared with offline values computed from the rows at or below them.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore import instants, plans, tables
from featurestore.catalog import sets_of
from featurestore.contracts import extension
from featurestore.errors import RequestError, did_you_mean
from featurestore.instants import format_instant
from featurestore.online.reader import VectorReader
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan, VectorPlan
from featurestore.types import DataType

if TYPE_CHECKING:
    import polars as pl

    from featurestore.store import FeatureStore

AT = "__verify_at"
_SHOWN = 20
_ROWS_SHOWN = 5
_SETTLE_SECONDS = 90.0

SUM_TOLERANCE = 1e-15
"""Of the sum of magnitudes: sums and averages of floats (DESIGN 3.7)."""
MOMENT_TOLERANCE = 1e-9
"""Relative: variance and its kin, and what is derived from floats."""


@dataclass(frozen=True)
class Difference:
    """A cell that differs: where, both values, and the newest rows behind it."""

    vector: str
    row: dict[str, Any]
    instant: str
    feature: str
    offline: Any
    online: Any
    rows: tuple[dict[str, Any], ...] = ()


@dataclass
class Verification:
    """What was compared. `largest_deviation` is the largest |online - offline| of floats within tolerance."""

    compared: int = 0
    differ: int = 0
    largest_deviation: float = 0.0
    entities: int = 0
    instants: int = 0
    differences: list[Difference] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.differ == 0

    def __str__(self) -> str:
        return f"parity: {self.compared:,} values compared, {self.differ:,} differ"


def verify(store: FeatureStore, name: str | None, sample: int, seed: int) -> Verification:
    """Compare `sample` rows of each vector that `name` stands for: a vector, a set, or everything."""
    result = Verification()
    for plan in _plans(store, name):
        _Check(store, plan, result, sample, random.Random(seed)).run()
    return result


def _plans(store: FeatureStore, name: str | None) -> list[VectorPlan]:
    catalog = store.catalog
    sets, vectors = catalog.names("FeatureSet"), catalog.names("FeatureVector")
    bare = None if name is None else name.partition("@")[0]
    if bare is not None and bare not in sets + vectors:
        raise RequestError(
            f"There is no applied set or vector '{bare}'.", hint=did_you_mean(bare, sets + vectors)
        )
    if name is not None and bare in vectors:
        return [catalog.vector(name)]
    wanted = [bare] if bare is not None else sets
    online = [
        n
        for n in wanted
        if n is not None and catalog.feature_set(n).online and catalog.feature_set(n).features
    ]
    if bare is not None and not online:
        raise RequestError(f"'{bare}' is not online: there is nothing to compare.")
    result = [catalog.selection([f"{n}.*"]) for n in online]
    return result if name is not None else result + [catalog.vector(n) for n in vectors]


class _Check:
    """The comparison of one vector."""

    def __init__(
        self, store: FeatureStore, plan: VectorPlan, result: Verification, sample: int, chance: random.Random
    ) -> None:
        self._store = store
        self._plan = plan
        self._result = result
        self._sample = sample
        self._chance = chance
        self._engine = extension("engines", "batch")()
        self._sums = _sum_tolerances(plan)

    def run(self) -> None:
        """Compare at any instant, then what serves."""
        questions = self._raw_questions() if self._plan.base is not None else self._questions()
        if questions is None or not questions.height:
            self._result.skipped.append(f"{self._plan.name}: no rows yet")
            return
        self._result.entities += questions.select(self._keys()).unique().height
        self._result.instants += questions.height
        self._any_instant(questions)
        if self._plan.base is None:
            self._served(questions)

    def _keys(self) -> list[str]:
        if self._plan.base is not None:
            return [key.column for key in self._plan.base.keys]
        return list(self._plan.request_keys)

    # What to ask

    def _questions(self) -> pl.DataFrame | None:
        """Return rows of the vector's keys and inputs, with an instant each."""
        import polars as pl

        lookups = self._plan.lookups
        picked: dict[str, list[Any]] = {}
        moments: list[list[int]] = []
        for lookup in lookups:
            found = self._entities(lookup.set)
            if found is None:
                return None
            for number, column in enumerate(lookup.keys):
                picked.setdefault(column, [keys[number] for keys, _ in found])
            moments.append([t for _, times in found for t in times])
        size = min(len(values) for values in picked.values())
        first = self._entities(lookups[0].set)
        assert first is not None
        rows: list[dict[str, Any]] = []
        for i in range(size):
            own = self._instants(first[i % len(first)][1])
            other = [self._chance.choice(m) + self._chance.choice((-1, 0, 1)) for m in moments[1:]]
            chosen = {column: values[i] for column, values in picked.items()}
            rows += [{**chosen, AT: t} for t in own + other]
        if len(rows) > self._sample:
            rows = self._chance.sample(rows, self._sample)
        types = {c: k.type for lookup in lookups for c, k in zip(lookup.keys, lookup.set.keys, strict=True)}
        schema: dict[str, Any] = {c: kind.polars() for c, kind in types.items()}
        schema |= {f.name: f.type.polars() for f in self._plan.inputs} | {AT: pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _entities(self, plan: SetPlan) -> list[tuple[tuple[Any, ...], list[int]]] | None:
        """Return sampled entities' keys and the event times of some of their rows, the busiest ones first."""
        import polars as pl

        table = self._store.environment.rows_table(plan)
        snapshot = table.snapshot()
        if snapshot is None:
            return None
        columns = [key.column for key in plan.keys]
        rows = table.lazy(
            snapshot, list(dict.fromkeys([*columns, plans.KEY, plans.EVENT_TIME])), schema=plan.columns
        )
        counts = rows.group_by(plans.KEY).len().sort(["len", plans.KEY], descending=[True, False]).collect()
        wanted = max(2, self._sample // 20)
        busiest = counts.head(min(10, wanted))
        others = counts.slice(busiest.height)
        others = others.sample(
            min(wanted - busiest.height, others.height), seed=self._chance.randrange(2**31)
        )
        chosen = pl.concat([busiest, others]).select(plans.KEY)
        found = (
            rows.join(chosen.lazy(), on=plans.KEY)
            .group_by(plans.KEY, maintain_order=True)
            .agg(
                *(pl.col(c).first().alias(f"k{i}") for i, c in enumerate(columns)),
                pl.col(plans.EVENT_TIME).dt.epoch("us").alias("t"),
            )
            .sort(plans.KEY)
            .collect()
        )
        return [
            (tuple(row[f"k{i}"] for i in range(len(columns))), sorted(row["t"]))
            for row in found.iter_rows(named=True)
        ]

    def _instants(self, times: Sequence[int]) -> list[int]:
        """Return instants at which something changes for an entity with rows at these times."""
        widths = {
            a.window.width + a.window.offset for lookup in self._plan.lookups for a in lookup.set.aggregates
        } | {lookup.set.ttl for lookup in self._plan.lookups if lookup.set.ttl is not None}
        chosen = [times[0] - 1, times[-1] + 1]
        for _ in range(18):
            t = self._chance.choice(times)
            edge = self._chance.choice([0, *widths])
            chosen.append(t + edge + self._chance.choice((-1, 0, 0, 1)))
        return [t for t in dict.fromkeys(chosen) if instants.ALWAYS < t <= instants.now()]

    def _raw_questions(self) -> pl.DataFrame | None:
        """Return raw rows of the base's source, from its batch half, or else from its landing table."""
        import polars as pl

        base = self._plan.base
        assert base is not None
        environment = self._store.environment
        if base.source.batch is not None:
            source = environment.batch(base.source)
            items = source.inputs()
            frames = []
            for item in self._chance.sample(items, min(3, len(items))):
                batch = next(iter(source.read(item, 0, 50_000)), None)
                if batch is not None:
                    frame = pl.from_arrow(batch)
                    assert isinstance(frame, pl.DataFrame)
                    frames.append(frame)
            if not frames:
                return None
            raw = pl.concat(frames, how="diagonal_relaxed")
        else:
            landing = environment.offline.table(tables.landing_table(base.source.name))
            snapshot = landing.snapshot()
            if snapshot is None:
                return None
            raw = landing.lazy(snapshot, [f.name for f in base.source.schema]).head(50_000).collect()
        return raw.sample(min(self._sample // 4 + 1, raw.height), seed=self._chance.randrange(2**31))

    # Any instant

    def _any_instant(self, questions: pl.DataFrame) -> None:
        scratch = {
            p.state_fingerprint: f"verify-{secrets.token_hex(4)}" for p in sets_of(self._plan) if p.online
        }
        cuts = {
            p.state_fingerprint: self._fill(p, scratch[p.state_fingerprint], questions)
            for p in sets_of(self._plan)
            if p.online
        }
        try:
            reader = VectorReader(
                self._plan,
                self._store.environment.online,
                lambda p: scratch[p.state_fingerprint],
                unbounded=True,
            )
            cut = {
                f"{p.name}-{p.rows_fingerprint}": cuts[p.state_fingerprint]
                for p in sets_of(self._plan)
                if p.state_fingerprint in cuts
            }
            self._compare(questions, reader, self._offline(questions, cut))
        finally:
            for generation in scratch.values():
                self._store.environment.online.drop(generation)

    def _fill(self, plan: SetPlan, generation: str, questions: pl.DataFrame) -> dict[str, int]:
        """Write the sampled entities' rows into a scratch generation; return the positions that it has."""
        import polars as pl

        from featurestore.rows.keys import encode

        environment = self._store.environment
        table = environment.rows_table(plan)
        snapshot = table.snapshot()
        if snapshot is None:
            return {}
        cut = tables.row_partitions(table.positions(snapshot))
        writer = OnlineWriter(plan, environment.online, generation, keep_all=True)
        wanted = []
        for lookup in self._plan.lookups:
            if lookup.set.state_fingerprint == plan.state_fingerprint:
                asked = self._key_frame(questions, lookup.keys)
                wanted.append(encode(asked, plan.keys, lookup.keys).key.alias(plans.KEY).to_frame())
        keys = pl.concat(wanted).drop_nulls().unique()
        rows = table.lazy(snapshot, cut=cut, schema=plan.columns)
        writer.apply(rows.join(keys.lazy(), on=plans.KEY, how="semi").collect(), cut)
        return cut

    def _key_frame(self, questions: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
        if self._plan.base is None:
            return questions.select(keys)
        from featurestore.rows.door import admit
        from featurestore.rows.transform import transform

        admitted = admit(self._plan.base.source, questions, now=instants.now())
        rows = transform(self._plan.base, admitted.rows, keep_keyless=True).rows
        renamed = {
            k.request_column: k.column for k in self._plan.base.keys if k.request_column not in rows.columns
        }
        return rows.with_columns(rows[column].alias(name) for name, column in renamed.items()).select(keys)

    def _offline(self, questions: pl.DataFrame, cut: Mapping[str, Mapping[str, int]] | None) -> pl.DataFrame:
        import polars as pl

        rows = questions
        if self._plan.base is None:
            at = pl.from_epoch(pl.col(AT), "us").dt.replace_time_zone("UTC")
            rows = questions.select(pl.exclude(AT), at.alias(AT))
        options = self._engine.options(event_time=AT, as_known=False, start=None, end=None, cut=cut)
        made = self._engine.training_set(self._plan, self._store.environment.rows_table, rows, options)
        frame: pl.DataFrame = made.to_polars().select(f.name for f in self._plan.outputs)
        return frame

    # What serves

    def _served(self, questions: pl.DataFrame) -> None:
        """Compare what serves now, at instants within the history, at the positions that are applied."""
        import polars as pl

        history = min(
            (p.history for p in sets_of(self._plan) if p.online and p.history is not None), default=None
        )
        now = instants.now()
        low = now - min(history, instants.HOUR) if history is not None else None
        moments = [now] if low is None else [now, low + instants.SECOND, (now + low) // 2]
        keys = questions.drop(AT).unique(maintain_order=True).head(max(1, self._sample // 10))
        rows = pl.concat([keys.with_columns(pl.lit(t, pl.Int64).alias(AT)) for t in moments])
        reader = VectorReader(self._plan, self._store.environment.online, self._store.catalog.serving)
        for _ in range(5):
            before = self._applied()
            online = self._read(reader, rows)
            if before == self._applied():
                break
        else:
            self._result.skipped.append(f"{self._plan.name}: what serves changed while it was read")
            return
        if not self._settled(before):
            self._result.skipped.append(
                f"{self._plan.name}: after {_SETTLE_SECONDS:.0f} s the offline store lacked rows that serve"
            )
            return
        groups: dict[str, list[int]] = {}
        for place, cut in enumerate(self._cuts(rows, before)):
            groups.setdefault(cut, []).append(place)
        for cut, places in groups.items():
            offline = self._offline(rows[places], _parsed(cut))
            self._cells(rows[places], [online[i] for i in places], offline)

    def _applied(self) -> dict[str, dict[int, dict[str, int]]]:
        """Return every set's positions per shard, as serving now."""
        environment = self._store.environment
        return {
            p.state_fingerprint: OnlineWriter(
                p, environment.online, self._store.catalog.serving(p)
            ).positions()
            for p in sets_of(self._plan)
            if p.online
        }

    def _settled(self, applied: Mapping[str, Mapping[int, Mapping[str, int]]]) -> bool:
        """Wait until the offline tables hold all that is applied online."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            behind = False
            for plan in sets_of(self._plan):
                table = self._store.environment.rows_table(plan)
                snapshot = table.snapshot()
                for positions in applied.get(plan.state_fingerprint, {}).values():
                    behind |= any(table.position(snapshot, name) < end for name, end in positions.items())
            if not behind:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(1.0)

    def _cuts(
        self, rows: pl.DataFrame, applied: Mapping[str, Mapping[int, Mapping[str, int]]]
    ) -> Iterable[str]:
        """Yield per row the positions that its entities' shards have applied, as text, by table."""
        from featurestore.rows.keys import encode

        columns = []
        for lookup in self._plan.lookups:
            shards = encode(rows, lookup.set.keys, lookup.keys).shard.to_list()
            table = f"{lookup.set.name}-{lookup.set.rows_fingerprint}"
            by_shard = applied[lookup.set.state_fingerprint]
            columns.append([(table, tuple(sorted(by_shard[s].items()))) for s in shards])
        for cells in zip(*columns, strict=True):
            yield repr(sorted(set(cells)))

    # Comparing

    def _read(self, reader: VectorReader, rows: pl.DataFrame) -> list[list[Any]]:
        """Return online vectors of the rows, at their instants."""
        values: list[list[Any]] = []
        requests = rows.to_dicts()
        for start in range(0, len(requests), 200):
            part = requests[start : start + 200]
            times = [int(row.pop(AT)) for row in part] if self._plan.base is None else None
            found = reader.read(part, as_of=times)
            for row, error in zip(found.rows, found.errors, strict=True):
                values.append([error] * len(row) if error is not None else row)
        return values

    def _compare(self, questions: pl.DataFrame, reader: VectorReader, offline: pl.DataFrame) -> None:
        self._cells(questions, self._read(reader, questions), offline)

    def _cells(self, rows: pl.DataFrame, online: Sequence[Sequence[Any]], offline: pl.DataFrame) -> None:
        for place, field_ in enumerate(self._plan.outputs):
            expected = _row_values(offline[field_.name], field_.type)
            for number, value in enumerate(expected):
                got = online[number][place]
                self._result.compared += 1
                if _same(value, got):
                    continue
                if (
                    isinstance(value, float)
                    and isinstance(got, float)
                    and math.isfinite(value)
                    and math.isfinite(got)
                ):
                    deviation = abs(value - got)
                    if deviation <= self._tolerance(field_.name, value, rows, number):
                        self._result.largest_deviation = max(self._result.largest_deviation, deviation)
                        continue
                self._differs(field_.name, value, got, rows, number)

    def _tolerance(self, output: str, value: float, rows: pl.DataFrame, number: int) -> float:
        """Return how far a float may lie from the offline value (DESIGN 3.7)."""
        found = self._sums.get(output)
        if found is None:
            return MOMENT_TOLERANCE * abs(value) if output in self._floats() else 0.0
        plan, column, count = found
        behind = self._behind(plan, rows, number)
        if behind is None or column not in behind.columns:
            return SUM_TOLERANCE * abs(value)
        magnitude = float(behind[column].abs().sum())
        return SUM_TOLERANCE * (magnitude if count else magnitude / max(behind.height, 1))

    def _floats(self) -> set[str]:
        """Return outputs that the tolerance of moments holds for: var, std, and derived values."""
        names = {d.name for d in self._plan.derived}
        for lookup in self._plan.lookups:
            kinds = {a.name: a.function for a in lookup.set.aggregates}
            names |= {s.output for s in lookup.features if kinds.get(s.feature) in ("var", "std")}
        return names

    def _behind(self, plan: SetPlan, rows: pl.DataFrame, number: int) -> pl.DataFrame | None:
        """Return the entity's rows up to the instant, newest last."""
        import polars as pl

        from featurestore.rows.keys import encode

        lookup = next(
            item for item in self._plan.lookups if item.set.state_fingerprint == plan.state_fingerprint
        )
        keys = self._key_frame(rows[[number]], lookup.keys)
        if not keys.height:
            return None
        key = encode(keys, plan.keys, lookup.keys).key.alias(plans.KEY).to_frame()
        table = self._store.environment.rows_table(plan)
        snapshot = table.snapshot()
        if snapshot is None:
            return None
        found = table.lazy(snapshot, schema=plan.columns).join(key.lazy(), on=plans.KEY, how="semi").collect()
        if self._plan.base is None:
            found = found.filter(pl.col(plans.EVENT_TIME).dt.epoch("us") <= rows[AT][number])
        return found.sort(plans.EVENT_TIME)

    def _differs(self, output: str, expected: Any, got: Any, rows: pl.DataFrame, number: int) -> None:
        self._result.differ += 1
        if len(self._result.differences) >= _SHOWN:
            return
        lookup = next((x for x in self._plan.lookups if any(s.output == output for s in x.features)), None)
        behind = None if lookup is None else self._behind(lookup.set, rows, number)
        row = rows.row(number, named=True)
        at = row.pop(AT, None)
        shown = () if behind is None else tuple(behind.tail(_ROWS_SHOWN).drop(plans.KEY).to_dicts())
        instant = "the row's own" if at is None else format_instant(at)
        self._result.differences.append(
            Difference(self._plan.name, row, instant, output, expected, got, shown)
        )


def _sum_tolerances(plan: VectorPlan) -> dict[str, tuple[SetPlan, str, bool]]:
    """Return the outputs that are float sums and averages, with what they sum."""
    found = {}
    for lookup in plan.lookups:
        by_name = {a.name: a for a in lookup.set.aggregates}
        for selected in lookup.features:
            aggregate = by_name.get(selected.feature)
            if (
                aggregate is not None
                and aggregate.function in ("sum", "avg")
                and aggregate.input.column is not None
                and aggregate.input.type is not None
                and aggregate.input.type.is_float
            ):
                found[selected.output] = (lookup.set, aggregate.input.column, aggregate.function == "sum")
    return found


def _parsed(cut: str) -> dict[str, dict[str, int]]:
    import ast

    return {table: dict(positions) for table, positions in ast.literal_eval(cut)}


def _row_values(series: pl.Series, kind: DataType) -> list[Any]:
    """Return a column as row values: instants in microseconds, dates in days."""
    import polars as pl

    if kind.name in ("timestamp", "date"):
        series = series.to_physical()
    elif kind.name == "list" and kind.item is not None and kind.item.name in ("timestamp", "date"):
        series = series.list.eval(pl.element().to_physical())
    return series.to_list()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
