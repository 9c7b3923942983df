"""Push: durable when it answers, refused with a reason, servable when waited for."""

from __future__ import annotations

import json
import threading
import time
from unittest import mock

import pytest
from payments_project import SPECS, START, make_project, open_project, payment

from featurestore import FeatureStore, catalog
from featurestore.errors import OperatorError, PushInterrupted
from featurestore.streaming import drain

AT = START.replace(hour=23)


def test_events_are_durable_and_in_order(tmp_path):
    with open_project(tmp_path) as store:
        report = store.push("payments", [payment(i) for i in range(3)])
        assert [item["sequence"] for item in report.accepted] == [0, 1, 2]
        assert report.servable is None
        source = store.environment.stream(store.catalog.source("payments"))
        reader = source.reader(source.partitions()[0], None)
        batch = reader.poll(10, 1.0)
        assert batch is not None
        assert [json.loads(r.value)["id"] for r in batch.records] == ["p0", "p1", "p2"]
        reader.close()


def test_what_the_door_would_refuse_is_refused_with_its_reason(tmp_path):
    with open_project(tmp_path) as store:
        events = [
            payment(1),
            b"{no json",
            b"[1]",
            payment(2, amount="many"),
            payment(3, at=None),
            payment(4, at=AT.replace(year=2040)),
            payment(5) | {"id": None},
        ]
        report = store.push("payments", events)
        assert len(report.accepted) == 1
        assert [(item["index"], item["code"]) for item in report.refused] == [
            (1, "malformed"),
            (2, "malformed"),
            (3, "bad_type"),
            (4, "null_event_time"),
            (5, "future"),
            (6, "null_event_id"),
        ]


def test_what_has_just_been_applied_here_is_what_the_next_push_goes_by(tmp_path):
    with open_project(tmp_path) as store:
        assert store.push("payments", [payment(1, amount=1.5)]).refused == []
        make_project(tmp_path, SPECS.replace("amount: float64", "amount: int64"))
        store.apply()
        [refused] = store.push("payments", [payment(2, amount=1.5)]).refused
        assert refused["code"] == "bad_type"


def test_what_another_process_has_applied_is_heard_of_after_a_while(tmp_path):
    with open_project(tmp_path) as store, FeatureStore(tmp_path) as other:
        store.push("payments", [payment(1, amount=1.5)])
        make_project(tmp_path, SPECS.replace("amount: float64", "amount: int64"))
        other.apply()
        with mock.patch.object(catalog, "SERVING_SECONDS", 0.0):
            [refused] = store.push("payments", [payment(2, amount=1.5)]).refused
        assert refused["code"] == "bad_type"


def test_a_push_goes_on_while_the_registry_is_away(tmp_path):
    with open_project(tmp_path) as store:
        store.push("payments", [payment(1)])
        away = mock.patch.object(store.catalog, "source", side_effect=OperatorError("The registry is away."))
        with away, mock.patch.object(catalog, "SERVING_SECONDS", 0.0):
            assert len(store.push("payments", [payment(2)]).accepted) == 1


def test_with_wait_events_are_servable_although_no_worker_runs(tmp_path):
    with open_project(tmp_path) as store:
        report = store.push("payments", [payment(1, 5, amount=3.0), payment(2, 5, 1, amount=4.0)], wait=20)
        assert report.servable is True
        found = store.vector("risk").get_online([{"customer": 5}], as_of=AT).to_dicts()[0]
        assert (found["amount_sum_1d"], found["amount_count_1d"]) == (7.0, 2)


def test_with_wait_a_running_worker_applies_the_events(tmp_path):
    with open_project(tmp_path) as store:
        stop = threading.Event()
        counts: dict = {}
        worker = threading.Thread(
            target=lambda: counts.update(store.stream(engine="local", stop=stop)), name="worker"
        )
        worker.start()
        try:
            for i in range(5):
                assert store.push("payments", [payment(i, 5, i, amount=1.0)], wait=20).servable
            found = store.vector("risk").get_online([{"customer": 5}], as_of=AT).to_dicts()[0]
            assert found["amount_sum_1d"] == 5.0
        finally:
            stop.set()
            worker.join()
        assert store.verify(sample=50).is_equal


def test_an_event_pushed_twice_counts_once(tmp_path):
    with open_project(tmp_path) as store:
        store.push("payments", [payment(1, 5)], wait=20)
        store.push("payments", [payment(1, 5)], wait=20)
        found = store.vector("risk").get_online([{"customer": 5}], as_of=AT).to_dicts()[0]
        assert found["amount_count_1d"] == 1
        assert store.verify(sample=50).is_equal


