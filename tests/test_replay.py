"""A replayed letter comes back once, whatever crashes or runs twice; what is refused again stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from brokers import KafkaBroker
from parity import write_project

from featurestore import FeatureStore, dead_letters, replaying, tables
from featurestore.cli import main
from featurestore.errors import UnknownName
from featurestore.instants import HOUR, format_instant, now, parse_instant

SPECS = """
kind: Entity
name: customer
---
kind: Source
name: clicks
event_time: at
max_bytes: 5000
schema: {customer: string, at: timestamp, amount: int64}
stream: {topic: clicks}
---
kind: Source
name: orders
event_time: at
ingest_time: known
cutover: 2100-01-01T00:00:00Z
schema: {customer: string, at: timestamp, known: timestamp, amount: float64}
batch: {kind: csv, path: "data/*.csv"}
stream: {topic: orders}
---
kind: FeatureSet
name: clicked
entities: [customer]
source: clicks
history: all
steps: [{derive: {doubled: "amount * 2"}}]
aggregations: [{column: amount, functions: [sum, count], windows: [1d]}]
---
kind: FeatureSet
name: counted
entities: [customer]
source: clicks
history: all
steps: [{select: [amount]}]
aggregations: [{column: amount, functions: [count], windows: [1d]}]
---
kind: FeatureSet
name: ordered
entities: [customer]
source: orders
history: all
aggregations: [{column: amount, functions: [sum, count], windows: [1d]}]
---
kind: FeatureSet
name: priced
entities: [customer]
source: orders
online: false
steps: [{validate: {condition: "amount is null or amount > 0", name: positive}}]
---
kind: FeatureVector
name: seen
features: [clicked.amount_count_1d as clicked, counted.amount_count_1d as counted, clicked.amount_sum_1d]
---
kind: FeatureVector
name: bought
features: [ordered.*]
"""

AT = format_instant(now() - HOUR)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return write_project(tmp_path, SPECS, "project: replays")


def declare(store: FeatureStore, before: str, after: str) -> None:
    """Change the specs and apply them."""
    specs = store.root / "specs.yaml"
    text = specs.read_text()
    assert before in text
    specs.write_text(text.replace(before, after))
    store.apply()


def send(store: FeatureStore, *values: Any) -> None:
    topic = store.environment.stream(store.catalog.source("clicks"))
    topic.append([(None, v if isinstance(v, bytes) else json.dumps(v).encode()) for v in values])


def click(amount: Any = 1, **given: Any) -> dict[str, Any]:
    return {"customer": "a", "at": AT, "amount": amount} | given


def seen(store: FeatureStore) -> dict[str, Any]:
    store.drain()
    for name in ("clicked", "counted"):
        store.materialize(name)  # of a new version; of an old one it changes nothing
    return dict(store.get_online_features("seen", [{"customer": "a"}]).to_dicts()[0])


def offline(store: FeatureStore, name: str) -> list[Any]:
    table = store.environment.rows_table(store.catalog.feature_set(name))
    snapshot = table.snapshot()
    return [] if snapshot is None else sorted(table.lazy(snapshot).collect()["amount"].to_list())


def test_an_event_that_the_source_admits_now_is_appended_once(root: Path) -> None:
    """Its max_bytes was raised: the letter holds the first 4 KiB, the rest comes from the topic."""
    with FeatureStore(root) as store:
        store.apply()
        large = click(2, padding="x" * 6000)
        send(store, click(1), large, b"none")
        store.drain()
        assert store.replay().refused == {"malformed": 1, "too_large": 1}
        declare(store, "max_bytes: 5000", "max_bytes: 9000")
        dry = store.replay(dry_run=True)
        assert (dry.appended, dry.refused) == (1, {"malformed": 1})
        assert store.replay().appended == 1
        again = store.replay()
        assert (again.appended, again.replayed, again.refused) == (0, 1, {"malformed": 1})
        assert seen(store)["clicked"] == 2
        assert (offline(store, "clicked"), offline(store, "counted")) == ([1, 2], [1, 2])
        states = {letter["code"]: letter["replayed"] for letter in store.dead_letters()}
        assert states["malformed"] is None
        assert now() - parse_instant(states["too_large"]) < HOUR
        assert {row["code"]: row["replayed"] for row in store.count_dead_letters()} == {
            "malformed": 0,
            "too_large": 1,
        }


def test_bytes_that_were_cut_and_are_gone_are_said_to_be_lost(root: Path) -> None:
    with FeatureStore(root) as store:
        store.apply()
        send(store, click(2, padding="x" * 6000))
        store.drain()
        declare(store, "max_bytes: 5000", "max_bytes: 9000")
    shutil.rmtree(root / ".featurestore" / "log" / "clicks")
    with FeatureStore(root) as store:
        report = store.replay()
        assert (report.lost, report.appended) == (1, 0)
        assert "no longer has the record" in report.told[0]["message"]


def test_an_event_from_the_future_is_one_of_today_later(root: Path) -> None:
    """`future:` is judged against when it becomes known, which is at the replay."""
    with FeatureStore(root) as store:
        store.apply()
        send(store, click(3, at=format_instant(now() + 6 * 60 * 1_000_000)))
        store.drain()
        assert store.replay().refused == {"future": 1}
        declare(store, "max_bytes: 5000", "max_bytes: 5000\nfuture: 1d")
        assert store.replay(code="future").appended == 1
        store.drain()
        assert offline(store, "clicked") == [3]


def test_letters_are_chosen_by_source_code_instant_and_id(root: Path) -> None:
    with FeatureStore(root) as store:
        store.apply()
        send(store, click("1"), click(True))
        store.drain()
        first, second = store.dead_letters()
        assert store.replay(source="orders").refused == {}
        assert store.replay(code="malformed").refused == {}
        assert store.replay(since=now() + HOUR).refused == {}
        assert store.replay(ids=[first["id"]]).refused == {"bad_type": 1}
        assert [told["id"] for told in store.replay(ids=[second["id"]]).told] == [second["id"]]
        with pytest.raises(UnknownName, match="'0badcafe' of what was asked for"):
            store.replay(ids=[first["id"], "0badcafe"])
        assert store.dead_letters(limit=1) == [first]
        assert store.dead_letters(feature_set="clicked") == []


def test_a_letter_of_a_step_is_the_sets_own_and_a_new_version_has_the_row(root: Path) -> None:
    """The other set had it all along. The new version reads it from landing; nothing is sent twice."""
    with FeatureStore(root) as store:
        store.apply()
        send(store, click(2**62), click(1))
        store.drain()
        [letter] = store.dead_letters()
        assert (letter["feature_set"], letter["code"]) == ("clicked", "overflow")
        assert store.replay().refused == {"overflow": 1}
        declare(store, '"amount * 2"', '"amount - 2"')
        assert store.replay().waiting == 1
        store.drain()
        assert store.replay().settled == 1
        assert store.replay().replayed == 1
        values = seen(store)
        assert (values["clicked"], values["counted"]) == (2, 2)
        assert offline(store, "clicked") == offline(store, "counted") == [1, 2**62]


def test_a_letter_of_a_step_that_landing_has_lost_is_ingested_into_the_set_alone(root: Path) -> None:
    with FeatureStore(root) as store:
        store.apply()
        send(store, click(2**62), click(1))
        store.drain()
        landing = store.environment.offline.table(tables.landing_table(store.catalog.source("clicks")))
        landing.forget(now() + 48 * HOUR)
        declare(store, '"amount * 2"', '"amount - 2"')
        store.drain()
        assert offline(store, "clicked") == []
        assert store.replay().ingested == 1
        assert store.replay().replayed == 1
        values = seen(store)
        assert (values["clicked"], values["counted"]) == (1, 2)
        assert offline(store, "clicked") == [2**62]
        assert offline(store, "counted") == [1, 2**62]


def test_rows_of_a_batch_input_come_back_once(root: Path) -> None:
    """One was stamped further ahead than `future:` allowed; text of a CSV file is read as the file's is."""
    ahead = format_instant(parse_instant(AT) + HOUR)
    with FeatureStore(root) as store:
        store.apply()
        rows = f"a,{AT},{AT},1.5\na,{ahead},{AT},2.5\na,{AT},{AT},many\n"
        (root / "data" / "one.csv").write_text(f"customer,at,known,amount\n{rows}")
        store.ingest("orders")
        assert store.replay().refused == {"bad_value": 1, "future": 1}
        declare(store, "ingest_time: known", "ingest_time: known\nfuture: 1d")
        assert store.replay(dry_run=True).ingested == 1
        assert store.replay().ingested == 1
        assert (store.replay().replayed, store.replay().refused) == (1, {"bad_value": 1})
        assert offline(store, "ordered") == [1.5, 2.5]
        assert offline(store, "priced") == [1.5, 2.5]
        values = store.get_online_features("bought", [{"customer": "a"}]).to_dicts()[0]
        assert (values["amount_count_1d"], values["amount_sum_1d"]) == (2, 4.0)
        assert store.ingest("orders")[0].rows_written == 0


