"""From history to the stream, and from one version to the next: no gap, nothing counted twice, at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import handoff
import pytest
from handoff import check, command, payments, polling, revise, send, wait_until, write, write_batch
from streams import lag, streaming

from featurestore import FeatureStore, OperatorError, RequestError
from featurestore.generations import drop_unneeded

BYTEWAX = pytest.mark.skipif(sys.version_info >= (3, 13), reason="no wheel")
HALVES = {"event_id": "event_id: id", "cutover": "cutover: 2026-03-01T01:00:00Z"}
CHANGES: dict[str, dict[str, Any]] = {
    "another window, the same rows": {"windows": "[1h, 3h, 2d]"},
    "another step, other rows": {"limit": 20},
}


@contextmanager
def sending(store: FeatureStore, rows: list[handoff.Row]) -> Iterator[Event]:
    """Send rows one by one in a thread; yields what is set once all are sent."""
    sent = Event()

    def run() -> None:
        for row in rows:
            send(store, [row])
        sent.set()

    thread = Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        thread.join()


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize("order", ["later", "earlier", "meanwhile"])
def test_history_by_ingest_and_the_stream_meet_without_gap_or_double_count(
    order: str, halves: str, tmp_path: Path, online_config: dict[str, Any]
) -> None:
    """Both halves have the rows 40 to 80; the cutover is at row 60."""
    rows = payments(120)
    root = write(tmp_path, online_config, halves=HALVES[halves])
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:50])
        if order == "later":
            write_batch(root, "b", rows[50:80])
            store.ingest("payments")
            send(store, rows[40:])
            with streaming(root, "local") as running:
                running.await_records(80)
        elif order == "earlier":
            send(store, rows[40:])
            with streaming(root, "local") as running:
                running.await_records(80)
            write_batch(root, "b", rows[50:80])
            store.ingest("payments")
        else:
            with streaming(root, "local") as running, sending(store, rows[40:]):
                store.ingest("payments")
                write_batch(root, "b", rows[50:80])
                store.ingest("payments")
                running.await_records(80)
        store.drain()
        assert lag(store) == 0
        check(store, rows)
        assert [report.rows_written for report in store.ingest("payments")] == [0, 0]


@pytest.mark.parametrize(
    ("change", "engine"),
    [
        ("another window, the same rows", "local"),
        pytest.param("another step, other rows", "bytewax", marks=BYTEWAX),
    ],
)
def test_a_promotion_while_events_flow_switches_at_once_and_every_answer_is_right(
    change: str, engine: str, tmp_path: Path, online_config: dict[str, Any]
) -> None:
    rows = payments(300)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:50])
        store.ingest("payments")
        old = store.vector("risk").name
        with streaming(root, engine) as running, polling(root, rows) as poller:
            send(store, rows[50:100])
            running.await_records(50)
            revise(root, **CHANGES[change])
            with sending(store, rows[100:]) as sent:
                store.apply(promote=True)
                new = store.vector("risk").name
                wait_until(lambda: new in poller.versions, "the service has noticed")
                assert sent.wait(60)
            running.await_records(250)
            asked = poller.answers
            wait_until(lambda: poller.answers > asked + 1, "more answers")
        assert poller.versions == [old, new]
        store.drain()
        assert lag(store) == 0
        check(store, rows)
        check(store, rows, "risk@previous")


def test_a_version_that_was_rolled_back_to_has_all_that_came_meanwhile(
    tmp_path: Path, online_config: dict[str, Any]
) -> None:
    rows = payments(160)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:50])
        store.ingest("payments")
        old = store.vector("risk").name
        with streaming(root, "local") as running:
            revise(root, windows="[3h, 2d]", limit=20)
            store.apply(promote=True)
            new = store.vector("risk").name
            send(store, rows[50:120])
            running.await_records(70)
            write_batch(root, "b", rows[120:140])
            store.ingest("payments")
            assert {(item.kind, item.name) for item in store.rollback()} == {
                ("FeatureSet", "spend"),
                ("FeatureSet", "trend"),
                ("FeatureVector", "risk"),
            }
            assert store.vector("risk").name == old
            check_at_once(store, rows[:140])
            send(store, rows[140:])
            running.await_records(90)
        store.rollback()
        assert store.vector("risk").name == new
        check(store, rows)
        check(store, rows, "risk@previous")


def check_at_once(store: FeatureStore, rows: list[handoff.Row], reference: str = "risk") -> None:
    """Compare the vectors alone: streams commit offline rows later."""
    for customer in range(handoff.CUSTOMERS):
        found = store.vector(reference).get_online([{"customer": customer}], as_of=handoff.AT).to_dicts()[0]
        handoff.check_cells(handoff.expected(store, rows, customer, reference), found, (customer,))


def test_a_repair_that_is_rolled_back_has_all_that_came_meanwhile(
    tmp_path: Path, online_config: dict[str, Any]
) -> None:
    rows = payments(140)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:50])
        store.ingest("payments")
        before = served(store)
        with pytest.raises(RequestError, match="generation to go back to"):
            store.rollback(repair=True)
        with streaming(root, "local") as running:
            send(store, rows[50:90])
            running.await_records(40)
            store.materialize("payments")
            assert served(store).keys() == before.keys()
            assert not set(served(store).values()) & set(before.values())
            send(store, rows[90:120])
            running.await_records(70)
            write_batch(root, "b", rows[120:])
            store.ingest("payments")
            store.rollback(["spend"], repair=True)
            assert served(store)["spend"] == before["spend"]
            check_at_once(store, rows)
        check(store, rows)


def served(store: FeatureStore) -> dict[str, str]:
    """Return the generation that serves each set."""
    store.catalog.forget()
    return {name: store.catalog.serving(store.catalog.feature_set(name)) for name in ("spend", "trend")}


def statuses(store: FeatureStore) -> list[str]:
    """Return the statuses of all generations."""
    return sorted(found.status for found in store.environment.registry.generations("shop"))


MOMENTS = {
    "the versions are there": lambda s: any(
        "next" in t for t in s.environment.registry.pointers("shop").values()
    ),
    "a generation is being filled": lambda s: "building" in statuses(s),
    "the generations follow": lambda s: "following" in statuses(s),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_promotion_that_is_killed_changes_nothing_and_the_next_goes_on(
    moment: str, tmp_path: Path, online_config: dict[str, Any]
) -> None:
    rows = payments(300)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:200])
        store.ingest("payments")
        send(store, rows[180:])
        store.drain()
        old = store.vector("risk").name
        revise(root, windows="[3h, 2d]", limit=20)
        process = command(root, "apply", "--promote")
        wait_until(lambda: MOMENTS[moment](store) or process.poll() is not None, moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            begun = [g.id for g in store.environment.registry.generations("shop") if g.status != "serving"]
            if store.environment.registry.pointers("shop")["FeatureVector", "risk"].get("previous") is None:
                assert store.vector("risk").name == old
                check(store, rows)
            store.apply(promote=True)
            assert all(store.environment.registry.generation(id).status == "serving" for id in begun)
        assert store.vector("risk").name != old
        assert statuses(store) == ["serving"] * 4
        check(store, rows)
        check(store, rows, "risk@previous")


@pytest.mark.parametrize("moment", ["a generation is being filled", "the generations follow"])
def test_a_repair_that_is_killed_changes_nothing_and_the_next_goes_on(
    moment: str, tmp_path: Path, online_config: dict[str, Any]
) -> None:
    rows = payments(300)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:200])
        store.ingest("payments")
        send(store, rows[200:])
        store.drain()
        process = command(root, "materialize", "all")
        wait_until(lambda: MOMENTS[moment](store) or process.poll() is not None, moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check(store, rows)
        store.materialize("payments")
        check(store, rows)
        assert set(statuses(store)) <= {"serving", "standby", "retired"}


def freeze(process: subprocess.Popen[str], root: Path) -> None:
    """Stop a process where it holds no lock of the registry: SQLite waits for nobody who stands still."""
    while True:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        with closing(sqlite3.connect(root / ".featurestore" / "registry.db", timeout=0)) as registry:
            try:
                registry.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.003)


def test_of_two_promotions_at_once_one_says_that_the_other_was_first(
    tmp_path: Path, online_config: dict[str, Any]
) -> None:
    rows = payments(100)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows)
        store.ingest("payments")
        revise(root, windows="[3h, 2d]")
        with command(root, "apply", "--promote") as process:
            wait_until(lambda: MOMENTS["the versions are there"](store), "the versions are there")
            freeze(process, root)
            try:
                if store.vector("risk@next"):
                    store.apply(promote=True)
            finally:
                process.send_signal(signal.SIGCONT)
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "The plan is stale" in said
        check(store, rows)


def test_an_online_store_that_lost_all_is_filled_again_and_has_nothing_to_go_back_to(
    tmp_path: Path, start_server: Any
) -> None:
    server = start_server()
    rows = payments(140)
    root = write(tmp_path, {"kind": "redis", "url": server.url})
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:50])
        store.ingest("payments")
        send(store, rows[50:100])
        store.drain()
    server.kill()
    server.start()
    with FeatureStore(root) as store:
        with pytest.raises(OperatorError, match="it lost its data"):
            store.vector("risk").get_online([{"customer": 1}])
        store.materialize("payments")
        check(store, rows[:100])
        with pytest.raises(RequestError, match="generation to go back to"):
            store.rollback(repair=True)
        send(store, rows[100:])
        store.drain()
        check(store, rows)
        assert statuses(store) == ["retired", "retired", "serving", "serving"]


def test_a_column_that_a_source_gains_is_in_the_new_version_while_the_stream_runs(
    tmp_path: Path, online_config: dict[str, Any]
) -> None:
    plain = payments(160)
    noted = [row | {"note": f"n{number}"} for number, row in enumerate(plain)]
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", noted[:50])
        store.ingest("payments")
        with streaming(root, "local") as running:
            send(store, noted[50:100])
            running.await_records(50)
            revise(root, column=", note: string")
            store.apply(promote=True)
            send(store, noted[100:])
            for reference in ("risk", "risk@previous"):
                wait_until(lambda name=reference: is_right(store, plain, name), f"{reference} has all")
        check(store, plain)
        check(store, plain, "risk@previous")
        assert [op for op in store.rollback() if op.kind == "Source"]
        check(store, plain)


def is_right(store: FeatureStore, rows: list[handoff.Row], reference: str) -> bool:
    """Tell whether the vectors are the oracle's by now."""
    try:
        check_at_once(store, rows, reference)
    except AssertionError:
        return False
    return True


