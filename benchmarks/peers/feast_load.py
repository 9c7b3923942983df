"""Feast's side of works 5 and 11: materialize from Parquet into Redis."""

import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float32, Float64, Int64

TYPES = {"double": Float64, "float": Float32, "int64": Int64, "bool": Bool}
PROJECT = """
project: loading
registry: registry.db
provider: local
online_store: {{type: redis, connection_string: "localhost:{port}"}}
offline_store: {{type: duckdb}}
entity_key_serialization_version: 3
"""


def load(path: str, port: int) -> dict:
    """Return the seconds of `materialize`, and the growth of the server's used_memory."""
    os.environ["FEAST_USAGE"] = "False"
    schema = pq.read_schema(path)
    fields = [Field(name=f.name, dtype=TYPES[str(f.type)]) for f in schema if f.name.startswith("f")]
    with tempfile.TemporaryDirectory() as folder, redis.Redis(port=port) as client:
        (Path(folder) / "feature_store.yaml").write_text(PROJECT.format(port=port))
        store = FeatureStore(folder)
        customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)
        source = FileSource(path=path, timestamp_field="at")
        view = FeatureView(
            name="profile",
            entities=[customer],
            ttl=timedelta(days=365),
            schema=fields,
            source=source,
            online=True,
        )
        store.apply([customer, view])
        before = client.info("memory")["used_memory"]
        now = datetime.now(UTC)
        began = time.perf_counter()
        store.materialize(now - timedelta(days=30), now)
        seconds = time.perf_counter() - began
        if client.dbsize() != pq.read_metadata(path).num_rows:
            raise AssertionError(f"{client.dbsize()} entities were loaded")
        return {"seconds": seconds, "bytes": client.info("memory")["used_memory"] - before}
