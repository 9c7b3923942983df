"""Write card payments and account events, shaped like BankSim, for this example.

    python specs/fraud/generate.py --transactions 100000 --events 14000 --seed 7

`data/transactions/` and `data/events/` get the history, a Parquet file per month: all that was known
`--stream-last` before `--end`. `data/stream/` gets what arrived since, in the order in which it arrived.

The numbers below named after BankSim are counts and quantiles of bs140513_032310 (594,643 payments of 4,112
customers at 50 merchants), as published in analyses of it. The rest is chosen, so that there is something to
learn beyond the amount: frauds come in bursts, at night more often, in risky categories, and mostly follow
a login from a new device and a change of details or password.

As in life, about three rows in a hundred arrive minutes or hours late, rows arrive out of order, and one
in a hundred arrives twice: a producer that retries repeats `transaction_id` and `timestamp`. The numbers
asked for are distinct payments and events. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from featurestore.instants import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    format_instant,
    now,
    parse_duration,
    parse_instant,
)

Array = npt.NDArray[Any]

# BankSim: payments, and how they fall by customer, age, gender, category, fraud and amount.
PAYMENTS, FRAUDS, CUSTOMERS, MERCHANTS, DAYS = 594_643, 7_200, 4_112, 50, 180
AGE = {"2": 187310, "3": 147131, "4": 109025, "5": 62642, "1": 58131, "6": 26774, "0": 2452, "U": 1178}
GENDER = {"F": 324565, "M": 268385, "E": 1178, "U": 515}
CATEGORY = {
    "es_transportation": 505119,
    "es_food": 26254,
    "es_health": 16133,
    "es_wellnessandbeauty": 15086,
    "es_fashion": 6454,
    "es_barsandrestaurants": 6373,
    "es_hyper": 6098,
    "es_sportsandtoys": 4002,
    "es_tech": 2370,
    "es_home": 1986,
    "es_hotelservices": 1744,
    "es_otherservices": 912,
    "es_contents": 885,
    "es_travel": 728,
    "es_leisure": 499,
}


@dataclass(frozen=True)
class Amounts:
    """Published statistics of an amount."""

    mean: float
    std: float
    least: float
    p25: float
    p50: float
    p75: float
    most: float


LEGIT = Amounts(31.84723, 31.470876, 0.0, 13.59, 26.61, 41.895, 2144.86)
FRAUD = Amounts(530.926551, 835.587112, 0.03, 159.98, 319.175, 548.9775, 8329.96)

# Chosen: the frauds by category (of 7,200), the pull of a category on the amount, merchants per category.
FRAUDS_BY_CATEGORY = {
    "es_transportation": 250,
    "es_food": 150,
    "es_health": 1900,
    "es_wellnessandbeauty": 800,
    "es_fashion": 300,
    "es_barsandrestaurants": 200,
    "es_hyper": 400,
    "es_sportsandtoys": 1400,
    "es_tech": 300,
    "es_home": 400,
    "es_hotelservices": 500,
    "es_otherservices": 200,
    "es_contents": 20,
    "es_travel": 230,
    "es_leisure": 150,
}
COSTLINESS = {
    "es_travel": 3.0,
    "es_hotelservices": 2.4,
    "es_leisure": 2.0,
    "es_tech": 1.8,
    "es_home": 1.8,
    "es_health": 1.4,
    "es_sportsandtoys": 1.4,
    "es_otherservices": 1.2,
    "es_fashion": 1.0,
}
MERCHANTS_BY_CATEGORY = (3, 4, 5, 5, 4, 4, 3, 4, 3, 3, 3, 2, 2, 3, 2)
BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 7, 9, 9, 9, 10, 11, 11, 10, 9, 9, 10, 11, 11, 9, 7, 5, 3)
FRAUD_BY_HOUR = (8, 9, 9, 9, 8, 6, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 6, 7)
EVENTS = {"login": 0.92, "details_change": 0.05, "password_change": 0.03}
NEW_DEVICE = 0.03  # of the logins that lead to no fraud
WARNED = 0.75  # of the bursts of fraud, those that account events precede
TRIPS = 0.15  # of the honest payments, those made soon after another of the same customer
LATE_MINUTES, LATE_HOURS, RETRIED = 0.025, 0.005, 0.01


def main(arguments: list[str] | None = None) -> None:
    """Write the files that the command line asks for and print what they hold."""
    options = _parser().parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    end = parse_instant(options.end) if options.end else now() // HOUR * HOUR
    start = end - options.days * DAY
    cut = end - parse_duration(options.stream_last)
    if cut < start:
        raise SystemExit(f"--stream-last {options.stream_last} is longer than --days {options.days}")

    bursts, payments = make_payments(rng, options.transactions, start, end)
    events = make_events(rng, options.events, bursts, payments, start, end)
    for name, frame in (("transactions", payments), ("events", events)):
        arrived = _arrivals(rng, frame, end)
        _write_history(options.out / name, arrived.filter(pl.col("received_at") < _literal(cut)))
        recent = arrived.filter(pl.col("received_at") >= _literal(cut))
        lines = recent.with_columns(
            pl.col("timestamp", "received_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        ).write_ndjson()
        if name == "transactions" and options.bad:
            lines = _with_bad_lines(rng, lines, options.bad, end)
        stream = options.out / "stream"
        stream.mkdir(parents=True, exist_ok=True)
        (stream / f"{name}.ndjson").write_bytes(lines.encode())
        print(
            f"{name}: {frame.height:,} distinct, {arrived.height - frame.height:,} repeated; "
            f"{arrived.height - recent.height:,} in history, {recent.height:,} in the stream"
        )
    print(f"{payments['fraud'].sum():,} payments are frauds; the stream starts at {format_instant(cut)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    here = Path(__file__).parent / "data"
    parser.add_argument("--transactions", type=int, default=100_000, help="distinct payments")
    parser.add_argument("--events", type=int, default=14_000, help="distinct account events")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--days", type=int, default=DAYS, help="how far back the first payment may lie")
    parser.add_argument(
        "--end", help="the instant after the last row, as 2026-11-01T00:00Z; now, to the hour"
    )
    parser.add_argument(
        "--stream-last", default="1d", help="what arrived this long before the end is streamed"
    )
    parser.add_argument("--bad", type=int, default=0, help="unusable lines to mix into the payments' stream")
    parser.add_argument("--out", type=Path, default=here, help="the folder to write to")
    return parser


# Payments


@dataclass(frozen=True)
class Bursts:
    """Runs of fraudulent payments: the victim and the first payment's instant, of each."""

    customer: Array
    start: Array


