"""`commit:` in featurestore.yaml says when a stream commits to the offline tables."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import shop
from streams import WAIT_SECONDS, make_project, send, streaming
from test_stream_engines import ENGINES

from featurestore import FeatureStore
from featurestore.errors import SpecError
from featurestore.specs import load_config


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("commit", [{"rows": 10}, {"every": "100ms"}])
def test_rows_are_offline_while_the_stream_runs(engine: str, commit: dict[str, Any], tmp_path: Path) -> None:
    root = make_project(tmp_path, {"kind": "sqlite"})
    config = json.loads((root / "featurestore.yaml").read_text())
    (root / "featurestore.yaml").write_text(json.dumps({**config, "commit": commit}))
    paid, _ = shop.make_log(2, 30)
    with FeatureStore(root) as store:
        store.apply()
        table = store.environment.rows_table(store.catalog.feature_set("takings"))
        with streaming(root, engine):
            send(store, "payments", paid)
            deadline = time.monotonic() + WAIT_SECONDS
            while (snapshot := table.snapshot()) is None or not table.rows(snapshot):
                assert time.monotonic() < deadline
                time.sleep(0.02)


@pytest.mark.parametrize("mistake", ["{rows: 0}", "{every: soon}", "{after: 10s}"])
def test_a_mistake_is_told_with_its_line(mistake: str, tmp_path: Path) -> None:
    (tmp_path / "featurestore.yaml").write_text(f"project: p\ncommit: {mistake}\n")
    with pytest.raises(SpecError, match=r"featurestore\.yaml:2"):
        load_config(tmp_path)
