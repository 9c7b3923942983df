"""What fault tests share: the record of what they measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.scale import LONG

Measured = Callable[..., None]


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Prints what a fault test measured: `measured("kill -9 of the worker", kills=200, lost=0)`.

    Appends it as a line of JSON, with the test's name, to the file $FEATURESTORE_FAULTS_RESULTS.
    """

    def record(fault: str, **found: object) -> None:
        line = json.dumps({"test": request.node.nodeid, "fault": fault, "long": LONG, **found}, default=str)
        print(line)
        if path := os.environ.get("FEATURESTORE_FAULTS_RESULTS"):
            with Path(path).open("a") as file:
                file.write(line + "\n")

    return record