def make_payments(rng: np.random.Generator, rows: int, start: int, end: int) -> tuple[Bursts, pl.DataFrame]:
    """Return the bursts of fraud, and `rows` payments by `timestamp`, honest and fraudulent."""
    density = PAYMENTS / CUSTOMERS / DAYS * (end - start) / DAY
    people = _customers(rng, max(20, round(rows / density)))
    frauds = round(rows * FRAUDS / PAYMENTS)
    honest = rows - frauds
    bursts, burst, time = _burst_times(rng, frauds, len(people), start, end)
    customer, trip = _honest_times(rng, honest, people["weight"].to_numpy(), start, end)

    share = np.array(list(FRAUDS_BY_CATEGORY.values()), float)
    published = np.array(list(CATEGORY.values()), float)
    category = np.concatenate(
        [_choose(rng, published - share * FRAUDS / share.sum(), honest), _choose(rng, share, frauds)]
    )
    payer = np.concatenate([customer, bursts.customer[burst]])
    fraud = np.repeat([0, 1], [honest, frauds])
    amount = _amounts(rng, category, payer, fraud, len(people))
    instant = np.concatenate([trip, time]) // SECOND * SECOND
    order = np.argsort(instant, kind="stable")
    names = _merchant_names(rng)
    payments = pl.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "source": people["name"].gather(payer[order]),
            "target": names.gather(_merchants(rng, category)[order]),
            "timestamp": instant[order],
            "age": people["age"].gather(payer[order]),
            "gender": people["gender"].gather(payer[order]),
            "category": pl.Series(list(CATEGORY)).gather(category[order]),
            "amount": amount[order],
            "fraud": fraud[order],
        }
    )
    return Bursts(people["name"].gather(bursts.customer).to_numpy(), bursts.start), payments.with_columns(
        pl.concat_str(pl.lit("T"), pl.col("transaction_id").cast(pl.String).str.zfill(9)).alias(
            "transaction_id"
        ),
        _instant("timestamp"),
    )


