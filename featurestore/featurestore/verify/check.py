"""The comparison of one vector: at any instant through a scratch generation, and as it serves now."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore import instants, plans, tables
from featurestore.catalog import AD_HOC, sets_of
from featurestore.contracts import extension
from featurestore.online.reader import VectorReader
from featurestore.online.requests import outward
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan, TrainingPlan, VectorPlan
from featurestore.verify.comparison import Comparison, base_rows, is_key, key_frame, with_keys
from featurestore.verify.outcome import Verification
from featurestore.verify.questions import AT, Questions

if TYPE_CHECKING:
    import polars as pl

    from featurestore.store import FeatureStore

_SETTLE_SECONDS = 90.0  # how long the offline store may take to have what serves: streams commit every 60 s
_AT_ONCE = 200  # rows of one request

Applied = Mapping[str, Mapping[int, Mapping[str, int]]]
"""Positions applied online, by state fingerprint, shard and partition."""

Cut = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
"""Positions by table, as a key."""


class Check:
    """Compares one vector and adds to `result`."""

    def __init__(
        self, store: FeatureStore, plan: VectorPlan, result: Verification, sample: int, chance: random.Random
    ) -> None:
        self._store = store
        self._plan = plan = with_keys(replace(plan, label=None, training=TrainingPlan()))  # what is served
        self._result = result
        self._sample = sample
        self._questions = Questions(store.environment, plan, sample, chance)
        self._comparison = Comparison(store.environment, plan, result)
        self._engine = extension("engines", "batch")()
        self._sets = sets_of(plan)

    @property
    def _shown(self) -> str:
        """What to call the vector: a list of references goes by its sets."""
        return ", ".join(s.name for s in self._sets) if self._plan.name == AD_HOC else self._plan.name

    def run(self) -> None:
        """Compare at any instant, then what serves."""
        asked = self._questions
        questions = asked.raw_rows() if self._plan.base is not None else asked.entity_rows()
        if questions is None or not questions.height:
            self._result.skipped.append(f"{self._shown}: no rows yet")
            return
        base = self._plan.base
        keys = self._plan.request_keys if base is None else _raw_keys(base, questions)
        self._result.entities += questions.select(keys).unique().height
        self._result.instants += questions.height
        self._any_instant(questions)
        self._served(questions)

    # Any instant

    def _any_instant(self, questions: pl.DataFrame) -> None:
        served = [plan for plan in self._sets if plan.online]
        scratch = {plan.state_fingerprint: f"verify-{secrets.token_hex(4)}" for plan in served}
        cut: dict[str, dict[str, int]] = {}
        for plan in served:
            table = self._store.environment.rows_table(plan)
            cut[tables.rows_table(plan)] = tables.row_partitions(table.positions(table.snapshot()))
        offline = self._offline(questions, cut)
        try:
            for plan in served:
                self._fill(
                    plan, scratch[plan.state_fingerprint], questions, offline, cut[tables.rows_table(plan)]
                )
            reader = VectorReader(
                self._plan,
                self._store.environment.online,
                lambda p: scratch[p.state_fingerprint],
                unbounded=True,
            )
            self._comparison.cells(questions, _told(*self._read(reader, questions)), offline)
        finally:
            for generation in scratch.values():
                self._store.environment.online.drop(generation)

    def _fill(
        self,
        plan: SetPlan,
        generation: str,
        questions: pl.DataFrame,
        offline: pl.DataFrame,
        cut: Mapping[str, int],
    ) -> None:
        """Write the rows, up to the cut, of the entities that are asked for into a scratch generation."""
        import polars as pl

        from featurestore.rows.keys import encode

        environment = self._store.environment
        table = environment.rows_table(plan)
        snapshot = table.snapshot()
        if snapshot is None:
            return
        writer = OnlineWriter(plan, environment.online, generation, keep_all=True)
        wanted = []
        for lookup in self._plan.lookups:
            if lookup.set.state_fingerprint == plan.state_fingerprint:
                asked = key_frame(self._plan, questions, lookup, offline)
                wanted.append(encode(asked, plan.keys, asked.columns).key.alias(plans.KEY).to_frame())
        if not wanted:  # the base's own set, of which nothing is looked up
            return
        keys = pl.concat(wanted).drop_nulls().unique()
        rows = table.lazy(snapshot, cut=cut, schema=plan.columns)
        writer.apply(rows.join(keys.lazy(), on=plans.KEY, how="semi").collect(), cut)

    def _offline(self, questions: pl.DataFrame, cut: Mapping[str, Mapping[str, int]] | None) -> pl.DataFrame:
        import polars as pl

        rows = questions
        if self._plan.base is None:
            at = pl.from_epoch(pl.col(AT), "us").dt.replace_time_zone("UTC")
            rows = questions.select(pl.exclude(AT), at.alias(AT))
        options = self._engine.options(AT, cut=cut)
        made = self._engine.training_set(self._plan, self._store.environment.rows_table, rows, options)
        frame: pl.DataFrame = made.to_polars().select(f.name for f in self._plan.outputs)
        if self._plan.base is None:
            return frame
        scored = base_rows(self._plan.base, questions)[plans.SEQUENCE].to_list()
        there = pl.int_range(pl.len()).is_in(scored)  # a refused row keeps the caller's own columns
        return frame.select(pl.when(there).then(pl.col(name)).alias(name) for name in frame.columns)

    # What serves

    def _served(self, questions: pl.DataFrame) -> None:
        """Compare what serves now, at instants within the history, at the positions that are applied."""
        rows = self._within_history(questions)
        if not rows.height:
            return
        reader = VectorReader(self._plan, self._store.environment.online, self._store.catalog.serving)
        for _ in range(5):
            before = self._applied()
            online, errors = self._read(reader, rows)
            if before == self._applied():
                break
        else:
            self._result.skipped.append(f"{self._shown}: what serves changed while it was read")
            return
        if not self._settled(before):
            self._result.skipped.append(
                f"{self._shown}: after {_SETTLE_SECONDS:.0f} s the offline store lacked rows that serve"
            )
            return
        groups: dict[Cut, list[int]] = {}
        for place, cut in enumerate(self._cuts(rows, before, self._frame(online))):
            groups.setdefault(cut, []).append(place)
        told = _told(online, errors)
        for cut, places in groups.items():
            ends = {table: dict(positions) for table, positions in cut}
            if len(ends) < len(cut):  # two look-ups of one table stand at different positions, for a moment
                self._result.skipped.append(f"{self._shown}: {len(places)} rows, which a stream was changing")
                continue
            offline = self._offline(rows[places], ends)
            self._comparison.cells(rows[places], [told[i] for i in places], offline)

    def _within_history(self, questions: pl.DataFrame) -> pl.DataFrame:
        """Return the questions that what serves must answer, and for entities more of them, up to now."""
        import polars as pl

        history = min((p.history for p in self._sets if p.online and p.history is not None), default=None)
        now = instants.now()
        low = instants.ALWAYS if history is None else now - history + instants.MINUTE
        base = self._plan.base
        if base is not None:
            admitted = base_rows(base, questions)
            inside = admitted.filter(pl.col(plans.EVENT_TIME).dt.epoch("us").is_between(low, now))
            return questions[inside[plans.SEQUENCE].to_list()]
        recent = max(low, now - instants.HOUR)
        moments = [now, recent, (now + recent) // 2]
        keys = questions.drop(AT).unique(maintain_order=True).head(max(1, self._sample // 10))
        more = [keys.with_columns(pl.lit(t, pl.Int64).alias(AT)) for t in moments]
        return pl.concat([questions.filter(pl.col(AT).is_between(low, now)), *more])

    def _applied(self) -> Applied:
        """Return every set's positions per shard, as serving now."""
        environment = self._store.environment
        return {
            p.state_fingerprint: OnlineWriter(
                p, environment.online, self._store.catalog.serving(p)
            ).positions()
            for p in self._sets
            if p.online
        }

    def _settled(self, applied: Applied) -> bool:
        """Wait until the offline tables hold all that is applied online."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            behind = False
            for plan in self._sets:
                table = self._store.environment.rows_table(plan)
                snapshot = table.snapshot()
                for positions in applied.get(plan.state_fingerprint, {}).values():
                    behind |= any(table.position(snapshot, name) < end for name, end in positions.items())
            if not behind:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(1.0)

    def _cuts(self, rows: pl.DataFrame, applied: Applied, found: pl.DataFrame) -> Iterable[Cut]:
        """Yield per row the positions that its entities' shards have applied; `found` is what serves."""
        from featurestore.rows.keys import encode

        columns = []
        for lookup in self._plan.lookups:
            keys = key_frame(self._plan, rows, lookup, found)
            shards = encode(keys, lookup.set.keys, keys.columns).shard.to_list()
            by_shard = applied[lookup.set.state_fingerprint]
            columns.append(
                [(tables.rows_table(lookup.set), tuple(sorted(by_shard[s or 0].items()))) for s in shards]
            )
        for cells in zip(*columns, strict=True):
            yield tuple(sorted(set(cells)))

    def _read(self, reader: VectorReader, rows: pl.DataFrame) -> tuple[list[list[Any]], list[str | None]]:
        """Return online vectors of the rows, at their instants, and why one cannot be had."""
        values: list[list[Any]] = []
        errors: list[str | None] = []
        requests = rows.to_dicts()
        for start in range(0, len(requests), _AT_ONCE):
            part = requests[start : start + _AT_ONCE]
            times = [int(row.pop(AT)) for row in part] if self._plan.base is None else None
            found = reader.read(part, as_of=times)
            values += found.rows
            # a raw row may be bad in itself
            errors += found.errors if self._plan.base is None else [None] * len(part)
        return values, errors

    def _frame(self, values: list[list[Any]]) -> pl.DataFrame:
        """Return the keys that were found, of vectors of row values, as a frame."""
        import polars as pl

        made = []
        for place, output in enumerate(self._plan.outputs):
            if not is_key(output.name):
                continue
            column = [outward(row[place], output.type) for row in values]
            made.append(pl.Series(output.name, column, output.type.polars()))
        return pl.DataFrame(made)


def _told(values: list[list[Any]], errors: list[str | None]) -> list[list[Any]]:
    """Return the vectors, each value of a row that cannot be had being the reason."""
    return [row if error is None else [error] * len(row) for row, error in zip(values, errors, strict=True)]


def _raw_keys(base: SetPlan, questions: pl.DataFrame) -> list[str]:
    """Return the key columns that raw rows have; a key may also be made by a step."""
    return [key.column for key in base.keys if key.column in questions.columns]
