"""The demo runs to its end in a small size, and whatever ends it, nothing that it started is left."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from featurestore.errors import OperatorError
from featurestore_connectors.embedded import server_binary

DEMO = Path(__file__).parent.parent / "specs/fraud/demo.py"
SMALL = ["--transactions", "2000", "--events", "400", "--sample", "200"]

pytestmark = [pytest.mark.redis, pytest.mark.kafka]


@pytest.fixture(autouse=True)
def _a_server() -> None:
    try:
        server_binary()
    except OperatorError as error:
        pytest.skip(f"no Redis or Valkey server: {error}")


def ports(output: str) -> list[int]:
    """Return the ports of the servers that the demo told of."""
    return [int(port) for port in re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)", output)]


def is_open(port: int) -> bool:
    """Return whether anything listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_small_demo_ends_with_parity_and_leaves_its_folder_and_no_server(tmp_path: Path) -> None:
    """Every value agrees; the training set has one row for each payment; all servers are stopped."""
    folder = tmp_path / "kept"
    done = subprocess.run(
        [sys.executable, str(DEMO), *SMALL, "--keep", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr

    match = re.fullmatch(r"parity: ([\d,]+) values compared, 0 differ", done.stdout.splitlines()[-1])
    assert match
    assert int(match[1].replace(",", "")) > 5_000
    assert "2,000 payments in, the same 2,000 out, in their order" in done.stdout
    assert "the same as a training set: 328 values compared, 0 differ" in done.stdout
    assert pl.read_parquet(folder / "training.parquet")["transaction_id"].n_unique() == 2_000
    assert len(set(ports(done.stdout))) == 3  # Valkey, the broker, the service
    assert not any(map(is_open, ports(done.stdout)))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_while_it_streams_stops_what_it_started(
    number: signal.Signals, status: int
) -> None:
    """Ctrl-C and SIGTERM end the streams, the servers and the temporary folder."""
    command = [sys.executable, "-u", str(DEMO), *SMALL, "--engine", "local"]
    told = ""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # what a shell starts in the background ignores SIGINT, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        try:
            assert running.stdout is not None
            for line in running.stdout:
                told += line
                if "events:" in line and "published" in line:  # the streams start next
                    running.send_signal(number)
            assert running.wait(60) == status, told
        finally:
            running.kill()
    assert "Verify" not in told
    assert len(set(ports(told))) == 2
    assert not any(map(is_open, ports(told)))
    assert not Path(told.splitlines()[0].rpartition(" in ")[2]).exists()


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    """`--keep` never writes into a folder of the user's."""
    (tmp_path / "mine.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, str(DEMO), *SMALL, "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"{tmp_path} is no empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
