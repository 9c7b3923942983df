"""`POST /v1/online-features`: what comes back for what was asked, in JSON and in Arrow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal

import pyarrow as pa
import pytest
from served import QUARTER_PAST, QUARTER_TO, Service, make_project, running

from featurestore import FeatureStore
from featurestore.instants import parse_instant

COLUMNS = ["amount", "units", "price", "day", "seen", "raw", "codes", "days", "amount_sum_1h", "count_1h"]
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with make_project(tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture(scope="module")
def service(store: FeatureStore) -> Iterator[Service]:
    with running(store) as started:
        yield started


def test_an_answer_is_this_to_the_byte(service: Service) -> None:
    answer = service.online({"vector": "spending-all", "rows": [{"customer": "C1"}], "as_of": QUARTER_PAST})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert re.sub("@[0-9a-f]+", "@…", answer.body.decode()) == (
        '{"vector":"spending-all@…","as_of":"2024-11-20T10:15:00.000000Z",'
        '"columns":["amount","units","price","day","seen","raw","codes","days","amount_sum_1h","count_1h"],'
        '"rows":[[1.5,7,"1.20","2024-01-02","2024-11-20T10:00:00.000000Z","AP8=",[1,null],["2024-01-02"],1.5,1]],'
        '"status":[["PRESENT","PRESENT","PRESENT","PRESENT","PRESENT","PRESENT","PRESENT","PRESENT",'
        '"PRESENT","PRESENT"]]}'
    )


def test_what_json_cannot_say_is_null_or_text(service: Service) -> None:
    """NaN and infinities are null though PRESENT; whole numbers past 2^53 are text, 2^53 is not past it."""
    rows = [{"customer": "C1"}, {"customer": "C2"}]
    answer = service.online({"vector": "spending-all", "rows": rows, "as_of": QUARTER_TO}).json()
    assert answer["rows"] == [
        [
            None,
            "1152921504606846976",
            None,
            None,
            None,
            None,
            ["1152921504606846976", 2**53],
            [None],
            None,
            2,
        ],
        [None, -(2**53), "-0.05", "1969-12-31", None, "", [], [], None, 1],
    ]
    assert [row[0] for row in answer["status"]] == ["PRESENT", "PRESENT"]
    assert [row[2] for row in answer["status"]] == ["NULL_VALUE", "PRESENT"]
    assert [row[8] for row in answer["status"]] == ["PRESENT", "PRESENT"]


def test_rows_come_in_the_order_asked_for_with_statuses(service: Service) -> None:
    rows = [{"customer": "nobody"}, {"customer": "C1"}, {"customer": None}]
    body = {"features": ["spending.count_1h", "spending.units"], "rows": rows, "as_of": QUARTER_PAST}
    answer = service.online(body).json()
    assert answer["columns"] == ["count_1h", "units"]
    assert answer["rows"] == [[0, None], [1, 7], [0, None]]
    assert answer["status"] == [
        ["PRESENT", "NOT_FOUND"],
        ["PRESENT", "PRESENT"],
        ["PRESENT", "NOT_FOUND"],
    ]
    assert "errors" not in answer


def test_a_bad_row_fails_alone_and_says_why(service: Service) -> None:
    rows = [{"customer": 5}, {"customer": "C1"}, {}, {"custmer": "C1"}]
    body = {"features": ["spending.units"], "rows": rows, "as_of": QUARTER_PAST}
    answer = service.online(body).json()
    assert answer["rows"] == [[None], [7], [None], [None]]
    assert answer["status"] == [["INVALID"], ["PRESENT"], ["INVALID"], ["INVALID"]]
    first, second, third, fourth = answer["errors"]
    assert "customer" in first
    assert second is None
    assert third == "The row lacks customer."
    assert "Did you mean 'customer'?" in fourth


def test_an_input_that_does_not_fit_is_named(service: Service) -> None:
    raw = {"id": "new", "customer": "C1", "at": "2024-11-20T10:00:00Z", "amount": 1.5}
    rows = [{**raw, "channel": 5}, {**raw, "channel": "web"}]
    answer = service.online({"vector": "scored", "rows": rows}).json()
    assert answer["errors"] == ["channel: 5 is no string", None]


def test_each_row_may_have_its_own_instant(service: Service) -> None:
    body = {
        "features": ["spending.units", "spending.count_1h"],
        "rows": [{"customer": "C1"}] * 3,
        "as_of": ["2024-11-20T09:59:59.999999Z", "2024-11-20T11:15:00+01:00", QUARTER_TO],
    }
    answer = service.online(body).json()
    assert answer["as_of"] == ["2024-11-20T09:59:59.999999Z", QUARTER_PAST, QUARTER_TO]
    assert answer["rows"] == [[None, 0], [7, 1], ["1152921504606846976", 2]]


def test_instants_that_are_the_same_are_one_text(service: Service) -> None:
    body = {
        "features": ["spending.units"],
        "rows": [{"customer": "C1"}] * 2,
        "as_of": [QUARTER_PAST, "2024-11-20T11:15:00+01:00"],
    }
    assert service.online(body).json()["as_of"] == QUARTER_PAST


def test_without_an_instant_all_rows_share_one_now(service: Service) -> None:
    answer = service.online(
        {"vector": "spending-all", "rows": [{"customer": "C1"}, {"customer": "x"}]}
    ).json()
    assert isinstance(answer["as_of"], str)
    assert answer["rows"][0][9] == 0  # long ago
    assert answer["rows"][0][1] == "1152921504606846976"


def test_no_rows_are_an_answer_without_rows(service: Service) -> None:
    answer = service.online({"vector": "spending-all", "rows": []})
    assert answer.status == 200
    assert answer.json()["rows"] == []
    assert answer.json()["columns"] == COLUMNS


def test_a_base_row_brings_its_own_instant(service: Service) -> None:
    """The request carries the raw rows: their times differ, so `as_of` is a list."""
    rows = [
        {"id": "n1", "customer": "C1", "at": QUARTER_PAST, "amount": 3, "channel": "web"},
        {"id": "n2", "customer": "C1", "at": "2024-11-20T11:00:00Z", "amount": 4.5, "channel": None},
    ]
    answer = service.online({"vector": "scored", "rows": rows}).json()
    assert answer["as_of"] == [QUARTER_PAST, "2024-11-20T11:00:00.000000Z"]
    assert answer["columns"] == ["amount", "count_1h"]
    assert answer["rows"] == [[3.0, 2], [4.5, 2]]


def test_arrow_is_exact(service: Service) -> None:
    rows = [{"customer": "C1"}, {"customer": "C2"}, {"customer": 5}]
    answer = service.online({"vector": "spending-all", "rows": rows, "as_of": QUARTER_TO}, Accept=ARROW)
    assert answer.status == 200
    assert answer.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table.column_names == [*COLUMNS, "__status", "__as_of", "__error"]
    assert [str(kind) for kind in table.schema.types[:10]] == [
        "double",
        "int64",
        "decimal128(10, 2)",
        "date32[day]",
        "timestamp[us, tz=UTC]",
        "binary",
        "list<item: int64>",
        "list<item: date32[day]>",
        "double",
        "int64",
    ]
    assert math.isnan(table["amount"][0].as_py())
    assert table["amount"][1].as_py() == math.inf
    assert table["units"].to_pylist() == [2**60, -(2**53), None]
    assert table["price"].to_pylist() == [None, Decimal("-0.05"), None]
    assert table["codes"].to_pylist() == [[2**60, 2**53], [], None]
    assert table["__status"].to_pylist()[2] == ["INVALID"] * 10
    assert table["__as_of"].cast(pa.int64()).to_pylist() == [parse_instant(QUARTER_TO)] * 3
    assert [error is None for error in table["__error"].to_pylist()] == [True, True, False]


def test_arrow_equals_json_and_the_store_at_hand(service: Service, store: FeatureStore) -> None:
    rows = [{"customer": "C1"}, {"customer": "C2"}, {"customer": "nobody"}]
    asked = {"vector": "spending-all", "rows": rows, "as_of": QUARTER_PAST}
    table = pa.ipc.open_stream(service.online(asked, Accept=ARROW).body).read_all()
    here = store.get_online_features("spending-all", rows, as_of=QUARTER_PAST)
    assert table.select(COLUMNS).equals(here.to_arrow())
    answer = service.online(asked).json()
    assert table["__status"].to_pylist() == answer["status"] == here.status
    for name in ("amount", "units", "codes", "count_1h"):  # what both can say
        place = COLUMNS.index(name)
        said = [None if value == math.inf else value for value in table[name].to_pylist()]
        assert said == [row[place] for row in answer["rows"]]


def test_a_moved_tag_and_a_fingerprint_name_versions(service: Service, store: FeatureStore) -> None:
    version = service.online({"vector": "spending-all", "rows": []}).json()["vector"]
    assert service.online({"vector": version, "rows": []}).json()["vector"] == version
    store.tag("FeatureVector", version, "prod")
    assert service.online({"vector": "spending-all@prod", "rows": []}).json()["vector"] == version
