"""Work 12: how long a user waits for `import`, for the command's help, and for a server to be ready."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Bench, Row, at_least, isolated

RUNS = 7


def start(bench: Bench) -> Iterator[Row]:
    """Measure each start of ours and of Feast's, in turn, so that both meet the same machine."""
    feast, runs = bench.peer("feast"), min(RUNS, bench.size(RUNS))
    with tempfile.TemporaryDirectory() as folder:
        ours = isolated("benchmarks.starting:ours", folder=f"{folder}/ours", runs=runs).value
        theirs = None
        if feast is not None:
            theirs = isolated(
                "feast_starting:measure", python=feast, folder=f"{folder}/feast", runs=runs
            ).value
    for name, work in (
        ("import", "import featurestore"),
        ("help", "featurestore --help"),
        ("serve", "featurestore serve, until ready"),
    ):
        yield at_least(12, work, ours[name], "s", "Feast", theirs and theirs[name], 10)


def ours(folder: str, runs: int) -> dict[str, float]:
    """Return the median seconds of each start."""
    from benchmarks.peers.starts import command, medians, served
    from featurestore import FeatureStore

    root = Path(folder)
    root.mkdir(parents=True)
    (root / "featurestore.yaml").write_text("project: starting\n")
    (root / "features.yaml").write_text(SPECS)
    with FeatureStore(root) as store:
        store.apply()
    verbs = [sys.executable, "-m", "featurestore.cli"]
    return medians(
        runs,
        {
            "import": lambda: command([sys.executable, "-c", "import featurestore"], root),
            "help": lambda: command([*verbs, "--help"], root),
            "serve": lambda: served([*verbs, "serve", "--port"], root, "/readyz"),
        },
    )


SPECS = """
kind: Entity
name: customer
type: int64
---
kind: Source
name: payments
event_time: at
schema: {customer: int64, at: timestamp, amount: float64}
batch: {kind: parquet, path: payments.parquet}
---
kind: FeatureSet
name: spend
entities: [customer]
source: payments
---
kind: FeatureVector
name: risk
features: [spend.*]
"""
