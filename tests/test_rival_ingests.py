"""Two ingests of one input at once, whose chunks end at other rows: every row is committed once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from parity import compiled

from featurestore.contracts import OfflineTable, Snapshot, extension
from featurestore.rows.frames import FrameSource
from featurestore_engines.batch import ingest as ingesting
from featurestore_engines.batch.ingest import Ingest

PLAN = compiled("""
kind: Entity
name: customer
---
kind: Source
name: orders
event_time: at
schema: {customer: string, at: timestamp, amount: int64}
---
kind: FeatureSet
name: spending
entities: [customer]
source: orders
""").sets["spending"]
T = datetime(2026, 1, 1, tzinfo=UTC)


class Died(BaseException):
    """What ends the rival after its first commit."""


class Raced:
    """A table to which, once, a rival commits before the first rows of this one's user."""

    def __init__(self, table: OfflineTable, rival: Any) -> None:
        self._table = table
        self._rival = rival

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def append(
        self, snapshot: Snapshot | None, rows: pa.Table, positions: Mapping[str, int]
    ) -> Snapshot | None:
        rival, self._rival = self._rival, None
        if rival is not None:
            rival()
        return self._table.append(snapshot, rows, positions)


@pytest.mark.parametrize("theirs", [3, 4, 7])
def test_a_run_goes_on_where_another_one_stands(
    theirs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours reads 5 rows at a time; the other one, which dies after its first commit, 3, 4 or 7."""
    offline = extension("offline", "delta")({"kind": "delta", "path": str(tmp_path / "offline")}, tmp_path)
    table, dead = offline.table("rows"), offline.table("dead")
    orders = pl.DataFrame(
        {"customer": list("abcdefghij"), "at": [T] * 10, "amount": [0, 1, None, 3, 4, 5, 6, 7, 8, 9]}
    ).with_columns(at=pl.when(pl.col("customer").is_in(["c", "f"])).then(None).otherwise("at"))
    monkeypatch.setattr(ingesting, "COMMIT_ROWS", 1)

    def rival() -> None:
        def die(_: pl.DataFrame) -> None:
            raise Died

        monkeypatch.setattr(ingesting, "READ_ROWS", theirs)
        with pytest.raises(Died):
            Ingest(PLAN, table, dead, clock=lambda: 0, on_rows=die).run(FrameSource(orders))
        monkeypatch.setattr(ingesting, "READ_ROWS", 5)

    monkeypatch.setattr(ingesting, "READ_ROWS", 5)
    ours = Raced(table, rival)
    Ingest(PLAN, ours, dead, clock=lambda: 0).run(FrameSource(orders))  # type: ignore[arg-type]
    kept = table.lazy(table.snapshot()).collect()
    assert sorted(kept["customer"].to_list()) == list("abdeghij")
    assert sorted(kept["__sequence"].to_list()) == list(range(8))
    assert sorted(dead.lazy(dead.snapshot()).collect()["sequence"].to_list()) == [2, 5]
