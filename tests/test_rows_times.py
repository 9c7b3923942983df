"""Times at the door: ISO 8601 text, and local clocks by the IANA rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.errors import SpecError
from featurestore.rows import iso, zones

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAIVE_EPOCH = datetime(1970, 1, 1)
US = timedelta(microseconds=1)
ZONES = [
    "Europe/London",
    "America/New_York",
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # left out 2011-12-30
    "Africa/Casablanca",  # twice a year by the moon
    "Asia/Kathmandu",
    "Europe/Dublin",  # negative summer time
    "America/St_Johns",  # at one minute past midnight
    "UTC",
]


def brute(local: datetime, name: str) -> tuple[int, bool, bool]:
    """The instant by `datetime`'s own fold=0, whether it occurs twice, and whether it occurs at all."""
    zone = ZoneInfo(name)
    first, second = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert first is not None
    assert second is not None
    utc = (local - NAIVE_EPOCH - first) // US
    return utc, first > second, first < second


@pytest.mark.parametrize("name", ZONES)
def test_a_local_time_is_what_datetime_says(name: str) -> None:
    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=5))
    def check(local: list[datetime]) -> None:
        micros = np.array([(value - NAIVE_EPOCH) // US for value in local], np.int64)
        found = zones.to_utc(micros, name)
        got = zip(found.utc.tolist(), found.ambiguous.tolist(), found.missing.tolist(), strict=True)
        assert list(got) == [brute(value, name) for value in local]

    check()


@pytest.mark.parametrize("name", ZONES)
def test_every_quarter_of_an_hour_of_a_year(name: str) -> None:
    year = 2011 if name == "Pacific/Apia" else 2024
    local = [datetime(year, 1, 1) + timedelta(minutes=15 * step) for step in range(96 * 366)]
    micros = np.array([(value - NAIVE_EPOCH) // US for value in local], np.int64)
    found = zones.to_utc(micros, name)
    got = zip(found.utc.tolist(), found.ambiguous.tolist(), found.missing.tolist(), strict=True)
    assert list(got) == [brute(value, name) for value in local]


def test_twice_is_the_earlier_and_never_moves_forward_by_the_gap() -> None:
    local = [datetime(2024, 10, 27, 1, 30), datetime(2024, 3, 31, 1, 30)]
    found = zones.to_utc(np.array([(value - NAIVE_EPOCH) // US for value in local]), "Europe/London")
    utc = [EPOCH + timedelta(microseconds=value) for value in found.utc.tolist()]
    assert utc == [datetime(2024, 10, 27, 0, 30, tzinfo=UTC), datetime(2024, 3, 31, 1, 30, tzinfo=UTC)]
    assert utc[1].astimezone(ZoneInfo("Europe/London")).hour == 2
    assert found.ambiguous.tolist() == [True, False]
    assert found.missing.tolist() == [False, True]


def test_an_unknown_zone_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="Did you mean 'Europe/London'"):
        zones.zone("Europe/Londn")


def read(texts: list[str | None]) -> list[tuple[str, bool] | None]:
    times = iso.parse(pl.Series(texts, dtype=pl.String))
    return [
        ((NAIVE_EPOCH + timedelta(microseconds=micros)).isoformat(), zone) if good else None
        for micros, zone, good in zip(
            times.micros.tolist(), times.has_zone.tolist(), times.is_time.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21", ("2026-11-21T00:00:00", False)),
        ("2026-11-21 10:00", ("2026-11-21T10:00:00", False)),
        ("2026-11-21T10:00Z", ("2026-11-21T10:00:00", True)),
        ("2026-11-21T10:00:00", ("2026-11-21T10:00:00", False)),
        ("2026-11-21T10:00:00z", ("2026-11-21T10:00:00", True)),
        ("2026-11-21T10:00:00.5Z", ("2026-11-21T10:00:00.500000", True)),
        ("2026-11-21T10:00:00,25", ("2026-11-21T10:00:00.250000", False)),
        ("2026-11-21T10:00:00.123456789Z", ("2026-11-21T10:00:00.123456", True)),
        ("1969-12-31T23:59:59.9999999Z", ("1969-12-31T23:59:59.999999", True)),
        ("2026-11-21T10:00:00+01:30", ("2026-11-21T08:30:00", True)),
        ("2026-11-21T10:00:00.5-0130", ("2026-11-21T11:30:00.500000", True)),
        ("2026-11-21T10:00+01", ("2026-11-21T09:00:00", True)),
        ("2024-02-29T00:00:00Z", ("2024-02-29T00:00:00", True)),
        ("0001-01-01T00:00:00Z", ("0001-01-01T00:00:00", True)),
        ("2023-02-29T00:00:00Z", None),
        ("1900-02-29", None),
        ("2026-13-01", None),
        ("2026-00-01", None),
        ("2026-01-00", None),
        ("2026-11-21T24:00:00Z", None),
        ("2026-11-21T10:60:00Z", None),
        ("2026-11-21T10:00:60Z", None),
        ("2026-11-21T10:00:00.Z", None),
        ("2026-11-21T10:00:00.", None),
        ("2026-11-21T10:00:00.12x", None),
        ("2026-11-21T10:00:00+1:30", None),
        ("2026-11-21T10:00:00+01:30:00", None),
        ("2026-11-21X10:00:00Z", None),
        ("2026-11-21T10:00:00 Z", None),
        ("2026/11/21", None),
        ("21.11.2026", None),
        ("2026-11-21T10", None),
        ("２026-11-21", None),
        ("0000-01-01", None),
        ("", None),
        (None, None),
    ],
)
def test_what_is_read(text: str | None, expected: tuple[str, bool] | None) -> None:
    assert read([text]) == [expected]
    assert read(["2020-01-01T00:00:00Z", text, "2020-01-01"])[1] == expected


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),
            st.none() | st.integers(-1439, 1439),
            st.sampled_from("T "),
        ),
        min_size=1,
    )
)
def test_what_isoformat_writes_is_read_back(times: list[tuple[datetime, int | None, str]]) -> None:
    texts: list[str | None] = []
    expected: list[tuple[str, bool] | None] = []
    for value, minutes, separator in times:
        if minutes is None:
            texts.append(value.isoformat(separator))
            expected.append((value.isoformat(), False))
        else:
            aware = value.replace(tzinfo=timezone(timedelta(minutes=minutes)))
            texts.append(aware.isoformat(separator))
            expected.append((aware.astimezone(UTC).replace(tzinfo=None).isoformat(), True))
    assert read(texts) == expected
