"""What crosses processes is taken only where reader and writer feed the same generations."""

from __future__ import annotations

from typing import Any

import pytest

from featurestore.errors import StoreUnavailable
from featurestore_engines.stream.pipeline import Counts, Job, OnlineSink

bytewax = pytest.importorskip("featurestore_engines.stream.bytewax", exc_type=ImportError)


@pytest.mark.parametrize(("read_for", "is_refused"), [("spending:g1", False), ("spending:g1,g2", True)])
def test_a_lane_takes_positions_only_from_a_reader_that_feeds_what_it_feeds(
    read_for: str, is_refused: bool
) -> None:
    """A reader starts where its own stores end; to others its rows may have a gap before them."""
    nothing: Any = None
    run = bytewax._Run(lambda: False)
    lane = bytewax._Lane(OnlineSink(Job(nothing, (), nothing, nothing), Counts()), "spending:g1", [0], run)
    lane.write_batch([bytewax.Piece(read_for, None, None, {"log:1/payments/0": 7})])
    assert isinstance(run.error, StoreUnavailable) == is_refused
    assert run.is_over() == is_refused
