"""Row hashes, event ids and order ranks: stable for ever, and the same one by one and by column."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.errors import SpecError
from featurestore.keys import encode_key
from featurestore.rows import hashing, identity
from featurestore.types import DataType, Field

M = 2**64 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def slow_mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & M
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M
    return x ^ (x >> 31)


def slow_word(value: Any, kind: DataType) -> int:
    if kind.name in ("float32", "float64"):
        if value != value:
            return 0x7FF8000000000000
        return struct.unpack("<Q", struct.pack("<d", 0.0 if value == 0 else value))[0]
    if kind.name == "list":
        return slow_fold(slow_mix(0x243F6A8885A308D3 ^ len(value)), [(item, kind.item) for item in value])
    if isinstance(value, (str, bytes)):
        data = value.encode() if isinstance(value, str) else value
        h = slow_mix(0x243F6A8885A308D3 ^ len(data))
        if len(data) > 64:
            return slow_mix(h ^ xxhash.xxh3_64_intdigest(data))
        while data:
            h = slow_mix(h ^ struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0])
            data = data[8:]
        return h
    if isinstance(value, Decimal):
        low, high = struct.unpack("<QQ", int(value.scaleb(kind.scale)).to_bytes(16, "little", signed=True))
        return slow_mix(slow_mix(0x243F6A8885A308D3 ^ low) ^ high)
    if isinstance(value, datetime):
        value = (value - EPOCH) // timedelta(microseconds=1)
    elif isinstance(value, date):
        value = (value - date(1970, 1, 1)).days
    return int(value) & M


def slow_fold(h: int, values: list[tuple[Any, Any]]) -> int:
    for value, kind in values:
        h = slow_mix((h + 0x13198A2E03707344) & M) if value is None else slow_mix(h ^ slow_word(value, kind))
    return h


def slow_row_hash(row: dict[str, Any], schema: list[Field]) -> int:
    h = slow_fold(0x243F6A8885A308D3, [(row[f.name], f.type) for f in sorted(schema, key=lambda f: f.name)])
    return h - 2**64 if h >= 2**63 else h


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-128, 127),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "bool": st.booleans(),
    "string": st.text(max_size=80),
    "binary": st.binary(max_size=80),
    "date": st.dates(),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
    "decimal(20,3)": st.decimals(-(10**16), 10**16, allow_nan=False, places=3),
    "list<string>": st.lists(st.none() | st.text(max_size=20), max_size=4),
    "list<int64>": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Field], list[dict[str, Any]]]:
    names = draw(st.lists(st.sampled_from("abcdeXY_"), min_size=1, max_size=4, unique=True))
    schema = [Field(name, DataType.parse(draw(st.sampled_from(sorted(VALUES))))) for name in names]
    row = st.fixed_dictionaries({f.name: st.none() | VALUES[str(f.type)] for f in schema})
    return schema, draw(st.lists(row, min_size=1, max_size=6))


def frame_of(schema: list[Field], rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        [pl.Series(f.name, [row[f.name] for row in rows], dtype=f.type.polars()) for f in schema]
    )


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_columns_hash_as_their_rows_do(table: tuple[list[Field], list[dict[str, Any]]]) -> None:
    schema, rows = table
    frame = frame_of(schema, rows)
    expected = [slow_row_hash(row, schema) for row in rows]
    assert hashing.row_hash(frame, schema).to_list() == expected
    plain = [{name: _row_value(value) for name, value in row.items()} for row in frame.iter_rows(named=True)]
    assert [identity.row_hash(row, schema) for row in plain] == expected


def _row_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1)
    return (value - date(1970, 1, 1)).days if isinstance(value, date) else value


def test_the_hash_of_a_slice_is_the_slice_of_the_hash() -> None:
    schema = [Field("a", DataType.parse("string")), Field("b", DataType.parse("decimal(10,2)"))]
    rows = [{"a": "x" * n, "b": Decimal(n)} for n in range(100)]
    frame = frame_of(schema, rows)
    assert (
        hashing.row_hash(frame[37:80], schema).to_list() == hashing.row_hash(frame, schema).to_list()[37:80]
    )
    assert hashing.row_hash(frame[:0], schema).to_list() == []


@pytest.mark.parametrize("kind", ["string", "binary"])
@pytest.mark.parametrize("longest", [8, 12, 13, 65])
def test_text_hashes_alike_beside_shorter_and_longer_text(kind: str, longest: int) -> None:
    schema = [Field("a", DataType.parse(kind))]
    texts = [("xyzäß" * 20).encode()[:n].decode(errors="ignore") for n in range(longest + 1)]
    values: list[Any] = [None, *texts] if kind == "string" else [None, *(text.encode() for text in texts)]
    rows = [{"a": value} for value in values]
    frame = frame_of(schema, rows)
    for part in (frame, frame[2:], pl.concat([frame[:1], frame[1:]]), frame[1:].drop_nulls()):
        expected = [slow_row_hash({"a": value}, schema) for value in part["a"]]
        assert hashing.row_hash(part, schema).to_list() == expected


GOLDEN_SCHEMA = [
    Field("amount", DataType.parse("float64")),
    Field("at", DataType.parse("timestamp")),
    Field("id", DataType.parse("string")),
    Field("n", DataType.parse("int64")),
    Field("price", DataType.parse("decimal(10,2)")),
    Field("tags", DataType.parse("list<string>")),
]
GOLDEN_ROWS = [
    {
        "amount": 17.85,
        "at": 1_700_000_000_000_000,
        "id": "C536365",
        "n": 6,
        "price": Decimal("2.55"),
        "tags": ["a", None],
    },
    {"amount": float("nan"), "at": None, "id": "ü" * 40, "n": -1, "price": None, "tags": []},
    {"amount": None, "at": None, "id": None, "n": None, "price": None, "tags": None},
]
GOLDEN = [-4847698040374769756, 7912283173631100009, 4738634026568171942]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_categories_hash_as_their_text(count: int) -> None:
    text = pl.Series(["north", None, "", "a name that is longer than a view holds"][:count] * 10)[:count]
    kind, valid = DataType.parse("string"), text.is_not_null()
    for values in (text.cast(pl.Categorical), text.cast(pl.Enum(text.drop_nulls().unique()))):
        assert (hashing.words(values, kind) == hashing.words(text, kind))[valid.to_numpy()].all()


def test_the_row_hash_never_changes() -> None:
    """A hash that changes reorders rows that are stored; never edit the expected values."""
    assert [identity.row_hash(row, GOLDEN_SCHEMA) for row in GOLDEN_ROWS] == GOLDEN
    assert hashing.row_hash(frame_of(GOLDEN_SCHEMA, GOLDEN_ROWS), GOLDEN_SCHEMA).to_list() == GOLDEN


def test_splitmix_is_that_of_the_reference() -> None:
    """The first outputs of splitmix64.c for the state 0."""
    assert [identity.mix(0), identity.mix(0x9E3779B97F4A7C15)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def one(value: Any, kind: str) -> int:
    schema = [Field("a", DataType.parse(kind))]
    hashed: int = hashing.row_hash(frame_of(schema, [{"a": value}]), schema)[0]
    return hashed


def test_equal_values_hash_equal_whatever_the_width() -> None:
    assert one(1, "int8") == one(1, "int64") == one(1, "uint64")
    assert one(0.5, "float32") == one(0.5, "float64")
    assert one(-0.0, "float64") == one(0.0, "float64")


def test_null_is_no_value() -> None:
    assert len({one(None, "int64"), one(0, "int64"), one(-1, "int64")}) == 3
    assert len({one(None, "string"), one("", "string"), one("\0", "string"), one("\0\0", "string")}) == 4
    assert len({one(None, "list<int64>"), one([], "list<int64>"), one([None], "list<int64>")}) == 3


def test_the_order_of_the_columns_is_that_of_their_names() -> None:
    schema = [Field("b", DataType.parse("int64")), Field("a", DataType.parse("int64"))]
    frame = pl.DataFrame({"b": [1], "a": [2]})
    assert hashing.row_hash(frame, schema)[0] == hashing.row_hash(frame, schema[::-1])[0]
    swapped = pl.DataFrame({"b": [2], "a": [1]})
    assert hashing.row_hash(frame, schema)[0] != hashing.row_hash(swapped, schema)[0]


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.none() | st.text(max_size=9), st.none() | st.integers(0, 2**64 - 1)), min_size=1)
)
def test_an_event_id_is_the_xxh3_of_the_canonical_bytes(rows: list[tuple[str | None, int | None]]) -> None:
    kinds = [DataType.parse("string"), DataType.parse("uint64")]
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.UInt64}, orient="row")
    expected = [
        None
        if None in row
        else struct.unpack("<q", struct.pack("<Q", xxhash.xxh3_64_intdigest(encode_key(row, kinds))))[0]
        for row in rows
    ]
    assert hashing.event_id(frame, ["a", "b"], kinds).to_list() == expected
    assert [identity.event_id(row, kinds) for row in rows] == expected


RANKED = ["int8", "int64", "uint64", "float64", "float32", "bool", "date", "timestamp"]


@pytest.mark.parametrize("kind", RANKED)
def test_ranks_keep_the_order_and_null_is_first(kind: str) -> None:
    type_ = DataType.parse(kind)

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(VALUES[kind].filter(lambda value: value == value), min_size=2, max_size=2))
    def check(pair: list[Any]) -> None:
        low, high = sorted(pair)
        series = pl.Series([low, high, None], dtype=type_.polars())
        ranks = hashing.order_rank(series, type_).to_list()
        below = -(2**63)
        assert ranks[2] == below <= ranks[0] <= ranks[1]
        assert (low == high) == (ranks[0] == ranks[1])
        assert [identity.order_rank(_row_value(value), type_) for value in series.to_list()] == ranks

    check()


def test_nan_ranks_above_every_float_and_zero_has_one_rank() -> None:
    series = pl.Series([float("-inf"), -1.0, -0.0, 0.0, float("inf"), float("nan")])
    ranks = hashing.order_rank(series, DataType.parse("float64")).to_list()
    assert ranks == sorted(ranks)
    assert ranks[2] == ranks[3]
    assert len(set(ranks)) == 5


def test_decimals_rank_by_their_unscaled_value() -> None:
    kind = DataType.parse("decimal(10,2)")
    series = pl.Series([Decimal("-1.50"), Decimal("0.01"), None], dtype=kind.polars())
    assert hashing.order_rank(series, kind).to_list() == [-150, 1, -(2**63)]


@pytest.mark.parametrize("kind", ["string", "binary", "list<int64>", "decimal(19,2)"])
def test_an_order_that_does_not_fit_is_refused(kind: str) -> None:
    with pytest.raises(SpecError, match=r"source 'payments': order_by: 'v' is .* 64 bits"):
        identity.check_order("payments", "v", DataType.parse(kind))