def _customers(rng: np.random.Generator, size: int) -> pl.DataFrame:
    """Return customers with a weight, how much they pay; age and gender fall over payments as published."""
    weight = rng.gamma(2.0, 1.0, size) + 0.05
    gender = _spread(rng, weight, GENDER)
    age = _spread(rng, weight, {name: count for name, count in AGE.items() if name != "U"})
    return pl.DataFrame(
        {"name": _names(rng, "C", size), "weight": weight, "gender": gender, "age": age}
        # In BankSim the payments of enterprises (E) are those of unknown age (U).
    ).with_columns(pl.when(pl.col("gender") == "E").then(pl.lit("U")).otherwise("age").alias("age"))


def _spread(rng: np.random.Generator, weight: Array, counts: dict[str, int]) -> list[str]:
    """Return a value per customer, so that their weights fall on values as `counts` do; rare ones first."""
    order = rng.permutation(len(weight))
    names = sorted(counts, key=lambda name: counts[name])
    edges = np.cumsum([counts[name] for name in names]) / sum(counts.values())
    before = np.cumsum(weight[order]) - weight[order]
    index = np.minimum(np.searchsorted(edges, before / weight.sum(), side="right"), len(names) - 1)
    index[: len(names)] = np.minimum(index[: len(names)], np.arange(len(names)))  # at least one of each
    values = np.empty(len(weight), object)
    values[order] = np.array(names, object)[index]
    return list(values)


def _burst_times(
    rng: np.random.Generator, frauds: int, customers: int, start: int, end: int
) -> tuple[Bursts, Array, Array]:
    """Return bursts of one to six frauds within hours, each fraud's burst, and its instant."""
    lengths = np.cumsum(rng.integers(1, 7, frauds))
    burst = np.searchsorted(lengths, np.arange(frauds), side="right")
    size = int(burst.max(initial=-1)) + 1
    first = _times(rng, size, start + 4 * HOUR, end - 12 * HOUR, FRAUD_BY_HOUR)
    gap = rng.exponential(18 * MINUTE, frauds).astype(np.int64)
    opening = np.searchsorted(burst, np.arange(size))
    gap[opening] = 0
    total = np.cumsum(gap)
    time = first[burst] + total - total[opening][burst]
    return Bursts(rng.integers(0, customers, size), first), burst, np.minimum(time, end - SECOND)


def _honest_times(
    rng: np.random.Generator, size: int, weight: Array, start: int, end: int
) -> tuple[Array, Array]:
    """Return customer and instant of honest payments, some of them minutes after another."""
    customer = _choose(rng, weight, size)
    time = _times(rng, size, start, end, BY_HOUR)
    follows = np.flatnonzero(rng.random(size) < TRIPS)
    leader = rng.integers(0, max(size, 1), len(follows))
    customer[follows] = customer[leader]
    gap = rng.exponential(35 * MINUTE, len(follows)).astype(np.int64)
    after = time[leader] + gap
    time[follows] = np.where(after < end, after, np.maximum(time[leader] - gap, start))
    return customer, time


