"""SQL queries as batch sources: one result, its own digest, read out of core."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from featurestore.errors import OperatorError, SpecError
from featurestore_connectors.sql import SqlSource


@pytest.fixture
def root(tmp_path: Path) -> Path:
    execute(tmp_path, "CREATE TABLE p (n INTEGER, x REAL, t TEXT, b BLOB)")
    execute(
        tmp_path, "INSERT INTO p VALUES (2, 0.5, '00123', x'00'), (1, NULL, NULL, NULL), (3, 1.0, '', x'')"
    )
    return tmp_path


def execute(root: Path, statement: str) -> None:
    connection = sqlite3.connect(root / "shop.db")
    with connection:
        connection.execute(statement)
    connection.close()


def source(root: Path, query: str) -> SqlSource:
    return SqlSource({"kind": "sql", "url": "sqlite:///shop.db", "query": query}, root)


def rows(found: SqlSource, skip: int = 0, batch_rows: int = 100, **kwargs: Any) -> list[dict[str, Any]]:
    (item,) = found.inputs()
    read = [row for batch in found.read(item, skip, batch_rows, **kwargs) for row in batch.to_pylist()]
    found.close()
    return read


EVERYTHING = [
    {"n": 1, "x": None, "t": None, "b": None},
    {"n": 2, "x": 0.5, "t": "00123", "b": b"\0"},
    {"n": 3, "x": 1.0, "t": "", "b": b""},
]


def test_rows_come_as_the_query_orders_them(root: Path) -> None:
    assert rows(source(root, "SELECT * FROM p ORDER BY n")) == EVERYTHING
    assert rows(source(root, "SELECT n FROM p ORDER BY n DESC")) == [{"n": 3}, {"n": 2}, {"n": 1}]


def test_reading_resumes_in_batches_and_by_columns(root: Path) -> None:
    for skip in range(5):
        for batch_rows in (1, 2, 9):
            found = source(root, "SELECT * FROM p ORDER BY n")
            assert rows(found, skip, batch_rows) == EVERYTHING[skip:]
    assert rows(source(root, "SELECT * FROM p ORDER BY n"), columns=["n"])[0] == {"n": 1}


def test_the_digest_is_of_the_values_and_what_is_read_is_what_was_digested(root: Path) -> None:
    found = source(root, "SELECT * FROM p ORDER BY n")
    (item,) = found.inputs()
    assert item.rows == 3
    assert source(root, "SELECT * FROM p ORDER BY n").inputs() == [item]
    execute(root, "UPDATE p SET x = 9 WHERE n = 1")
    read = [row for batch in found.read(item, 0, 9) for row in batch.to_pylist()]
    assert read == EVERYTHING
    assert found.inputs()[0].digest != item.digest
    with pytest.raises(OperatorError, match="changed"):
        list(found.read(item, 0, 9))
    found.close()


def test_types_and_names_are_part_of_the_digest(root: Path) -> None:
    queries = ["SELECT 1 AS a", "SELECT 1.0 AS a", "SELECT '1' AS a", "SELECT 1 AS b", "SELECT NULL AS a"]
    digests = set()
    for query in queries:
        found = source(root, query)
        digests.add(found.inputs()[0].digest)
        found.close()
    assert len(digests) == len(queries)


def test_more_rows_than_a_chunk(root: Path) -> None:
    query = "WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < 24999) SELECT n FROM c"
    read = rows(source(root, query), skip=9_999, batch_rows=4_000)
    assert [row["n"] for row in read] == list(range(9_999, 25_000))


def test_an_empty_result_keeps_its_columns(root: Path) -> None:
    found = source(root, "SELECT n, t FROM p WHERE n > 9")
    (item,) = found.inputs()
    assert item.rows == 0
    assert rows(found) == []


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("SELECT n, t AS n FROM p", SpecError, "more than once"),
        (
            "SELECT CASE n WHEN 1 THEN 'a' ELSE n END AS m FROM p",
            SpecError,
            "'m' holds values that are of no one",
        ),
        ("SELECT missing FROM p", SpecError, "no such column: missing"),
    ],
)
def test_a_query_that_cannot_be_used_says_why(root: Path, query: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        source(root, query).inputs()


def test_a_url_that_cannot_be_used_says_why(root: Path) -> None:
    for url in ("nonsense", "nodb://x/y"):
        with pytest.raises(SpecError, match="url: "):
            SqlSource({"kind": "sql", "url": url, "query": "SELECT 1"}, root)


def test_the_name_shows_no_password(root: Path) -> None:
    found = SqlSource({"kind": "sql", "url": "sqlite://me:secret@/x.db", "query": "SELECT 1"}, root)
    assert "secret" not in found.name