def test_a_wait_that_is_over_applies_nothing_more(tmp_path):
    with open_project(tmp_path) as store:
        report = store.push("payments", [payment(i, 5) for i in range(3)], wait=0.0)
        assert (len(report.accepted), report.servable) == (3, False)
        assert drain(store, "payments", before=time.monotonic()).get("records", 0) == 0
        assert drain(store, "payments")["records"] == 3


def test_events_that_no_entity_or_step_takes_are_nothing_to_wait_for(tmp_path):
    specs = SPECS.replace("steps:\n", 'steps:\n  - filter: "amount >= 0"\n')
    make_project(tmp_path, specs)
    with FeatureStore(tmp_path) as store:
        store.apply()
        events = [payment(1, None), payment(2, amount=-1.0)]
        report = store.push("payments", events, wait=0.0)
        assert (len(report.accepted), report.servable) == (2, True)


def test_a_wait_for_what_nothing_serves_is_an_error_before_anything_is_sent(tmp_path):
    with open_project(tmp_path) as store:
        store.push("payments", [payment(1)], wait=20)
        make_project(tmp_path, SPECS.replace("windows: [1d]}", "windows: [2d]}"))
        store.apply()
        with pytest.raises(OperatorError, match="no online values") as error:
            store.push("payments", [payment(2)], wait=20)
        assert "featurestore materialize spend" in str(error.value)
        [end] = store.environment.stream(store.catalog.source("payments")).ends().values()
        assert end == 1
        assert store.push("payments", [payment(2)]).servable is None


@pytest.mark.redis
def test_an_online_store_that_is_gone_during_the_wait_fails_nothing_that_is_durable(tmp_path, start_server):
    server = start_server()
    config = {"project": "shop", "online": {"kind": "redis", "url": server.url}, "stream": {"kind": "log"}}
    make_project(tmp_path, config=json.dumps(config))

    def events():
        yield payment(1)
        server.kill()

    with FeatureStore(tmp_path) as store:
        store.apply()
        report = store.push("payments", events(), wait=1.0)
        assert (len(report.accepted), report.servable) == (1, False)
        server.start()


def test_a_part_of_which_only_some_partitions_took_their_events_is_told_by_index(tmp_path):
    make_project(tmp_path, SPECS.replace("{topic: payments}", "{topic: payments, options: {partitions: 2}}"))
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.push("payments", [payment(0), payment(1)])
        (tmp_path / ".featurestore" / "log" / "payments" / "1").rename(tmp_path / "gone")
        with pytest.raises(PushInterrupted) as error:
            store.push("payments", [payment(2), b"{", payment(4), payment(5), payment(6)])
        told = error.value
        assert [(item["index"], item["sequence"]) for item in told.report.accepted] in (
            [(0, 1), (3, 2)],  # the events take turns
            [(2, 1), (4, 2)],
        )
        assert [item["index"] for item in told.report.refused] == [1]
        stored = {item["index"] for item in told.report.accepted}
        assert told.unacknowledged == sorted({0, 2, 3, 4} - stored)
        assert told.unsent_from == 5


def test_events_of_an_avro_stream_are_pushed_as_its_messages(tmp_path):
    """What the stream's schema cannot carry is refused, though the source's schema admits it."""
    schema = {
        "type": "record",
        "name": "payment",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "customer", "type": ["null", "long"], "default": None},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "seen", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
            {"name": "amount", "type": "double"},
            {"name": "shop", "type": ["null", "string"]},
        ],
    }
    (tmp_path / "payment.avsc").write_text(json.dumps(schema))
    stream = "{topic: payments, format: avro, schema: payment.avsc}"
    make_project(tmp_path, SPECS.replace("{topic: payments}", stream))
    with FeatureStore(tmp_path) as store:
        store.apply()
        events = [
            payment(1, 5, amount=3.0),
            payment(2, 5, amount=None),
            json.dumps(payment(3, 5, amount=4.0), default=lambda at: at.isoformat()).encode(),
        ]
        report = store.push("payments", events, wait=20)
        assert [item["index"] for item in report.accepted] == [0, 2]
        assert [(item["index"], item["code"]) for item in report.refused] == [(1, "bad_type")]
        assert report.servable is True
        found = store.vector("risk").get_online([{"customer": 5}], as_of=AT).to_dicts()[0]
        assert (found["amount_sum_1d"], found["amount_count_1d"]) == (7.0, 2)
        assert store.verify(sample=20).is_equal
