"""Processes that use one registry at once neither corrupt it nor lose what another wrote."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from registry_urls import new_database, postgres_server

from featurestore.errors import OperatorError
from featurestore.registry import NewVersion, Registry
from featurestore.registry.statistics import describe
from featurestore.types import INT64, Field

EACH = 15


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    server: str = request.getfixturevalue("postgres")
    return new_database(server)


def run(target: Callable[..., None], *arguments: tuple[object, ...]) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=given) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def _apply_many(url: str, writer: int) -> None:
    registry = Registry(url)
    done = 0
    while done < EACH:
        fingerprint = f"{writer:04x}{done:04x}"
        version = NewVersion("FeatureSet", f"set_{writer}", fingerprint, {"n": done})
        try:
            registry.apply("fraud", [version], saw=registry.state("fraud"))
        except OperatorError as error:
            if "stale" not in error.message:
                raise
            continue
        done += 1
    registry.close()


def test_processes_that_apply_at_once_each_see_all_that_was_applied_before(registry_url: str) -> None:
    run(_apply_many, (registry_url, 0), (registry_url, 1))
    registry = Registry(registry_url)
    for writer in (0, 1):
        found = [version.fingerprint for version in registry.versions("fraud", "FeatureSet", f"set_{writer}")]
        assert found == [f"{writer:04x}{n:04x}" for n in range(EACH)]
    assert set(registry.state("fraud").values()) == {f"{writer:04x}{EACH - 1:04x}" for writer in (0, 1)}
    registry.close()


def _record_many(url: str, writer: int) -> None:
    registry = Registry(url)
    for number in range(EACH):
        frame = pl.DataFrame({"x": [writer * 1000 + number, None]})
        registry.record_statistics("fraud", "payments", "aaaa", describe(frame, [Field("x", INT64)]))
        registry.record_ingest("fraud", "payments", {"writer": writer})
    registry.close()


def test_statistics_recorded_at_once_are_all_merged(registry_url: str) -> None:
    run(_record_many, (registry_url, 0), (registry_url, 1))
    registry = Registry(registry_url)
    found = registry.statistics("fraud", "payments", "aaaa")["x"]
    assert (found.rows, found.nulls, found.min, found.max) == (4 * EACH, 2 * EACH, 0, 1000 + EACH - 1)
    assert found.histogram is not None
    assert sum(found.histogram.counts) == 2 * EACH
    assert len(registry.ingests("fraud", limit=1000)) == 2 * EACH
    registry.close()


def _promote_many(url: str, writer: int) -> None:
    registry = Registry(url)
    for _ in range(EACH):
        generation = registry.create_generation("fraud", "payments", "aaaa", "store", {"p": writer})
        registry.promote(generation.id)
    registry.close()


def test_of_generations_promoted_at_once_one_serves(registry_url: str) -> None:
    run(_promote_many, (registry_url, 0), (registry_url, 1))
    registry = Registry(registry_url)
    assert len(registry.generations("fraud", status="serving")) == 1
    assert len(registry.generations("fraud", status="standby")) == 1
    assert len(registry.generations("fraud", status="retired")) == 2 * EACH - 2
    registry.close()


WRITER = """
import sys
from featurestore.registry import NewVersion, Registry

registry = Registry(sys.argv[1])
number = len(registry.versions("fraud", "FeatureSet"))
while True:
    pair = [NewVersion(kind, "x", f"{number:08x}", {}) for kind in ("FeatureSet", "FeatureVector")]
    registry.apply("fraud", pair, saw=registry.state("fraud"))
    number += 1
    print(number, flush=True)
"""


def test_a_process_killed_while_applying_leaves_whole_applies(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    for lines in (1, 4, 9):
        process = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(lines):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        acknowledged = int(rest[-1]) if rest else acknowledged
        registry = Registry(url)
        sets, vectors = (registry.versions("fraud", kind) for kind in ("FeatureSet", "FeatureVector"))
        assert len(sets) == len(vectors) >= acknowledged
        assert registry.state("fraud") == {
            ("FeatureSet", "x"): sets[-1].fingerprint,
            ("FeatureVector", "x"): sets[-1].fingerprint,
        }
        registry.close()
    connection = sqlite3.connect(tmp_path / "registry.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