def test_a_source_that_one_stream_cannot_read_both_ways_is_not_promoted(tmp_path: Path) -> None:
    root = write(tmp_path, {"kind": "sqlite"}, column=", note: string")
    with FeatureStore(root) as store:
        store.apply()
        revise(root)
        with pytest.raises(RequestError, match="changes by more than new columns"):
            store.apply(promote=True)
        assert not any("next" in tags for tags in store.environment.registry.pointers("shop").values())


def test_rows_given_while_a_promotion_was_interrupted_are_in_the_new_version(
    tmp_path: Path, online_config: dict[str, Any]
) -> None:
    """A frame cannot be read again: it is taken into both versions when it is given."""
    rows = payments(140)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:100])
        store.ingest("payments")
        revise(root, limit=20)
        process = command(root, "apply", "--promote")
        wait_until(lambda: "building" in statuses(store) or process.poll() is not None, "it fills")
        process.kill()
        process.communicate()
        store.ingest("payments", handoff.frame(rows[100:]))
        promoted = store.apply(promote=True)
        assert promoted.lacking == {}
        check(store, rows)
        check(store, rows, "risk@previous")


def test_a_frame_that_only_the_version_before_was_given_is_told(tmp_path: Path) -> None:
    rows = payments(100)
    root = write(tmp_path, {"kind": "sqlite"})
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", rows[:60])
        store.ingest("payments")
        store.ingest("payments", handoff.frame(rows[60:]))
        revise(root, limit=20)
        assert store.apply(promote=True).lacking == {"spend": 1}
        check(store, rows, "risk@previous")