def test_a_letter_of_a_step_of_a_batch_input_comes_with_the_input(root: Path) -> None:
    """A new version reads the input itself; then there is nothing to send."""
    with FeatureStore(root) as store:
        store.apply()
        (root / "data" / "one.csv").write_text(f"customer,at,known,amount\na,{AT},{AT},-3\n")
        store.ingest("orders")
        [letter] = store.dead_letters()
        assert (letter["code"], letter["feature_set"]) == ("validate", "priced")
        assert store.replay().refused == {"validate": 1}
        declare(store, "amount > 0", "amount > -5")
        report = store.replay()
        assert (report.waiting, report.ingested) == (1, 0)
        assert "featurestore ingest" in report.told[0]["message"]
        store.ingest("orders")
        assert (store.replay().settled, store.replay().replayed) == (1, 1)
        assert offline(store, "priced") == offline(store, "ordered") == [-3.0]


def test_a_replay_that_is_killed_or_runs_twice_sends_no_letter_twice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at random moments, two at once, until all are sent; there is no event_id to help."""
    count = 300
    with FeatureStore(root) as store:
        store.apply()
        send(store, *(click(n, padding="x" * 5000) for n in range(count)))
        store.drain()
        declare(store, "max_bytes: 5000", "max_bytes: 9000")
    command = [sys.executable, __file__, str(root)]
    for number in range(3):
        running = [subprocess.Popen(command) for _ in range(2)]
        with FeatureStore(root) as store:
            notes = store.environment.offline.table(tables.REPLAYS)
            deadline = time.monotonic() + 60
            while (found := notes.snapshot()) is None or notes.rows(found) < 80 * number + 20:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    monkeypatch.setattr(replaying, "_TAKEN_OVER", 0)  # those who held letters are dead
    with FeatureStore(root) as store:
        assert store.replay().appended < count  # some were sent by those who were killed
        assert store.replay().replayed == count
        store.drain()
        assert offline(store, "clicked") == list(range(count))
        assert store.replay().replayed == count


@pytest.mark.parametrize("appended", [True, False])
def test_a_run_that_died_is_taken_over_where_it_stood(
    appended: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had noted what it would send, and had sent it or not; only the topic tells which."""
    with FeatureStore(root) as store:
        store.apply()
        send(store, click(7, padding="x" * 5000), click(8, padding="y" * 5000))
        store.drain()
        declare(store, "max_bytes: 5000", "max_bytes: 9000")
        [letters] = dead_letters.read(store.environment, dead_letters.Chosen(), ())
        topic = store.environment.stream(store.catalog.source("clicks"))
        died = replaying._Replays(store, replaying.ReplayReport(), False)
        assert died._claim(letters, topic.ends()) == letters
        if appended:
            topic.append([(None, json.dumps(click(7, padding="x" * 5000)).encode())])
        assert {letter["replayed"] for letter in store.dead_letters()} == {"sending"}
        assert (store.replay().busy, store.replay().appended) == (2, 0)
        monkeypatch.setattr(replaying, "_TAKEN_OVER", 0)
        report = store.replay()
        assert (report.appended, report.settled) == ((1, 1) if appended else (2, 0))
        assert store.replay().replayed == 2
        store.drain()
        assert offline(store, "clicked") == [7, 8]


