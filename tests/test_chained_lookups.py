"""A key that another look-up finds: one more round trip per level, and no entity where it is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from served import Service, running
from visits_project import asked, at, open_project, opening

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.contracts import EntityRead, EntityWrite, OnlineStore
from featurestore.keys import encode_key, shard_of
from featurestore.online.reader import VectorReader
from featurestore.types import INT64


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with open_project(tmp_path_factory.mktemp("chain") / "project") as made:
        yield made


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    with running(store) as started:
        yield started


class Counting:
    """An online store whose round trips are counted, with how many entities each read."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self.trips: list[int] = []

    def read_many(self, requests: Sequence[tuple[str, Sequence[EntityRead]]]) -> Any:
        self.trips.append(sum(len(reads) for _, reads in requests))
        return self._store.read_many(requests)

    async def read_many_async(self, requests: Sequence[tuple[str, Sequence[EntityRead]]]) -> Any:
        self.trips.append(sum(len(reads) for _, reads in requests))
        return await self._store.read_many_async(requests)


def counting(store: FeatureStore, name: str) -> tuple[VectorReader, Counting]:
    counted = Counting(store.environment.online)
    return VectorReader(store.catalog.vector(name), counted, store.catalog.serving), counted  # type: ignore[arg-type]


CUSTOMERS = ["ann", "bob", "cid", "dan", "eve", "nobody", None]


def test_one_round_trip_per_level_however_many_rows(store: FeatureStore) -> None:
    as_of = int(at(7).timestamp() * 1_000_000)
    reader, counted = counting(store, "chain")
    rows = [{"customer": customer} for customer in CUSTOMERS]
    result = reader.read(rows, as_of=as_of)
    # the customers but the null one; the merchants of ann, bob and eve; the cities of ann's and eve's
    assert counted.trips == [6, 3, 2]
    again = asyncio.run(reader.read_async(rows, as_of=as_of))
    assert counted.trips == [6, 3, 2] * 2
    assert (again.rows, again.status) == (result.rows, result.status)
    reader, counted = counting(store, "plain")
    reader.read([{"customer": "ann", "shop": 7}] * 3, as_of=as_of)
    assert counted.trips == [6]


def test_values_and_statuses_of_the_entity_that_is_found_or_of_none(store: FeatureStore) -> None:
    result = store.get_online_features("chain", [{"customer": c} for c in CUSTOMERS], as_of=at(7))
    there, none = "PRESENT", "NOT_FOUND"
    assert list(zip(result.rows, result.status, strict=True)) == [
        ([15.0, "x", 5, 2, 8], [there] * 5),
        ([1.0, "nowhere", None, 0, 0], [there, none, none, there, there]),
        ([1.0, "nowhere", None, 0, 0], [there, none, none, there, there]),
        ([1.0, "nowhere", None, 0, 0], [there, none, none, there, there]),
        ([-3.0, "x", 3, 1, 8], [there] * 5),
        ([0.0, "nowhere", None, 0, 0], [there, none, none, there, there]),
        ([0.0, "nowhere", None, 0, 0], [there, none, none, there, there]),
    ]
    assert result.errors == [None] * 7


def test_the_key_is_of_the_same_instant_and_its_entity_may_be_past_its_ttl(store: FeatureStore) -> None:
    instants = [at(1) - (at(1) - at(0)) / 2, at(1), at(5), at(6), at(70)]
    result = store.get_online_features("chain", [{"customer": "ann"}] * 5, as_of=instants)
    assert [row[1] for row in result.rows] == ["nowhere", "x", "y", "x", "nowhere"]
    assert [row[1] for row in result.status] == [
        "NOT_FOUND",
        "PRESENT",
        "PRESENT",
        "PRESENT",
        "OUTSIDE_TTL",
    ]
    offline = store.get_offline_features(
        "chain", asked(*(("ann", (t - at(0)).total_seconds() / 3600) for t in instants))
    )
    assert [list(row) for row in offline.to_polars().select(offline.features).rows()] == result.rows


def test_a_new_row_of_the_found_entity_shows_as_soon_as_it_is_applied(tmp_path: Path) -> None:
    with open_project(tmp_path / "p") as store:
        store.push("openings", [opening(9, 7, "w", 3)], wait=20)
        [row] = store.get_online_features("chain", [{"customer": "eve"}], as_of=at(3)).rows
        assert row == [-3.0, "w", 1, 2, 1]
        found = store.verify("chain", sample=100)
        assert found.is_equal, found.differences
        assert found.compared > 500


def test_verify_finds_state_that_a_found_key_leads_to_and_is_lost(tmp_path: Path) -> None:
    with open_project(tmp_path / "p") as store:
        assert store.verify("chain", sample=100).is_equal
        plan = store.catalog.feature_set("merchants")
        generation = store.catalog.serving(plan)
        store.push(
            "payments", [{"id": "n", "customer": "ann", "merchant": 7, "amount": 1, "at": now()}], wait=20
        )
        store.push("openings", [opening(9, 7, "w", 0) | {"at": now()}], wait=20)
        assert store.verify("chain", sample=100).is_equal
        key = encode_key([7], [INT64])
        [state] = store.environment.online.shards(generation, [shard_of(key)])
        lost = [EntityWrite(key, {b"s": None}, None)]
        write = (shard_of(key), state.revision, b"another", state.positions, lost)
        assert store.environment.online.write(generation, [write]) == [True]
        found = store.verify("chain", sample=100)
        assert {d.feature for d in found.differences} >= {"city", "rating", "rating_count_1d"}
        assert {d.row["customer"] for d in found.differences} == {"ann", "eve"}  # who paid merchant 7
        rating = next(d for d in found.differences if d.feature == "rating")
        assert (rating.offline, rating.online) == (1, None)
        assert rating.rows[-1]["city"] == "w"  # the rows of the merchant that was found


def now() -> Any:
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) - timedelta(minutes=5)


def test_the_service_and_its_client_ask_for_the_request_keys_alone(
    store: FeatureStore, service: Service
) -> None:
    body = {"vector": "chain", "rows": [{"customer": "ann"}], "as_of": at(7).isoformat()}
    answer = service.online(body).json()
    assert answer["columns"] == ["amount_sum_1d", "city", "rating", "rating_count_1d", "city_rating_sum_7d"]
    assert answer["rows"] == [[15.0, "x", 5, 2, 8]]
    described = {v["name"]: v for v in service.call("GET", "/v1/feature-vectors").json()["feature_vectors"]}
    assert described["chain"]["keys"] == ["customer"]
    assert described["plain"]["keys"] == ["customer", "shop"]
    with FeatureStore.connect(service.url) as remote:
        there = remote.get_online_features("chain", [{"customer": c} for c in CUSTOMERS], as_of=at(7))
    here = store.get_online_features("chain", [{"customer": c} for c in CUSTOMERS], as_of=at(7))
    assert (there.rows, there.status) == (here.rows, here.status)


def test_the_command_line_reads_it_by_the_request_keys(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ["--project", str(store.root), "--json"]
    assert main(["get-online", "chain", "customer=ann", "--as-of", at(7).isoformat(), *project]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [[15.0, "x", 5, 2, 8]]
    assert main(["verify", "chain", "--sample", "50", *project]) == 0
