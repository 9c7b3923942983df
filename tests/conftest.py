"""Real servers and both online stores for the tests that ask for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import kafka, kafka_broker, mock_broker, start_kafka  # noqa: F401  (fixtures)
from hypothesis import Phase, settings

from featurestore.contracts import OnlineStore, extension
from featurestore.errors import OperatorError
from featurestore_connectors.embedded import EmbeddedServer

_prefixes = itertools.count()

# For tests/mutants.py, which only asks whether a test fails: the same examples each time, none made smaller.
settings.register_profile(
    "mutants", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate), print_blob=False
)

StartServer = Callable[..., EmbeddedServer]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts a Redis or Valkey server of the test's own: `start_server(appendonly=True, arguments=[…])`.

    It can be killed (`.kill()`) and started again (`.start()`) on the same port and directory. Every one
    ends with the session at the latest.
    """
    servers: list[EmbeddedServer] = []

    def start(**options: Any) -> EmbeddedServer:
        try:
            server = EmbeddedServer(tmp_path_factory.mktemp("server"), **options)
        except OperatorError as error:
            pytest.skip(f"no Redis or Valkey server: {error}")
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def redis_url(start_server: StartServer) -> str:
    """The address of the session's server. Tests share it: keep to a prefix or generation of one's own."""
    return start_server().url


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis), "sqlite"])
def online_config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The `online:` configuration of an empty store, of each kind in turn."""
    if request.param == "sqlite":
        return {"kind": "sqlite", "path": str(tmp_path / "online.db")}
    url: str = request.getfixturevalue("redis_url")
    return {"kind": "redis", "url": url, "prefix": f"test{next(_prefixes)}"}


@pytest.fixture
def online_store(online_config: dict[str, Any]) -> Iterator[OnlineStore]:
    """An empty online store of each kind in turn."""
    store: OnlineStore = extension("online", online_config["kind"])(online_config)
    yield store
    store.close()
