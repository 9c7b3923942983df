"""Upkeep: what must be done now and then so that the stores neither grow without end nor slow down.

Old rows leave landing and the dead letters, closed days are compacted, files that nothing reads any more
leave the disk, and generations that nothing serves the online store. A running stream does it in a thread
beside its work; `featurestore upkeep` does it once.
Each part looks at the tables and does what is due, so it may run anywhere, at once and again: of two that
change one table the second gives up. Nothing here ends a stream: what fails is logged, counted, and tried
again the next time.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from featurestore import instants, tables
from featurestore.contracts import OfflineTable
from featurestore.errors import FeatureStoreError
from featurestore.generations import drop_unneeded

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

READ_FOR = instants.DAY
"""How long a file stays after it was replaced, for those who still read it."""

_LANDING = re.compile(r"landing-.+-[0-9a-f]{12}$")
_FIRST_SECONDS = 300.0  # a stream that is often started anew does its upkeep all the same
_STOP_SECONDS = 10.0  # how long a stream that stops waits for a table to be finished

_NOTHING: dict[str, Any] = {
    "rows_forgotten": 0,
    "files_compacted": 0,
    "files_deleted": 0,
    "generations_dropped": 0,
    "abandoned": 0,
    "error": None,
}

log = logging.getLogger(__name__)


def upkeep(store: FeatureStore, stop: Event | None = None, now: int | None = None) -> list[dict[str, Any]]:
    """Do what is due, table by table, until `stop` is set; return a record for each table, and for online.

    The last record is of the online store's `generations`. They have `rows_forgotten`, `files_compacted`,
    `files_deleted`, `generations_dropped`, `abandoned` (how often another process was first), and
    `error`, the text of what failed. The sums are added to `store.upkept`.
    """
    now = instants.now() if now is None else now
    records = []
    for name in store.environment.offline.tables():
        if stop is not None and stop.is_set():
            break
        records.append(_table(store, name, now))
    if stop is None or not stop.is_set():
        records.append(_generations(store))
    for record in records:
        for what, number in record.items():
            if isinstance(number, int):
                store.upkept[what] += number
        store.upkept["failures"] += record["error"] is not None
    store.upkept["runs"] += 1
    return records


def _generations(store: FeatureStore) -> dict[str, Any]:
    """Drop generations of the online store that nothing needs; return the record."""
    record: dict[str, Any] = {"table": "generations", **_NOTHING}
    try:
        record["generations_dropped"] = len(drop_unneeded(store))
    except FeatureStoreError as error:
        log.warning("Upkeep of generations: %s", error)
        record["error"] = str(error)
    return record


def _table(store: FeatureStore, name: str, now: int) -> dict[str, Any]:
    """Do what is due in one table; return its record."""
    config = store.environment.config.upkeep
    table = store.environment.offline.table(name)
    record: dict[str, Any] = {"table": name, **_NOTHING}
    kept = _kept(name, config.landing, config.dead_letters)
    works: list[Callable[[], None]] = [lambda: _vacuum(table, record)]
    if config.compact:
        works.insert(0, lambda: _compact(table, record))
    if kept is not None:
        works.insert(0, lambda: _forget(table, now - kept, record))
        if name == tables.DEAD_LETTERS:
            works.insert(1, lambda: _forget_replays(store, now - kept, record))
    for work in works:
        try:
            work()
        except FeatureStoreError as error:
            log.warning("Upkeep of %s: %s", name, error)
            record["error"] = str(error)
    return record


def _kept(name: str, landing: str, dead_letters: str) -> int | None:
    """Return how long a table's rows are kept; None where that is for ever."""
    text = landing if _LANDING.match(name) else dead_letters if name == tables.DEAD_LETTERS else "forever"
    return None if text == "forever" else instants.parse_duration(text)


def _forget(table: OfflineTable, before: int, record: dict[str, Any]) -> None:
    found = table.forget(before)
    record["rows_forgotten"] += found["rows"]
    record["abandoned"] += found["abandoned"]


def _forget_replays(store: FeatureStore, before: int, record: dict[str, Any]) -> None:
    """Delete the notes of replayed letters that are gone: after them, lest one be replayed again."""
    if not record["abandoned"] and record["error"] is None:
        _forget(store.environment.offline.table(tables.REPLAYS), before, record)


def _compact(table: OfflineTable, record: dict[str, Any]) -> None:
    found = table.compact()
    record["files_compacted"] += found["files_read"]
    record["abandoned"] += found["abandoned"]


def _vacuum(table: OfflineTable, record: dict[str, Any]) -> None:
    record["files_deleted"] += table.vacuum(READ_FOR)


@contextmanager
def beside(store: FeatureStore) -> Iterator[None]:
    """Do the project's upkeep in a thread until the block ends; nothing where `every:` is `never`."""
    every = store.environment.config.upkeep.every
    if every == "never":
        yield
        return
    ended = Event()
    seconds = instants.parse_duration(every) / instants.SECOND

    def run() -> None:
        pause = random.uniform(0, min(seconds, _FIRST_SECONDS))  # so that several do not start at once
        while not ended.wait(pause):
            try:
                upkeep(store, ended)
            except (FeatureStoreError, OSError) as error:
                log.warning("Upkeep: %s", error)
                store.upkept["failures"] += 1
            pause = seconds * random.uniform(0.75, 1.25)

    thread = Thread(target=run, name="upkeep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_STOP_SECONDS)
        if thread.is_alive():  # a large table is being compacted; nothing of it counts until it is done
            log.warning("Upkeep was left unfinished; it is done again the next time.")
