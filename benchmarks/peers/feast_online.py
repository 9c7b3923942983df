"""Feast's side of works 8 and 10: the same rows in the same Redis, read in process or served.

In its best form: registry cached for the whole run, no usage reports, hiredis installed.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

KINDS = {"number": "Float64", "whole": "Int64", "text": "String"}

PROJECT = """
project: benchmark
registry: {{path: registry.db, cache_ttl_seconds: 100000}}
provider: local
online_store: {{type: redis, connection_string: "127.0.0.1:{port}"}}
offline_store: {{type: duckdb}}
entity_key_serialization_version: 3
"""


def prepare(folder, port, rows, features):
    """Declare one feature view of these features, and write the rows of a file into Redis."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    os.environ["FEAST_USAGE"] = "False"
    (root / "feature_store.yaml").write_text(PROJECT.format(port=port))
    schema = ", ".join(f'Field(name="{name}", dtype={KINDS[name.split("_")[0]]})' for name in features)
    (root / "features.py").write_text(
        "from datetime import timedelta\n"
        "from feast import Entity, FeatureService, FeatureView, Field, FileSource\n"
        "from feast.types import Float64, Int64, String\n"
        "from feast.value_type import ValueType\n"
        'customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)\n'
        f'rows = FileSource(path="{rows}", timestamp_field="at")\n'
        'view = FeatureView(name="features", entities=[customer], ttl=timedelta(days=3650),'
        f" schema=[{schema}], source=rows, online=True)\n"
        'profile = FeatureService(name="profile", features=[view])\n'
    )
    feast = str(Path(sys.executable).with_name("feast"))
    subprocess.run([feast, "apply"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    from feast import FeatureStore

    store = FeatureStore(str(root))
    frame = pd.read_parquet(rows)
    for first in range(0, len(frame), 5000):
        store.write_to_online_store("features", frame.iloc[first : first + 5000])
    return len(frame)


def measure(folder, port, rows, features, sizes, calls, seed):
    """Return the milliseconds of get_online_features by number of rows."""
    entities = prepare(folder, port, rows, features)
    from feast import FeatureStore

    store = FeatureStore(folder)
    service = store.get_feature_service("profile")
    check(store, service, rows, features)
    draw = random.Random(seed)
    result = {}
    for size in sizes:
        taken = []
        count = max(30, calls // (1 + size // 10))
        for number in range(count + 10):
            asked = [{"customer": draw.randrange(entities)} for _ in range(size)]
            began = time.perf_counter()
            store.get_online_features(features=service, entity_rows=asked)
            if number >= 10:
                taken.append((time.perf_counter() - began) * 1000)
        result[str(size)] = {"p50": statistics.median(taken), "p99": sorted(taken)[int(0.99 * len(taken))]}
    return result


def check(store, service, rows, features):
    """See that what is read is what was written; columns by name, since their order differs by process."""
    frame = pd.read_parquet(rows).head(200)
    found = store.get_online_features(
        features=service, entity_rows=[{"customer": int(key)} for key in frame["customer"]]
    ).to_dict()
    for name in features:
        assert list(found[name]) == frame[name].tolist(), name