def test_what_nothing_will_serve_again_is_dropped_and_nothing_else_is(
    tmp_path: Path, online_config: dict[str, Any]
) -> None:
    rows = payments(60)
    root = write(tmp_path, online_config)
    with FeatureStore(root) as store:
        online = store.environment.online
        store.apply()
        write_batch(root, "a", rows)
        store.ingest("payments")
        first = served(store)
        revise(root, windows="[3h, 2d]")
        store.apply(promote=True)
        second = served(store)
        pass_time(root, hours=3)
        assert drop_unneeded(store) == []
        check(store, rows, "risk@previous")
        revise(root, windows="[4h, 2d]")
        store.apply(promote=True)
        assert {store.environment.registry.generation(id).status for id in first.values()} == {"retired"}
        assert drop_unneeded(store) == []  # a reader may still use them
        pass_time(root, minutes=11)
        assert set(drop_unneeded(store)) == set(first.values())
        assert drop_unneeded(store) == []
        assert [online.statistics(id)["entities"] for id in first.values()] == [0, 0]
        assert set(second.values()) <= {
            g.id for g in store.environment.registry.generations("shop", None, "serving")
        }
        check(store, rows, "risk@previous")
        store.untag("FeatureVector", "risk", "previous")
        for name in ("spend", "trend"):
            store.untag("FeatureSet", name, "previous")
        assert drop_unneeded(store) == []
        pass_time(root, minutes=11)
        assert set(drop_unneeded(store)) == set(second.values())
        check(store, rows)


def test_a_filling_that_was_left_is_dropped_once_nobody_goes_on_with_it(tmp_path: Path) -> None:
    root = write(tmp_path, {"kind": "sqlite"})
    with FeatureStore(root) as store:
        store.apply()
        write_batch(root, "a", payments(60))
        store.ingest("payments")
        registry = store.environment.registry
        left = registry.begin_generation("shop", "spend", "feed", store.environment.online_identity, {})
        wanted = store.catalog.feature_set("spend").state_fingerprint
        kept = registry.begin_generation("shop", "spend", wanted, store.environment.online_identity, {})
        registry.beat("shop", f"generation {left.id}", "somebody")
        pass_time(root, hours=3)
        registry.beat("shop", f"generation {left.id}", "somebody")
        drop_unneeded(store)
        assert registry.generation(left.id).status == "building"
        pass_time(root, minutes=11)
        drop_unneeded(store)
        assert registry.generation(left.id).status == "retired"
        assert registry.generation(kept.id).status == "building"
        pass_time(root, hours=24)
        assert drop_unneeded(store) == [left.id]
        assert registry.generation(kept.id).status == "retired"


def pass_time(root: Path, **span: float) -> None:
    """Let what the registry noted have happened earlier."""
    micros = timedelta(**span) // timedelta(microseconds=1)
    with sqlite3.connect(root / ".featurestore" / "registry.db") as connection:
        for column in ("created_at", "retired_at", "promoted_at"):
            connection.execute(f"UPDATE generations SET {column} = {column} - {micros}")
        connection.execute(f"UPDATE heartbeats SET seen_at = seen_at - {micros}")
    connection.close()
