"""A registry that goes away under a running stream: tried again, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults.conftest import Measured
from faults.judge import Judge
from faults.processes import ENGINES, Appending, Worker, await_caught_up, wait_for
from faults.traffic import Traffic, make_project

from featurestore import FeatureStore

EVENTS = 2_000


@pytest.mark.parametrize("engine", ENGINES)
def test_the_registry_goes_away_while_a_worker_streams(
    engine: str, tmp_path: Path, measured: Measured
) -> None:
    root = make_project(tmp_path, {"kind": "sqlite"})
    config = json.loads((root / "featurestore.yaml").read_text())
    (root / "featurestore.yaml").write_text(
        json.dumps({**config, "registry": "sqlite:///registry/registry.db"})
    )
    traffic = Traffic(41, EVENTS, customers=50, shops=10)
    with FeatureStore(root) as store:
        store.apply()
        with Appending(store, traffic) as producer:
            worker = Worker.stream(root, engine)
            try:
                producer.allow(0.5)
                producer.await_appended()
                await_caught_up(store, worker)
                (root / "registry").rename(root / "away")
                producer.allow(1.0)
                wait_for(
                    lambda: "goes on with what it knew" in worker.said, "the outage to be noticed", worker
                )
                assert "The registry does not answer" in worker.said
                (root / "away").rename(root / "registry")
                producer.await_appended()
                await_caught_up(store, worker)
                worker.stop()
            finally:
                worker.discard()
        verdict = Judge(traffic).check(store)
    measured(
        f"the registry goes away while a worker streams ({engine})",
        promised="tried again until it is back; nothing is lost and nothing counts twice",
        events=EVENTS,
        lost=0,
        doubled=0,
        compared=vars(verdict),
    )
