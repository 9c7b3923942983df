"""What a push has acknowledged is there, once, at the place that it told: whoever is killed, and when."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import payments_project
import pytest
from brokers import KafkaBroker, StartKafka
from faults import pusher
from faults.conftest import Measured
from faults.scale import LONG

from featurestore import FeatureStore
from featurestore.errors import PushInterrupted

KILLS = 100 if LONG else 4
BEGUN = ("log", "kafka")


@pytest.fixture(params=BEGUN)
def stream_config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """The `stream:` of a project, of each kind in turn; the topic is `payments`."""
    if request.param == "log":
        return {"kind": "log"}
    broker: KafkaBroker = request.getfixturevalue("kafka")
    topic = broker.create_topic(partitions=3)
    return {**broker.config, "topic": topic}


def project(root: Path, stream: Mapping[str, Any], **source: Any) -> Path:
    """Write the payments project on that stream; return its folder."""
    config = dict(stream)
    half = {"topic": config.pop("topic", "payments"), **source}
    if config["kind"] == "log":
        half["options"] = {"partitions": 3}
    specs = payments_project.SPECS.replace("{topic: payments}", json.dumps(half))
    text = json.dumps({"project": "shop", "online": {"kind": "sqlite"}, "stream": config})
    return payments_project.make_project(root, specs, text)


def stored(store: FeatureStore) -> dict[tuple[str, int], str]:
    """Return the id of every record of the topic, by its place."""
    topic = store.environment.stream(store.catalog.source("payments"))
    found: dict[tuple[str, int], str] = {}
    for partition, end in topic.ends().items():
        reader = topic.reader(partition, None)
        reached = 0
        while reached < end:
            batch = reader.poll(10_000, 1.0)
            if batch is not None:
                reached = batch.next_sequence
                for record in batch.records:
                    assert record.value is not None
                    found[partition, record.sequence] = json.loads(record.value)["id"]
        reader.close()
    return found


def killed(root: Path, first: int, rng: random.Random) -> Iterator[tuple[int, str, int]]:
    """Run a pusher, kill it at a random moment, and yield what it had been told of."""
    process = subprocess.Popen(
        [sys.executable, pusher.__file__, str(root), str(first), str(rng.randrange(1000))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 20))]
        time.sleep(rng.uniform(0, 0.02))  # any moment of the next push
        assert process.poll() is None, "the pusher ended by itself"
    finally:
        process.kill()
    lines += process.stdout.readlines()
    process.stdout.close()
    process.wait()
    for line in lines:
        if line.endswith("\n"):  # else it was killed while it told
            yield from json.loads(line)


def test_what_was_acknowledged_before_a_kill_is_there_once(
    tmp_path: Path, stream_config: Mapping[str, Any], measured: Measured
) -> None:
    """Each pusher sends on from what the one before it knew of: what both sent counts once, by its id."""
    rng = random.Random(7)
    root = project(tmp_path, stream_config)
    with FeatureStore(root) as store:
        store.apply()
        acknowledged: dict[tuple[str, int], str] = {}
        first = 0
        for _ in range(KILLS):
            for number, partition, sequence in killed(root, first, rng):
                assert (partition, sequence) not in acknowledged
                acknowledged[partition, sequence] = f"p{number}"
                first = max(first, number + 1)
        found = stored(store)
        lost = {place: name for place, name in acknowledged.items() if found.get(place) != name}
        assert not lost
        told = Counter(acknowledged.values())
        assert max(told.values()) == 1
        sent_again = sum(count - 1 for count in Counter(found.values()).values())
        assert sent_again <= 700 * KILLS  # the push under way when it was killed
        store.drain()
        names = set(found.values())
        at = pusher.payment(max(int(name[1:]) for name in names))["at"]
        keys = [{"customer": customer} for customer in range(pusher.CUSTOMERS)]
        vectors = store.vector("risk").get_online(keys, as_of=at).to_dicts()
        counted = sum(vector["amount_count_1d"] for vector in vectors)
        assert counted == len(names)
        assert store.verify(sample=200).is_equal
    measured(
        "kill -9 of a pushing process",
        promised="every acknowledged event is stored, at the place told, and counts once",
        stream=stream_config["kind"],
        kills=KILLS,
        acknowledged=len(acknowledged),
        lost=len(lost),
        stored_again=sent_again,
        counted_twice=counted - len(names),
    )


def interrupted(store: FeatureStore, events: Iterator[Any]) -> PushInterrupted:
    """Return the error of a push that ends midway."""
    with pytest.raises(PushInterrupted) as caught:
        store.push("payments", events)
    return caught.value


def check_told(store: FeatureStore, error: PushInterrupted, sent: int) -> int:
    """Fail unless the error tells of each event what became of it; return how many are durable."""
    durable = [item["index"] for item in error.report.accepted]
    found = stored(store)
    assert {found.get((i["partition"], i["sequence"])) for i in error.report.accepted} == {
        f"p{index}" for index in durable
    }
    refused = [item["index"] for item in error.report.refused]
    assert sorted([*durable, *refused, *error.unacknowledged]) == list(range(error.unsent_from))
    assert error.unsent_from <= sent
    names = Counter(found.values())
    assert all(names[f"p{index}"] == 0 for index in range(error.unsent_from, sent))
    return len(durable)


def test_a_push_whose_broker_dies_midway_tells_what_is_durable_and_may_be_sent_again(
    tmp_path: Path, start_kafka: StartKafka, measured: Measured
) -> None:
    server = start_kafka()
    broker = KafkaBroker(server.address, is_mock=False)
    config = {**broker.config, "topic": broker.create_topic(partitions=3), "unavailable_after": "2s"}
    total = 40_000

    def events(kill_at: int | None) -> Iterator[Any]:
        for number in range(total):
            if number == kill_at:
                server.kill()
            yield pusher.payment(number) if number % 1000 != 999 else b"{no json"

    with FeatureStore(project(tmp_path, config)) as store:
        store.apply()
        error = interrupted(store, events(kill_at=23_456))
        server.start()
        durable = check_told(store, error, total)
        assert 0 < durable < total
        again = {*error.unacknowledged, *range(error.unsent_from, total)}
        rest = [pusher.payment(n) for n in sorted(again) if n % 1000 != 999]
        report = store.push("payments", rest)
        assert len(report.accepted) == len(rest)
        assert durable + len(rest) == total - total // 1000
        assert set(stored(store).values()) == {f"p{n}" for n in range(total) if n % 1000 != 999}
    measured(
        "broker killed in the middle of a push",
        promised="the error tells which events are durable; sending the others again loses none",
        events=total,
        durable=durable,
        unacknowledged=len(error.unacknowledged),
        lost=0,
    )


def test_a_push_whose_log_is_deleted_midway_tells_what_was_stored(tmp_path: Path) -> None:
    def events() -> Iterator[Any]:
        for number in range(20_000):
            if number == 7_000:
                folder.rename(tmp_path / "gone")
            yield pusher.payment(number)

    with FeatureStore(project(tmp_path, {"kind": "log"})) as store:
        store.apply()
        store.push("payments", [pusher.payment(0) | {"id": "before"}])
        [folder] = (tmp_path / ".featurestore").glob("**/payments")
        error = interrupted(store, events())
        assert "deleted or recreated" in str(error)
        assert [item["index"] for item in error.report.accepted] == list(range(5_000))
        assert error.unacknowledged == list(range(5_000, 10_000))
        assert error.unsent_from == 10_000
        (tmp_path / "gone").rename(folder)
        assert check_told(store, error, 20_000) == 5_000


def test_what_the_broker_refuses_for_its_size_is_refused_alone(tmp_path: Path, kafka: KafkaBroker) -> None:
    config = {**kafka.config, "topic": kafka.create_topic(partitions=3)}
    root = project(tmp_path, config)
    specs = (root / "specs.yaml").read_text().replace("event_id: id\n", "event_id: id\nmax_bytes: 8000000\n")
    (root / "specs.yaml").write_text(specs)
    with FeatureStore(root) as store:
        store.apply()
        events = [pusher.payment(0), pusher.payment(1) | {"shop": "x" * 3_000_000}, b"{", pusher.payment(3)]
        report = store.push("payments", events, wait=20.0)
        assert [item["index"] for item in report.accepted] == [0, 3]
        assert [(item["index"], item["code"]) for item in report.refused] == [
            (1, "refused_by_broker"),
            (2, "malformed"),
        ]
        assert report.servable is True
        assert sorted(stored(store).values()) == ["p0", "p3"]
