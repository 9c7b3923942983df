"""Feast's side of work 12."""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
from starts import command, medians, served

FEATURES = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Float64

customer = Entity(name="customer", join_keys=["customer"])
payments = FileSource(path="payments.parquet", timestamp_field="at")
spend = FeatureView(
    name="spend", entities=[customer], ttl=timedelta(days=365), schema=[Field(name="amount", dtype=Float64)],
    source=payments, online=True,
)
"""
PROJECT = """
project: starting
registry: registry.db
provider: local
online_store: {type: sqlite, path: online.db}
offline_store: {type: duckdb}
entity_key_serialization_version: 3
"""


def measure(folder: str, runs: int) -> dict[str, float]:
    """Return the median seconds of each start."""
    root = Path(folder)
    root.mkdir(parents=True)
    (root / "feature_store.yaml").write_text(PROJECT)
    (root / "features.py").write_text(FEATURES)
    at = [datetime(2026, 1, 1) + timedelta(hours=hour) for hour in range(10)]
    pd.DataFrame({"customer": range(10), "at": at, "amount": 1.0}).to_parquet(root / "payments.parquet")
    os.environ["FEAST_USAGE"] = "False"
    feast = str(Path(sys.executable).with_name("feast"))
    command([feast, "apply"], root)
    return medians(
        runs,
        {
            "import": lambda: command([sys.executable, "-c", "import feast"], root),
            "help": lambda: command([feast, "--help"], root),
            "serve": lambda: served([feast, "serve", "--port"], root, "/health"),
        },
    )
