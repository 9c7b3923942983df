"""Feast's side of work 1: DuckDB as its offline store, on the same raw files."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd

PROJECT = """
project: joining
registry: registry.db
provider: local
offline_store: {type: duckdb}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""


def measure(folder: str) -> float:
    """Return the seconds of one `get_historical_features(...).to_arrow()`; the result is in feast.parquet."""
    os.environ["FEAST_USAGE"] = "False"
    root = Path(folder)
    project = root / "feast"
    project.mkdir(exist_ok=True)
    (project / "feature_store.yaml").write_text(PROJECT)
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)
    files = FileSource(path=f"{root}/events/*.parquet", timestamp_field="at")
    spend = FeatureView(
        name="spend",
        entities=[customer],
        ttl=timedelta(days=3650),
        schema=[Field(name="amount", dtype=Float64), Field(name="items", dtype=Int64)],
        source=files,
    )
    store = FeatureStore(repo_path=str(project))
    store.apply([customer, spend])
    labels = pd.read_parquet(root / "labels.parquet")
    began = time.perf_counter()
    made = store.get_historical_features(
        entity_df=labels, features=["spend:amount", "spend:items"]
    ).to_arrow()
    seconds = time.perf_counter() - began
    made.to_pandas().to_parquet(root / "feast.parquet")
    return seconds
