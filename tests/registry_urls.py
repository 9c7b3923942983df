"""Databases for the tests of the registry: SQLite files, and a Postgres server where one is installed."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

_names = itertools.count()


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL, without a database's name, of a server of the test's own; skip where there is none."""
    if not (shutil.which("initdb") and shutil.which("postgres") and find_spec("psycopg")):
        pytest.skip("no Postgres server on the PATH, or no psycopg")
    # Not below pytest's folder, which only its owner may enter: Postgres refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-") as path:
        folder = Path(path)
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def run(*command: str) -> None:
            subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        run("initdb", "-D", str(data), "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql://test@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")


def new_database(server: str) -> str:
    """Return the URL of a database that is made on the server."""
    import psycopg

    name = f"registry{os.getpid()}_{next(_names)}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"