@pytest.mark.kafka
def test_over_kafka_too(kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that were cut come from their offset; what a dead run had appended is found behind its ends."""
    specs = SPECS
    for name in ("clicks", "orders"):
        specs = specs.replace(f"topic: {name}", f"topic: {kafka_broker.create_topic()}")
    config = json.dumps({"project": "replays", "stream": kafka_broker.config})
    (tmp_path / "data").mkdir()
    with FeatureStore(write_project(tmp_path, specs, config)) as store:
        store.apply()
        send(store, click(1), *(click(n, padding="x" * 6000) for n in (2, 3)), b"none")
        store.drain()
        declare(store, "max_bytes: 5000", "max_bytes: 9000")
        letters = [
            letter
            for part in dead_letters.read(store.environment, dead_letters.Chosen(code="too_large"), ())
            for letter in part
        ]
        topic = store.environment.stream(store.catalog.source("clicks"))
        replaying._Replays(store, replaying.ReplayReport(), False)._claim(letters, topic.ends())
        send(store, click(3, padding="x" * 6000))
        monkeypatch.setattr(replaying, "_TAKEN_OVER", 0)
        report = store.replay()
        assert (report.appended, report.settled, report.refused) == (1, 1, {"malformed": 1})
        assert store.replay().replayed == 2
        store.drain()
        assert offline(store, "clicked") == offline(store, "counted") == [1, 2, 3]


def test_the_command_lists_counts_and_replays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FeatureStore(root) as store:
        store.apply()
        send(store, click("1"), b"\xff")
        store.drain()
    run = ["-C", str(root), "dead-letters"]
    assert main([*run, "list", "--json"]) == 0
    letters = json.loads(capsys.readouterr().out)["dead_letters"]
    assert sorted((letter["code"], letter["text"]) for letter in letters) == [
        ("bad_type", json.dumps(click("1"))),
        ("malformed", None),
    ]
    assert main([*run, "list", "--code", "bad_type"]) == 0
    assert "bad_type" in capsys.readouterr().out
    assert main([*run, "list", "--summary"]) == 0
    assert "bad_type" in capsys.readouterr().out
    assert main([*run, "replay", "--id", letters[0]["id"], "--dry-run"]) == 0
    assert letters[0]["id"] in capsys.readouterr().err
    assert main([*run, "replay", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["replay"]["refused"] == {"bad_type": 1, "malformed": 1}
    assert main([*run, "replay", "--since", "yesterday"]) == 1
    assert "--since" in capsys.readouterr().err


if __name__ == "__main__":
    with FeatureStore(sys.argv[1]) as opened:
        dead_letters._READ_ROWS = 20  # so that a kill falls between
        opened.replay()
    os._exit(0)
