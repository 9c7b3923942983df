"""Digests of many keys at once are xxh3's of each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from featurestore.rows.hashing import digests

KEYS = st.binary(min_size=9, max_size=9)


@given(st.lists(KEYS, max_size=50) | st.lists(st.binary(max_size=40), max_size=50))
def test_digests_are_those_of_xxh3(keys: list[bytes]) -> None:
    wanted = np.array([xxhash.xxh3_64_intdigest(key) for key in keys], np.uint64)
    found = digests(pa.array(keys, pa.large_binary()))
    np.testing.assert_array_equal(found, wanted)


def test_digests_of_a_slice() -> None:
    keys = [bytes([n] * 9) for n in range(20)]
    found = digests(pa.array(keys, pa.large_binary()).slice(5, 10))
    assert found.tolist() == [xxhash.xxh3_64_intdigest(key) for key in keys[5:15]]
