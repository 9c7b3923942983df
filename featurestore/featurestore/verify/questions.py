"""What to ask: entities, and the instants at which their values change."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featurestore import instants, plans, tables
from featurestore.environment import Environment
from featurestore.errors import OperatorError, SpecError
from featurestore.plans import SetPlan, SourcePlan, VectorPlan

if TYPE_CHECKING:
    import polars as pl

AT = "__verify_at"
"""The column of a question's instant, in microseconds."""


class Questions:
    """Rows to compare a vector at: `sample` of them, drawn by `chance` from the offline store."""

    def __init__(
        self, environment: Environment, plan: VectorPlan, sample: int, chance: random.Random
    ) -> None:
        self._environment = environment
        self._plan = plan
        self._sample = sample
        self._chance = chance

    def entity_rows(self) -> pl.DataFrame | None:
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
                if number in lookup.feature_keys:
                    continue
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
        types = {
            column: key.type
            for lookup in lookups
            for column, key in zip(lookup.keys, lookup.set.keys, strict=True)
            if column in lookup.given_keys
        }
        schema: dict[str, Any] = {c: kind.polars() for c, kind in types.items()}
        schema |= {f.name: f.type.polars() for f in self._plan.inputs} | {AT: pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _entities(self, plan: SetPlan) -> list[tuple[tuple[Any, ...], list[int]]] | None:
        """Return sampled entities' keys and the event times of some of their rows, the busiest ones first."""
        import polars as pl

        table = self._environment.rows_table(plan)
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
            (a.window.width or 0) + a.window.offset
            for lookup in self._plan.lookups
            for a in lookup.set.aggregates
        } | {lookup.set.ttl for lookup in self._plan.lookups if lookup.set.ttl is not None}
        chosen = [times[0] - 1, times[-1] + 1]
        for _ in range(18):
            t = self._chance.choice(times)
            edge = self._chance.choice([0, *widths])
            chosen.append(t + edge + self._chance.choice((-1, 0, 0, 1)))
        return [t for t in dict.fromkeys(chosen) if instants.ALWAYS < t <= instants.now()]

    def raw_rows(self) -> pl.DataFrame | None:
        """Return raw rows of the base's source, from its batch half, or else from its landing table."""
        import polars as pl

        base = self._plan.base
        assert base is not None
        raw = self._from_batch(base)
        if raw is None:
            raw = self._from_landing(base)
        if raw is None:
            return None
        raw = raw.sample(min(self._sample // 4 + 1, raw.height), seed=self._chance.randrange(2**31))
        return raw.with_columns(
            pl.lit(None, f.type.polars()).alias(f.name)
            for f in self._plan.inputs
            if f.name not in raw.columns
        )

    def _from_batch(self, base: SetPlan) -> pl.DataFrame | None:
        import polars as pl

        if base.source.batch is None:
            return None
        try:
            source = self._environment.batch(base.source)
            items = source.inputs()
        except (SpecError, OperatorError):  # the files are elsewhere by now; landing may have rows
            return None
        frames = []
        for item in self._chance.sample(items, min(3, len(items))):
            batch = next(iter(source.read(item, 0, 50_000)), None)
            if batch is not None:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                frames.append(_typed(base.source, frame))
        return pl.concat(frames, how="diagonal_relaxed") if frames else None

    def _from_landing(self, base: SetPlan) -> pl.DataFrame | None:
        landing = self._environment.offline.table(tables.landing_table(base.source))
        snapshot = landing.snapshot()
        if snapshot is None:
            return None
        columns = [f.name for f in base.source.schema]
        return landing.lazy(snapshot, columns, schema=base.source.schema).head(50_000).collect()


def _typed(source: SourcePlan, raw: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that the door admits, typed, as a request has them: a file may hold text alone."""
    from featurestore.rows.door import admit

    rows = admit(source, raw, now=instants.now()).rows
    return raw[rows[plans.SEQUENCE].to_list()].with_columns(rows[f.name] for f in source.schema)
