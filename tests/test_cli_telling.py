"""What the command line tells of streams: logs that are JSON to the last line, versions by tag."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from test_cli_services import demo, order, running

from featurestore.cli import main

__all__ = ["demo"]

Out = pytest.CaptureFixture[str]


def test_a_log_in_json_has_no_other_lines(demo: Path) -> None:
    with running(demo, "stream", "--engine", "local", "--log-format", "json") as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    lines = [json.loads(line) for line in (first + rest).splitlines()]
    assert lines[0]["message"] == "Streaming orders."
    assert {"time", "level", "logger", "message"} <= set(lines[0])


def test_the_error_that_ends_a_stream_is_a_line_of_a_log_in_json(demo: Path, capsys: Out) -> None:
    assert main(["-C", str(demo), "stream", "order", "--log-format", "json"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["code"]) == ("error", "unknown_name")
    assert "Did you mean 'orders'?" in told["message"]


def test_status_names_versions_by_their_tags(demo: Path, capsys: Out) -> None:
    assert main(["-C", str(demo), "push", "orders", "--from", str(orders(demo)), "--wait", "30s", "-q"]) == 0
    specs = demo / "feature_sets.yaml"
    specs.write_text(
        specs.read_text().replace(
            "functions: [count], windows: [1d, 7d]", "functions: [count], windows: [1d, 7d, 14d]"
        )
    )
    assert main(["-C", str(demo), "apply", "--promote", "-q"]) == 0
    capsys.readouterr()
    assert main(["-C", str(demo), "status"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["spending@latest", "spending@previous"]
    assert main(["-C", str(demo), "rollback", "-q"]) == 0
    capsys.readouterr()
    assert main(["-C", str(demo), "status", "--json"]) == 0
    tags = [record["tags"] for record in json.loads(capsys.readouterr().out)["feature_sets"]]
    assert tags == [["latest"], ["previous"]]


def test_no_dead_letters_is_said(demo: Path, capsys: Out) -> None:
    assert main(["-C", str(demo), "dead-letters", "list"]) == 0
    assert capsys.readouterr().out == "No dead letters, or none of those chosen.\n"


def test_an_instant_that_cannot_be_read_is_told_how_to_write(demo: Path, capsys: Out) -> None:
    assert main(["-C", str(demo), "dead-letters", "list", "--since", "yesterday"]) == 1
    told = "error: --since: 'yesterday' is no ISO 8601 text, as 2026-01-01T00:00:00Z.\n"
    assert capsys.readouterr().err == told


def orders(folder: Path) -> Path:
    """A file with an order."""
    path = folder / "lines.ndjson"
    path.write_text(order(1))
    return path
