"""What runs until it is told to stop: stream and serve; and push, which feeds them."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.cli import main
from featurestore.instants import format_instant, now

ENGINES = [
    "local",
    pytest.param(
        "bytewax",
        marks=pytest.mark.skipif(importlib.util.find_spec("bytewax") is None, reason="Bytewax is missing"),
    ),
]
STOPS = [signal.SIGTERM, signal.SIGINT]

Out = pytest.CaptureFixture[str]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A new project, applied."""
    folder = tmp_path / "demo"
    assert main(["init", str(folder), "-q"]) == 0
    assert main(["-C", str(folder), "apply", "-q"]) == 0
    return folder


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A verb in a process of its own."""
    command = [sys.executable, "-m", "featurestore.cli", "-C", str(folder), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def order(number: int, **changes: Any) -> str:
    """An order of C1, of now."""
    event = {"order_id": f"P{number}", "customer": "C1", "product": "bread", "amount": 3.2}
    return json.dumps({**event, "ordered_at": format_instant(now()), **changes})


def pushed(folder: Path, capsys: Out, count: int = 3) -> None:
    """Push orders and wait until they are servable."""
    lines = folder / "lines.ndjson"
    lines.write_text("\n".join(order(n) for n in range(count)))
    assert main(["-C", str(folder), "push", "orders", "--from", str(lines), "--wait", "30s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"accepted": count, "refused": [], "servable": True}


def count_of_c1(folder: Path, capsys: Out) -> int:
    assert main(["-C", str(folder), "get-online", "customer-spending", "customer=C1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found: int = dict(zip(answer["columns"], answer["rows"][0], strict=True))["count_7d"]
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stop", STOPS)
def test_a_stream_ends_with_its_counts_on_a_signal(
    engine: str, stop: signal.Signals, demo: Path, capsys: Out
) -> None:
    with running(demo, "stream", "--engine", engine, "--json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "Streaming orders.\n"
        pushed(demo, capsys)
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert list(json.loads(out)["streams"]) == ["orders"]
    assert count_of_c1(demo, capsys) == 3
    assert main(["-C", str(demo), "status", "--json"]) == 0
    [record] = json.loads(capsys.readouterr().out)["feature_sets"]
    assert record["rows"] == 3
    assert set(record["lag_online"].values()) == set(record["lag_offline"].values()) == {0}


def test_drain_applies_what_there_is_and_ends(demo: Path, capsys: Out) -> None:
    lines = demo / "lines.ndjson"
    lines.write_text("\n".join(order(n) for n in range(7)))
    assert main(["-C", str(demo), "push", "orders", "--from", str(lines), "-q"]) == 0
    assert main(["-C", str(demo), "stream", "spending", "--drain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["streams"]["orders"]["records"] == 7
    assert main(["-C", str(demo), "stream", "--drain"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["orders", "0"]
    assert count_of_c1(demo, capsys) == 7


@pytest.mark.parametrize("drain", [[], ["--drain"]])
def test_a_stream_that_is_not_there_is_refused(drain: list[str], demo: Path, capsys: Out) -> None:
    assert main(["-C", str(demo), "stream", "ordres", *drain]) == 1
    assert "Did you mean 'orders'?" in capsys.readouterr().err


def test_push_reads_standard_input_and_names_the_lines_it_refuses(demo: Path) -> None:
    lines = [
        order(1),
        "",
        '{"cut',
        order(2, amount="ten"),
        order(3, ordered_at="2026-11-21T10:00:00"),
        order(4),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "featurestore.cli", "-C", str(demo), "push", "orders"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "orders: 2 accepted, 3 refused\n"
    refused = [line.split(": ")[:2] for line in done.stderr.splitlines()]
    assert refused == [["line 3", "malformed"], ["line 4", "bad_type"], ["line 5", "bad_type"]]


def test_push_of_no_events_to_a_source_that_is_not_there_is_refused(demo: Path, capsys: Out) -> None:
    (demo / "none.ndjson").write_text("")
    assert main(["-C", str(demo), "push", "ordres", "--from", str(demo / "none.ndjson")]) == 1
    assert "Did you mean 'orders'?" in capsys.readouterr().err
    assert main(["-C", str(demo), "push", "orders", "--from", str(demo / "none.ndjson")]) == 0


def test_push_takes_the_rows_of_a_file_and_names_those_it_refuses(demo: Path, capsys: Out) -> None:
    events = [json.loads(order(n)) for n in range(6_000)]
    events[2]["ordered_at"] = events[5_500]["ordered_at"] = None
    pl.DataFrame(events).write_parquet(demo / "orders.parquet")
    assert main(["-C", str(demo), "push", "orders", "--from", str(demo / "orders.parquet")]) == 1
    said = capsys.readouterr()
    assert said.out == "orders: 5,998 accepted, 2 refused\n"
    assert [line.split(": ")[:2] for line in said.err.splitlines()] == [
        ["row 3", "null_event_time"],
        ["row 5501", "null_event_time"],
    ]


def test_push_says_of_which_lines_it_does_not_know_whether_they_are_stored(demo: Path, capsys: Out) -> None:
    lines = demo / "lines.ndjson"
    lines.write_text(order(1) + "\n\n" + order(2))
    two = "topic: orders, options: {partitions: 2}"
    for path in demo.rglob("*.yaml"):
        path.write_text(path.read_text().replace("topic: orders", two))
    assert main(["-C", str(demo), "apply", "-q"]) == 0
    assert main(["-C", str(demo), "push", "orders", "--from", str(lines), "-q"]) == 0
    [partition] = demo.glob("**/orders/1")
    capsys.readouterr()
    partition.rename(demo / "gone")
    partition.mkdir()  # a partition that is damaged
    (partition / "00000000000000000000.log").write_bytes(b"no segment of a log")
    assert main(["-C", str(demo), "push", "orders", "--from", str(lines)]) == 1
    said = capsys.readouterr()
    assert said.out == "orders: 1 accepted, 0 refused\n"
    assert "it is unknown whether they are stored; none after line 3 was sent" in said.err


def test_serve_answers_until_a_signal_with_streams_beside_it(demo: Path, capsys: Out) -> None:
    pytest.importorskip("granian")
    with running(demo, "serve", "--port", "0", "--with-streams") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        pushed(demo, capsys, 2)
        request = {"vector": "customer-spending", "rows": [{"customer": "C1"}]}
        asked = urllib.request.Request(
            f"{url}/v1/online-features",
            json.dumps(request).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as response:
            served = json.load(response)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert dict(zip(served["columns"], served["rows"][0], strict=True))["count_7d"] == 2


def test_serve_on_a_taken_port_says_so(demo: Path, capsys: Out) -> None:
    pytest.importorskip("granian")
    with running(demo, "serve", "--port", "0") as process:
        assert process.stdout is not None
        port = process.stdout.readline().rsplit(":", 1)[-1].strip()
        assert main(["-C", str(demo), "serve", "--port", port]) == 1
        assert "cannot be used" in capsys.readouterr().err
