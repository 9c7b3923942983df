"""A stream changes how often Python looks for garbage while it runs, and no longer."""

from __future__ import annotations

import gc

import pytest

from featurestore.garbage import seldom_collecting


def test_the_thresholds_are_as_before_once_a_stream_ends_even_by_an_error() -> None:
    before = gc.get_threshold()

    def stream() -> None:
        with seldom_collecting():
            assert gc.get_threshold()[0] > before[0]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stream()
    assert gc.get_threshold() == before


def test_of_streams_that_overlap_the_last_one_puts_the_thresholds_back() -> None:
    before = gc.get_threshold()
    first, second = seldom_collecting(), seldom_collecting()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] > before[0]
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before