def _times(rng: np.random.Generator, size: int, low: int, high: int, by_hour: tuple[int, ...]) -> Array:
    """Return instants in [low, high), over the hours of the day as `by_hour` weighs them."""
    cumulative = np.concatenate([[0.0], np.cumsum(by_hour)]) / sum(by_hour)

    def draw(count: int) -> Array:
        days = rng.integers(low // DAY, (high - 1) // DAY + 1, count)
        return days * DAY + (np.interp(rng.random(count), cumulative, np.arange(25)) * HOUR).astype(np.int64)

    time = draw(size)
    while (outside := np.flatnonzero((time < low) | (time >= high))).size:
        time[outside] = draw(outside.size)
    return time


def _merchants(rng: np.random.Generator, category: Array) -> Array:
    """Return a merchant of each category's own, the first ones far more often."""
    per_category = np.array(MERCHANTS_BY_CATEGORY)
    first = np.cumsum(per_category) - per_category
    size = per_category[category]
    return first[category] + np.minimum((size * rng.random(len(category)) ** 2.2).astype(np.int64), size - 1)


def _merchant_names(rng: np.random.Generator) -> pl.Series:
    assert sum(MERCHANTS_BY_CATEGORY) == MERCHANTS
    return pl.Series(_names(rng, "M", MERCHANTS))


def _names(rng: np.random.Generator, letter: str, size: int) -> list[str]:
    """Return distinct names such as C1093826151."""
    steps = np.cumsum(rng.integers(1, 2_000_000_000 // (size + 1), size))
    return [f"{letter}{number}" for number in rng.permutation(steps)]


def _amounts(rng: np.random.Generator, category: Array, payer: Array, fraud: Array, customers: int) -> Array:
    """Return amounts with the published quantiles; who pays for what only ranks them."""
    costliness = np.array([COSTLINESS.get(name, 0.0) for name in CATEGORY])
    habit = rng.normal(0.0, 0.5, customers)
    score = rng.normal(0.0, 1.0, len(category)) + costliness[category] + habit[payer]
    amount = np.empty(len(category))
    for flag, shape in ((0, LEGIT), (1, FRAUD)):
        rows = np.flatnonzero(fraud == flag)
        rank = np.empty(len(rows))
        rank[np.argsort(score[rows], kind="stable")] = (np.arange(len(rows)) + 0.5) / max(len(rows), 1)
        amount[rows] = np.round(_quantile(shape, rank), 2)
    return amount


def _quantile(shape: Amounts, rank: Array) -> Array:
    """Return the amount at each rank in (0, 1).

    Even between the published quartiles; above the third a lognormal excess, whose two parameters follow
    from the published mean and standard deviation. Capped at the published maximum.
    """
    knots = np.array([shape.least, shape.p25, shape.p50, shape.p75])
    middle = (knots[1:] + knots[:-1]) / 2
    squares = middle**2 + np.diff(knots) ** 2 / 12
    mean = 4 * shape.mean - middle.sum()
    variance = 4 * (shape.std**2 + shape.mean**2) - squares.sum() - mean**2
    excess = mean - shape.p75
    sigma = np.sqrt(np.log1p(variance / excess**2))
    scale = excess / np.exp(sigma**2 / 2)
    top = shape.p75 + scale * np.exp(sigma * _normal_quantile(np.clip(4 * rank - 3, 1e-9, 1 - 1e-9)))
    return np.where(rank < 0.75, np.interp(rank, [0.0, 0.25, 0.5, 0.75], knots), np.minimum(top, shape.most))


def _normal_quantile(rank: Array) -> Array:
    """Return the standard normal quantile, within 0.003 (Bowling et al. 2009: a logistic approximation)."""
    # The inverse of 1 / (1 + exp(-(0.07056 z^3 + 1.5976 z))), by Cardano's formula for the one real root.
    p, q = 1.5976 / 0.07056, -np.log(rank / (1 - rank)) / 0.07056
    root = np.sqrt(q**2 / 4 + p**3 / 27)
    return np.cbrt(-q / 2 + root) + np.cbrt(-q / 2 - root)


# Account events


def make_events(
    rng: np.random.Generator, rows: int, bursts: Bursts, payments: pl.DataFrame, start: int, end: int
) -> pl.DataFrame:
    """Return `rows` account events by `timestamp`: what precedes most bursts of fraud, and everyday ones."""
    warned = np.flatnonzero(rng.random(len(bursts.start)) < WARNED)[: rows // 4]
    login = bursts.start[warned] - rng.exponential(40 * MINUTE, len(warned)).astype(np.int64) - 2 * MINUTE
    change = login + (rng.random(len(warned)) * (bursts.start[warned] - login)).astype(np.int64)
    rest = rows - 2 * len(warned)
    kinds = np.array(list(EVENTS))
    everyday = kinds[_choose(rng, np.array(list(EVENTS.values())), rest)]
    customer = payments["source"].gather(rng.integers(0, payments.height, rest)).to_numpy()
    known = (rng.random(rest) >= NEW_DEVICE) | (everyday != "login")
    harmful = kinds[1 + (rng.random(len(warned)) < 0.5)]
    events = pl.DataFrame(
        {
            "source": np.concatenate([bursts.customer[warned]] * 2 + [customer]),
            "timestamp": np.concatenate([login, change, _times(rng, rest, start, end, BY_HOUR)]),
            "event": np.concatenate([np.repeat("login", len(warned)), harmful, everyday]).astype(object),
            "device": np.concatenate(
                [np.repeat("new", 2 * len(warned)), np.where(known, "known", "new")]
            ).astype(object),
        },
        schema={"source": pl.String, "timestamp": pl.Int64, "event": pl.String, "device": pl.String},
    ).with_columns(pl.col("timestamp") // SECOND * SECOND)
    return (
        events.sort("timestamp", maintain_order=True)
        .with_row_index("event_id")
        .with_columns(
            pl.concat_str(pl.lit("E"), pl.col("event_id").cast(pl.String).str.zfill(9)).alias("event_id"),
            _instant("timestamp"),
        )
    )


# Arrival


def _arrivals(rng: np.random.Generator, frame: pl.DataFrame, end: int) -> pl.DataFrame:
    """Return the rows in the order in which they became known (`received_at`), some of them twice."""
    size = frame.height
    happened = frame["timestamp"].cast(pl.Int64).to_numpy()
    luck = rng.random(size)
    delay = rng.exponential(1.5 * SECOND, size) + 50_000
    minutes = luck < LATE_MINUTES + LATE_HOURS
    delay[minutes] = rng.lognormal(np.log(10 * MINUTE), 0.8, int(minutes.sum()))
    hours = luck < LATE_HOURS
    delay[hours] = rng.uniform(1 * HOUR, 20 * HOUR, int(hours.sum()))
    received = happened + delay.astype(np.int64)
    after = np.flatnonzero(received >= end)  # all are known at the end
    received[after] = happened[after] + (rng.random(len(after)) * (end - happened[after])).astype(np.int64)
    again = np.flatnonzero(rng.random(size) < RETRIED)
    repeated = received[again] + rng.uniform(SECOND, 10 * MINUTE, len(again)).astype(np.int64)
    again, repeated = again[repeated < end], repeated[repeated < end]
    row = np.concatenate([np.arange(size), again])
    instant = np.concatenate([received, repeated])
    order = np.argsort(instant, kind="stable")
    return (
        frame[row[order]]
        .with_columns(pl.Series("received_at", instant[order]))
        .with_columns(_instant("received_at"))
    )


def _write_history(folder: Path, rows: pl.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("????-??.parquet"):
        old.unlink()
    months = rows.with_columns(pl.col("timestamp").dt.strftime("%Y-%m").alias("month"))
    for (month,), part in months.group_by("month", maintain_order=True):
        part.drop("month").write_parquet(folder / f"{month}.parquet")


def _with_bad_lines(rng: np.random.Generator, lines: str, count: int, end: int) -> str:
    """Return the lines with `count` more in between that no pipeline can use as they are."""
    made = _bad_lines(end)
    text = lines.splitlines()
    for place in sorted(rng.integers(0, len(text) + 1, count).tolist(), reverse=True):
        text.insert(place, next(made))
    return "".join(line + "\n" for line in text)


def _bad_lines(end: int) -> Iterator[str]:
    """Yield lines wrong in turn: cut off, no object, no time, no number, no key, naive, of tomorrow."""
    number = 0
    while True:
        good = {
            "transaction_id": f"B{number:09d}",
            "source": "C0",
            "target": "M0",
            "timestamp": format_instant(end - HOUR),
            "age": "2",
            "gender": "F",
            "category": "es_food",
            "amount": 10.0,
            "fraud": 0,
            "received_at": format_instant(end - HOUR),
        }
        wrong: list[str | dict[str, Any]] = [
            json.dumps(good)[:-20],
            "[]",
            good | {"timestamp": None},
            good | {"amount": "ten"},
            good | {"source": None},
            good | {"timestamp": format_instant(end - HOUR).rstrip("Z")},
            good | {"timestamp": format_instant(end + DAY)},
        ]
        line = wrong[number % len(wrong)]
        yield line if isinstance(line, str) else json.dumps(line)
        number += 1


def _choose(rng: np.random.Generator, weight: Array, size: int) -> Array:
    """Return indices drawn with these weights."""
    cumulative = np.cumsum(weight / weight.sum())
    return np.minimum(np.searchsorted(cumulative, rng.random(size), side="right"), len(weight) - 1)


def _instant(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("us", "UTC"))


def _literal(instant: int) -> pl.Expr:
    return pl.lit(instant).cast(pl.Datetime("us", "UTC"))


if __name__ == "__main__":
    main()
