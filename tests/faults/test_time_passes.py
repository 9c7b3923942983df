"""Time passes: retention, compaction and vacuum while streams run; nothing is lost or counted twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import polars as pl
import pytest
import shop
from faults.conftest import Measured
from faults.scale import LONG
from streams import check, lag, make_project, send, streaming
from test_stream_engines import ENGINES, shrink

from featurestore import FeatureStore, tables

ROUNDS = 20 if LONG else 2
EVENTS = 400 if LONG else 60  # of each round


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_run_while_everything_is_kept_in_order(
    engine: str,
    tmp_path: Path,
    measured: Measured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two streams on the same sets, each with its upkeep ten times a second, and a third that only does that.

    Payments became known long ago, so landing loses them as soon as they are there. Between rounds all that
    compaction and retention replaced leaves the disk. At the end every value is the oracle's, and a training
    set of the first round is what it was.
    """
    shrink(monkeypatch.setattr)
    root = make_project(tmp_path, {"kind": "sqlite"})
    settings = json.loads((root / "featurestore.yaml").read_text())
    settings["upkeep"] = {"every": "100ms", "landing": "1h", "dead_letters": "1h"}
    (root / "featurestore.yaml").write_text(json.dumps(settings))
    paid, visited = shop.make_log(11, ROUNDS * EVENTS)
    upkept: dict[str, int] = {}
    with FeatureStore(root) as store:
        store.apply()
        first = None
        for number in range(ROUNDS):
            part = slice(number * EVENTS, (number + 1) * EVENTS)
            few = slice(number * EVENTS // 4, (number + 1) * EVENTS // 4)
            keeper = Keeper(root)
            with streaming(root, engine) as one, streaming(root, "local") as other, keeper:
                for rows in (paid[part], paid[part][:5]):
                    send(store, "payments", rows)
                send(store, "visits", visited[few])
                one.await_records(EVENTS + 5 + len(visited[few]))
                other.await_records(EVENTS + 5 + len(visited[few]))
            for name, found in keeper.upkept.items():
                upkept[name] = upkept.get(name, 0) + found
            upkept["files_deleted"] += sum(
                store.environment.offline.table(name).vacuum(0) for name in store.environment.offline.tables()
            )
            first = first or training(store)
        store.drain()
        store.upkeep()
        assert lag(store) == 0
        compared = check(store)
        landing = store.environment.offline.table(tables.landing_table(store.catalog.source("payments")))
        assert landing.rows(landing.snapshot()) == 0  # type: ignore[arg-type]
        assert first is not None
        before, positions = first
        assert training(store, positions)[0].equals(before)
    assert upkept["failures"] == 0
    assert upkept["files_compacted"] > 0
    assert upkept["files_deleted"] > 0
    measured(
        "time passes: retention, compaction and vacuum while streams run",
        promised="nothing lost or counted twice; earlier training sets are reproduced",
        engine=engine,
        rounds=ROUNDS,
        events=ROUNDS * (EVENTS + 5),
        values_compared=compared,
        lost=0,
        doubled=0,
        **upkept,
    )


def training(
    store: FeatureStore, positions: dict[str, dict[str, int]] | None = None
) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    """Return a training set of all customers, and the positions that it was read at."""
    times = [shop.instant(shop.ORIGIN + n * shop.HOUR_US) for n in range(len(shop.CUSTOMERS))]
    shops = [shop.SHOPS[n % len(shop.SHOPS)] for n in range(len(shop.CUSTOMERS))]
    rows = pl.DataFrame(
        {"customer": shop.CUSTOMERS, "favourite": shops, "bonus": 1, "event_timestamp": times}
    )
    made = store.vector("profile").get_offline(rows, positions=positions)
    return made.to_polars(), made.positions


class Keeper:
    """A process's worth of upkeep, over and over, in a thread and with a store of its own."""

    def __init__(self, root: Path) -> None:
        self.upkept: dict[str, int] = {}
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with FeatureStore(self._root) as store:
            while True:
                store.upkeep()
                if self._stop.wait(0.05):
                    break
            self.upkept = dict(store.upkept)
