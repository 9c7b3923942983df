"""An offline and an online store, filled from the same rows, and vectors of both, for parity tests."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import oracle
import polars as pl
from strategies import HOUR, ORIGIN

from featurestore import tables
from featurestore.contracts import OfflineTable, OnlineStore, extension
from featurestore.online.reader import VectorReader
from featurestore.online.writer import OnlineWriter
from featurestore.plans import SetPlan
from featurestore.rows.frames import FrameSource
from featurestore_engines.batch import BatchEngine, Options, TrainingSet

Row = dict[str, Any]

NOW = ORIGIN + 1000 * 24 * HOUR
_numbers = itertools.count()


class Stores:
    """An offline store, and an online one, filled from it."""

    def __init__(self, folder: Path, online: OnlineStore) -> None:
        self.offline = extension("offline", "delta")({"path": str(folder / "offline")}, folder)
        self.online = online
        self.engine = BatchEngine(clock=lambda: NOW)
        self._name = f"g{next(_numbers)}"

    def table(self, plan: SetPlan) -> OfflineTable:
        """Return a set's table."""
        table: OfflineTable = self.offline.table(tables.rows_table(plan))
        return table

    def generation(self, plan: SetPlan) -> str:
        """Return a set's generation."""
        return f"{self._name}-{plan.name}"

    def ingest(self, plans: Sequence[SetPlan], frame: pl.DataFrame) -> None:
        """Ingest rows of a source into sets of it: offline, then online."""
        for plan in plans:
            dead = self.offline.table("dead")
            self.engine.ingest(plan, FrameSource(frame), self.table(plan), dead, mode="append")
            assert dead.snapshot() is None
            if plan.online:
                writer = OnlineWriter(plan, self.online, self.generation(plan), clock=lambda: NOW)
                self.engine.fill(plan, self.table(plan), writer)

    def training(self, plan: Any, rows: pl.DataFrame | None, **options: Any) -> TrainingSet:
        """Return a training set."""
        return self.engine.training_set(plan, self.table, rows, Options("t", **options))

    def vectors(self, plan: Any, rows: Sequence[Row], as_of: Sequence[int] | None) -> list[Row]:
        """Return vectors, with their columns' names, None for a row that is INVALID."""
        reader = VectorReader(plan, self.online, self.generation, clock=lambda: NOW)
        result = reader.read(rows, as_of=as_of)
        names = [f.name for f in result.columns]
        made = []
        for values, status, error in zip(result.rows, result.status, result.errors, strict=True):
            made.append(dict(zip(names, values, strict=True)) | {"error": error})
            for value, said in zip(values, status, strict=True):
                assert said in ("PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_TTL", "INVALID")
                assert (said == "PRESENT") <= (value is not None)
        return made


@contextmanager
def stores(kind: str, redis: Any) -> Iterator[Stores]:
    """Open empty stores."""
    with tempfile.TemporaryDirectory() as folder:
        config = {"kind": "sqlite", "path": f"{folder}/online.db"} if kind == "sqlite" else {"url": redis}
        online = extension("online", kind)(config)
        try:
            yield Stores(Path(folder), online)
        finally:
            online.close()


def features(made: TrainingSet, plan: Any) -> list[Row]:
    """Return a training set's rows as row values, of the vector's features and label."""
    names = [f.name for f in plan.outputs] + ([made.label] if made.label else [])
    return oracle.rows_of(made.to_polars().select(names))
