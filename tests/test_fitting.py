"""Fitted steps: what is fitted over which rows, by hand; and that a fit belongs to a version."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from payments_project import SPECS, START, make_project, payment
from tests.lowerings import bits, frame_of
from tests.test_expressions_lowerings import ROWS
from tests.test_expressions_lowerings import SCHEMA as GENERATED

from featurestore import FeatureStore, RequestError
from featurestore.changes import CHANGED, CREATED, UNCHANGED, WAITING
from featurestore.cli.entry import main
from featurestore.compiler import NotFitted
from featurestore.errors import UnknownName
from featurestore.expressions.vectors import physical
from featurestore.specs.problems import SpecErrors
from featurestore.steps import compile_steps
from featurestore.steps.base import read
from featurestore.steps.frames import run
from featurestore.steps.rows import compile_rows
from featurestore.types import Field
from featurestore_engines.batch import fitting

STEPS = 'steps:\n  - derive: {large: "amount > 50"}\n'


def specs(*steps: str, text: str = SPECS) -> str:
    """Return the project's specs with these steps in place of its own."""
    return text.replace(STEPS, "steps:\n" + "".join(f"  - {step}\n" for step in steps))


def rows(*amounts: float | None, start: int = 0, **values: Any) -> pl.DataFrame:
    made = [payment(start + i, i, float(i), amount=a) for i, a in enumerate(amounts)]
    frame = pl.DataFrame(made, schema_overrides={"amount": pl.Float64, "customer": pl.Int64})
    return frame.with_columns(**values)


def project(folder: Path, *steps: str, text: str = SPECS, **files: pl.DataFrame) -> FeatureStore:
    make_project(folder, specs(*steps, text=text))
    for name, frame in files.items():
        frame.write_parquet(folder / "data" / f"{name}.parquet")
    return FeatureStore(folder)


def actions(changes: Any) -> dict[str, str]:
    return {change.name: change.action for change in changes if change.kind.startswith("Feature")}


def amounts(store: FeatureStore, column: str = "amount") -> list[Any]:
    """Return a column of the set's offline rows, by event time."""
    table = store.environment.rows_table(store.catalog.feature_set("spend"))
    return table.lazy(table.snapshot()).collect().sort("__event_time")[column].to_list()  # type: ignore[arg-type]


EIGHT = (2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0)  # mean 5, population std 2


def test_a_set_waits_for_its_fit_then_has_it_offline_and_online_alike(tmp_path):
    with project(tmp_path, "scale: {column: amount, into: scaled}", a=rows(*EIGHT, None)) as store:
        assert actions(store.apply()) == {"spend": WAITING, "risk": WAITING}
        assert store.fit("spend") == {"steps[0].amount": {"mean": 5.0, "std": 2.0}}
        assert actions(store.apply()) == {"spend": CREATED, "risk": CREATED}
        store.ingest("spend")
        assert amounts(store, "scaled") == [-1.5, -0.5, -0.5, -0.5, 0.0, 0.0, 1.0, 2.0, None]
        found = store.vector(["spend.scaled"]).get_online([{"customer": c} for c in (0, 7, 8)])
        assert [row[0] for row in found.rows] == [-1.5, 2.0, None]
        asked = pl.DataFrame({"customer": [0, 7, 8], "event_timestamp": [START.replace(day=2)] * 3})
        trained = store.get_offline_features(["spend.scaled"], asked).to_polars()
        assert trained["scaled"].to_list() == [-1.5, 2.0, None]
        assert store.verify("spend").is_equal
        for name in ("spend", "risk"):
            [pinned] = store.show(name)["fits"].values()
            assert (pinned["until"], pinned["values"]) == (
                None,
                {"steps[0].amount": {"mean": 5.0, "std": 2.0}},
            )


@pytest.mark.parametrize(
    ("step", "values", "fitted"),
    [
        ("scale: {column: amount}", EIGHT, {"mean": 5.0, "std": 2.0}),
        ("scale: {column: amount}", (3.0,), {"mean": 3.0, "std": 0.0}),
        ("scale: {column: amount}", (0.1, 0.1, 0.1), {"mean": 0.1, "std": 0.0}),
        ("scale: {column: amount}", (1e9 + 4, 1e9 + 7, 1e9 + 13), {"mean": 1e9 + 8, "std": 14**0.5}),
        ("scale: {column: amount}", (1e200, 3e200), {"mean": 2e200, "std": 1e200}),
        ("scale: {column: amount}", (1e308, 1.5e308), {"mean": 1.25e308, "std": 0.25e308}),
        ("scale: {column: amount}", (1e-200, 3e-200), {"mean": 2e-200, "std": 1e-200}),
        ("scale: {column: amount}", (1e16, 1.0, -1e16, 3.0), {"mean": 1.0, "std": math.sqrt(5e31)}),
        ("scale: {column: amount, method: min_max}", (3.0, -1.0, None, math.nan), {"min": -1.0, "max": 3.0}),
        ("scale: {column: amount, method: min_max}", (math.inf, 1.0, -math.inf), {"min": 1.0, "max": 1.0}),
        ("bin: {column: amount, quantiles: 4}", (1.0, 2.0, 3.0, 4.0), {"quantiles_4": [1.75, 2.5, 3.25]}),
        ("bin: {column: amount, quantiles: 2}", (9.0, 1.0, 4.0), {"quantiles_2": [4.0]}),
        ("bin: {column: amount, quantiles: 4}", (7.0,), {"quantiles_4": [7.0, 7.0, 7.0]}),
        ("bin: {column: amount, quantiles: 3}", (1.0, 2.5), {"quantiles_3": [1.5, 2.0]}),
        ("impute: {column: amount, value: $mean}", (1.0, None, 2.0), {"mean": 1.5}),
        ("impute: {column: amount, value: $median}", (1.0, 9.0, 2.0, 3.0, math.nan), {"median": 2.5}),
        ("impute: {amount: $mode}", (3.0, 2.0, 2.0, 3.0, 1.0), {"mode": 2.0}),
        ("impute: {shop: $mode}", (1.0, 2.0), {"mode": "a"}),
        ("impute: {at: $median}", (1.0, 2.0), {"median": 1772323230000000}),
        ("impute: {customer: $mean}", (1.0, 2.0), {"mean": 0.5}),
    ],
)  # fmt: skip
def test_what_is_fitted(tmp_path: Path, step: str, values: Sequence[float], fitted: dict[str, Any]) -> None:
    with project(tmp_path, step) as store:
        [found] = store.fit("spend", rows=rows(*values)).values()
        assert found == {
            name: pytest.approx(value, rel=1e-15, abs=0) if name == "std" else value
            for name, value in fitted.items()
        }


WIDE = SPECS.replace(
    "schema: {", "schema: {big: int64, unsigned: uint64, price: 'decimal(12,2)', day: date, "
)


def wide(*values: int) -> pl.DataFrame:
    small = [abs(v) % 1000 for v in values]
    return rows(*map(float, values)).with_columns(
        big=pl.Series(values, dtype=pl.Int64),
        unsigned=pl.Series([2**64 - 1 - v for v in small], dtype=pl.UInt64),
        price=pl.Series([f"{v}.10" for v in small]).cast(pl.Decimal(9, 2)),
        day=pl.Series(small, dtype=pl.Int32).cast(pl.Date),
    )


def test_whole_numbers_and_decimals_are_summed_exactly(tmp_path):
    steps = [f"scale: {{column: {name}, into: s_{name}}}" for name in ("big", "unsigned", "price")]
    with project(tmp_path, *steps, text=WIDE) as store:
        far = 2**62
        fitted = store.fit("spend", rows=wide(far + 1, far + 4, far + 7))
        digits = [(far + n) % 1000 for n in (1, 4, 7)]
        assert len({d // 100 for d in digits}) == 1  # no wrap at 1000: steps of 3
        deviation = math.sqrt(6.0)
        assert fitted["steps[0].big"]["std"] == pytest.approx(deviation, rel=1e-15)
        assert fitted["steps[1].unsigned"]["std"] == pytest.approx(deviation, rel=1e-15)
        assert fitted["steps[2].price"] == {
            "mean": pytest.approx(digits[1] + 0.1, rel=1e-15),
            "std": pytest.approx(deviation, rel=1e-15),
        }
        assert fitted["steps[0].big"]["mean"] == float(Fraction(far + 4))


def test_fitted_values_take_the_columns_type_integers_and_times_half_to_even(tmp_path):
    steps = ["impute: {big: $mean, price: $median, day: $median, unsigned: $mode}"]
    with project(tmp_path, *steps, text=WIDE) as store:
        fitted = store.fit("spend", rows=wide(1, 2))
        assert fitted == {
            "steps[0].big": {"mean": 1.5},
            "steps[0].price": {"median": 1.6},
            "steps[0].day": {"median": 2},
            "steps[0].unsigned": {"mode": 2**64 - 3},
        }
        store.apply()
        empty = wide(1).with_columns(
            pl.lit(None).cast(kind).alias(name)
            for name, kind in wide(1).select("big", "price", "day", "unsigned").schema.items()
        )
        seen = store.preview("spend", empty).features.select("big", "price", "day", "unsigned").row(0)
        assert [str(value) for value in seen] == ["2", "1.60", "1970-01-03", str(2**64 - 3)]


def test_a_step_is_fitted_after_the_steps_before_it_and_a_fitted_one_uses_the_first_ones_fit(tmp_path):
    steps = [
        'filter: "amount > 0"',
        "validate: {column: amount, max: 100}",
        "impute: {column: amount, value: $mean}",
        "scale: {column: amount, method: min_max}",
        "bin: {column: amount, quantiles: 2, into: half}",
        'derive: {later: "amount * 2"}',
    ]
    with project(tmp_path, *steps, a=rows(1.0, 3.0, 5.0, None, -7.0, 1000.0)) as store:
        # null passes neither the filter; so 1, 3, 5 are left: mean 3, 0..1 over 1..5, median 0.5
        assert store.fit("spend") == {
            "steps[2].amount": {"mean": 3.0},
            "steps[3].amount": {"min": 1.0, "max": 5.0},
            "steps[4].amount": {"quantiles_2": [0.5]},
        }
        store.apply()
        store.ingest("spend")
        assert amounts(store) == [0.0, 0.5, 1.0]
        assert amounts(store, "half") == [0, 1, 1]
        assert amounts(store, "later") == [0.0, 1.0, 2.0]


def test_equal_quantiles_are_one_edge_and_a_constant_column_scales_to_zero(tmp_path):
    steps = ["bin: {column: amount, quantiles: 4, into: quarter}", "scale: {column: amount}"]
    with project(tmp_path, *steps) as store:
        store.fit("spend", rows=rows(1.0, 1.0, 1.0, 1.0))
        seen = store.preview("spend", rows(0.5, 1.0, 2.0, None, math.nan)).features
        assert seen["quarter"].to_list() == [0, 1, 1, None, None]
        assert str(seen["amount"].to_list()) == "[0.0, 0.0, 0.0, None, nan]"


def test_until_takes_rows_at_the_instant_and_none_after(tmp_path):
    with project(tmp_path, "scale: {column: amount, method: min_max}", a=rows(1.0, 2.0, 3.0)) as store:
        assert store.fit("spend", until=START + timedelta(minutes=1)) == {
            "steps[0].amount": {"min": 1.0, "max": 2.0}
        }
        with pytest.raises(RequestError, match="nothing to fit: 'amount' has no value up to 2026-02-28T"):
            store.fit("spend", until=START - timedelta(minutes=1))


def test_both_halves_are_fitted_each_event_once(tmp_path):
    text = SPECS
    with project(tmp_path, "derive: {large: 'amount > 50'}", text=text, a=rows(1.0, 2.0)) as store:
        store.apply()
        pushed = [payment(1, 1, 1.0, amount=2.0), payment(7, 1, 2.0, amount=6.0)]  # p1 is in the file too
        store.push("payments", pushed)
        store.drain()
        (tmp_path / "specs.yaml").write_text(specs("scale: {column: amount}"))
        fitted = store.fit("spend")["steps[0].amount"]
        assert fitted == {"mean": 3.0, "std": pytest.approx(math.sqrt(14 / 3), rel=1e-15)}


def test_the_newest_copy_of_an_event_is_fitted_where_it_replaces(tmp_path):
    text = SPECS.replace("event_id: id\n", "event_id: id\non_duplicate: replace\n")
    later = payment(1, 1, 1.0, amount=8.0, seen=START + timedelta(hours=1))
    copies = pl.concat([pl.DataFrame([later]), rows(1.0, 2.0)], how="diagonal_relaxed")
    with project(tmp_path, "scale: {column: amount, method: min_max}", text=text, a=copies) as store:
        assert store.fit("spend")["steps[0].amount"] == {"min": 1.0, "max": 8.0}
    with project(tmp_path / "b", "scale: {column: amount, method: min_max}", a=copies) as store:
        assert store.fit("spend")["steps[0].amount"] == {"min": 1.0, "max": 2.0}


@pytest.mark.parametrize(
    ("on_duplicate", "expected"),
    [("first", {"min": 4.0, "max": 4.0}), ("replace", {"min": 2.0, "max": 4.0})],
)
def test_what_was_taken_back_is_not_fitted(tmp_path, on_duplicate, expected):
    text = SPECS.replace(
        "event_id: id\n", f"event_id: id\non_duplicate: {on_duplicate}\ndeleted: \"shop = 'x'\"\n"
    )
    hours = [START + timedelta(hours=n) for n in (1, 2)]
    copies = [
        payment(1, amount=1.0),
        payment(1, amount=9.0, shop="x", seen=hours[0]),
        payment(2, amount=1.0),
        payment(2, amount=9.0, shop="x", seen=hours[0]),
        payment(2, amount=2.0, seen=hours[1]),  # brings it back, where it replaces
        payment(3, amount=4.0),
    ]
    step = "scale: {column: amount, method: min_max}"
    with project(tmp_path, step, text=text, a=pl.DataFrame(copies)) as store:
        assert store.fit("spend")["steps[0].amount"] == expected


def test_many_small_reads_give_what_one_gives(tmp_path, monkeypatch):
    values = [float(i * i % 97) for i in range(200)]
    copies = pl.concat([rows(*values), rows(*values[:50])])
    steps = ["scale: {column: amount, into: s}", "bin: {column: amount, quantiles: 10, into: b}"]
    with project(tmp_path, *steps, a=copies) as store:
        whole = store.fit("spend")
        monkeypatch.setattr("featurestore_engines.batch.fitting.READ_ROWS", 7)
        assert store.fit("spend") == whole
    ordered = [Fraction(value) for value in sorted(values)]
    places = [(199 * k // 10, Fraction(199 * k % 10, 10)) for k in range(1, 10)]
    edges = [float(ordered[i] + part * (ordered[i + 1] - ordered[i])) for i, part in places]
    assert whole["steps[1].amount"]["quantiles_10"] == edges
    mean = sum(values) / 200
    assert whole["steps[0].amount"]["mean"] == mean
    assert whole["steps[0].amount"]["std"] == pytest.approx(
        math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 200), rel=1e-14
    )


def test_a_new_fit_is_a_new_version_and_what_is_applied_keeps_its_own(tmp_path):
    with project(tmp_path, "scale: {column: amount, method: min_max}", a=rows(0.0, 10.0)) as store:
        store.fit("spend")
        store.apply()
        store.ingest("spend")
        first = store.catalog.feature_set("spend")
        store.fit("spend", rows=rows(0.0, 20.0))
        assert store.catalog.feature_set("spend") == first
        assert amounts(store) == [0.0, 1.0]
        assert actions(store.apply()) == {"spend": CHANGED, "risk": CHANGED}
        second = store.catalog.feature_set("spend")
        assert second.rows_fingerprint != first.rows_fingerprint
        store.materialize("spend")
        assert amounts(store) == [0.0, 0.5]
        old = store.catalog.feature_set(f"spend@{store.show('spend')['versions'][0]}")
        assert old.steps == first.steps
        assert store.fit("spend", rows=rows(0.0, 20.0)) == {"steps[0].amount": {"min": 0.0, "max": 20.0}}
        assert actions(store.apply()) == {"spend": UNCHANGED, "risk": UNCHANGED}
    with FeatureStore(tmp_path) as again:  # from the registry alone
        assert again.catalog.feature_set("spend").steps == second.steps
        assert again.vector("risk").plan.lookups[0].set == second


def test_a_step_after_the_fitted_ones_needs_no_new_fit_and_one_before_them_does(tmp_path):
    steps = ['derive: {amount: "amount * 2"}', "scale: {column: amount}"]
    with project(tmp_path, *steps, a=rows(1.0, 2.0)) as store:
        store.fit("spend")
        store.apply()
        (tmp_path / "specs.yaml").write_text(specs(*steps, "drop: [shop]", text=SPECS))
        assert WAITING not in actions(store.plan()).values()
        (tmp_path / "specs.yaml").write_text(specs('derive: {amount: "amount * 3"}', *steps[1:]))
        assert actions(store.plan())["spend"] == WAITING


CHAINED = """---
kind: FeatureSet
name: daily
entities: [customer]
source: spend
steps: [{scale: {column: amount, method: min_max, into: again}}]
---
kind: FeatureVector
name: both
features: [spend.amount, daily.again]
impute: {amount: $mean}
"""


def test_a_chained_set_uses_its_parents_fit_and_comes_after_it(tmp_path):
    with project(tmp_path, "scale: {column: amount}", text=SPECS + CHAINED, a=rows(*EIGHT)) as store:
        assert set(actions(store.apply()).values()) == {WAITING}
        with pytest.raises(
            NotFitted, match=r"reads 'spend', steps of which are not fitted. Run: featurestore fit spend"
        ):
            store.fit("daily")
        store.fit("spend")
        assert actions(store.apply()) == {
            "spend": CREATED, "risk": CREATED, "daily": WAITING, "both": WAITING
        }  # fmt: skip
        assert store.fit("daily") == {"steps[0].amount": {"min": -1.5, "max": 2.0}}
        store.apply()
        for name in ("spend", "daily"):
            store.ingest(name)
        asked = pl.DataFrame({"customer": [0, 4], "event_timestamp": [START.replace(day=2)] * 2})
        assert store.fit("both", rows=asked) == {"amount": {"mean": -0.75}}
        assert actions(store.apply())["both"] == CREATED
        made = store.vector("both").get_offline(asked).to_polars()
        assert made["again"].to_list() == [0.0, pytest.approx(1.5 / 3.5, rel=1e-15)]
        store.fit("spend", rows=rows(0.0, 1.0))  # another parent: the chained set's fit is of other values
        assert actions(store.plan()) == {
            "spend": CHANGED, "risk": CHANGED, "daily": WAITING, "both": WAITING
        }  # fmt: skip


def test_what_is_not_fitted_is_refused_everywhere_with_the_command(tmp_path, capsys):
    command = "Run: featurestore fit spend"
    steps = ["scale: {column: amount}", "bin: {column: amount, quantiles: 4}"]
    with project(tmp_path, *steps, a=rows(1.0)) as store:
        told = {change.name: change.effects for change in store.apply()}
        line = (tmp_path / "specs.yaml").read_text().splitlines().index("  - scale: {column: amount}") + 1
        missing = "steps[0]: mean and std of 'amount', quantiles_4 of 'amount' are not fitted."
        assert told["spend"][0].endswith(f"specs.yaml:{line}: {missing} {command}")
        waits = "it reads feature set 'spend', whose steps are not fitted."
        assert told["risk"][0].endswith(f"{waits} {command}")
        for refused in (
            lambda: store.preview("spend", rows(1.0)),
            lambda: store.ingest("spend"),
            lambda: store.ingest("payments"),
        ):
            with pytest.raises(NotFitted, match=command):
                refused()
        with pytest.raises(NotFitted, match=command):
            store.fit("risk")
    assert main(["validate", "-C", str(tmp_path)]) == 0
    assert command in capsys.readouterr().err
    assert main(["apply", "-C", str(tmp_path)]) == 0
    assert "! FeatureSet spend  waiting" in capsys.readouterr().out
    assert main(["ingest", "-C", str(tmp_path)]) == 1
    assert command in capsys.readouterr().err
    assert main(["fit", "spend", "-C", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["validate", "-C", str(tmp_path)]) == 0
    assert command not in capsys.readouterr().err


def test_the_command_fits_a_set_also_over_a_file(tmp_path, capsys):
    with project(tmp_path, "scale: {column: amount, method: min_max}", a=rows(1.0, 2.0)):
        pass
    assert main(["fit", "spend", "-C", str(tmp_path)]) == 0
    assert "steps[0].amount  max          2.0" in capsys.readouterr().out
    rows(3.0, 4.0).write_csv(tmp_path / "more.csv")
    assert main(["fit", "spend", "--rows", str(tmp_path / "more.csv"), "--json", "-C", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"steps[0].amount": {"min": 3.0, "max": 4.0}}


@given(
    st.lists(st.floats(allow_nan=True, width=64) | st.none(), min_size=1, max_size=40),
    st.integers(2, 9),
    st.integers(1, 11),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_statistics_are_those_of_exact_arithmetic(values, parts, at_once):
    finite = sorted(v for v in values if v is not None and math.isfinite(v))
    with tempfile.TemporaryDirectory() as folder:
        held = fitting._Values(Path(folder) / "values.parquet")
        for start in range(0, len(values), at_once):
            held.add(pl.Series(values[start : start + at_once], dtype=pl.Float64))
        held.close()
        assert held.count == len(finite)
        if not finite:
            return
        exact = [Fraction(v) for v in finite]
        mean = sum(exact) / len(exact)
        assert held.statistic("mean") == float(mean)
        variance = sum((v - mean) ** 2 for v in exact) / len(exact)
        assert is_root(held.statistic("std"), variance, max(map(abs, exact)))
        places = [divmod((len(exact) - 1) * k, parts) for k in range(1, parts)]
        padded = [*exact, exact[-1]]
        edges = [padded[i] + Fraction(over, parts) * (padded[i + 1] - padded[i]) for i, over in places]
        assert held.statistic(f"quantiles_{parts}") == [float(edge) for edge in edges]
        assert (held.statistic("min"), held.statistic("max")) == (finite[0], finite[-1])
        often = max(finite.count(v) for v in finite)
        assert held.statistic("mode") == min(v for v in finite if finite.count(v) == often)


def is_root(found: float, variance: Fraction, largest: Fraction) -> bool:
    """Return whether a float is the root of an exact number, but for what rounding a value may cost."""
    if math.isinf(found):
        return largest > Fraction(2) ** 1022
    slack = Fraction(found) / 10**13 + largest / 10**15 + Fraction(5e-324)
    low, high = Fraction(found) - slack, Fraction(found) + slack
    return low * abs(low) <= variance <= high * high


FITTED = [
    ({"scale": {"column": "x"}}, {"x": {"mean": 0.5, "std": 2.0}}),
    ({"scale": {"column": "i", "into": "scaled"}}, {"i": {"mean": 3.0, "std": 0.0}}),
    ({"scale": {"column": "x", "method": "min_max", "into": "scaled"}}, {"x": {"min": -1.0, "max": 3.0}}),
    ({"scale": {"column": "j", "method": "min_max"}}, {"j": {"min": 5, "max": 5}}),
    ({"bin": {"column": "x", "quantiles": 4}}, {"x": {"quantiles_4": [0.0, 0.0, 1.5]}}),
    ({"bin": {"column": "i", "quantiles": 3, "into": "b"}}, {"i": {"quantiles_3": [-0.5, 7]}}),
    ({"bin": {"column": "t", "quantiles": 2, "into": "b"}}, {"t": {"quantiles_2": [0]}}),
    ({"impute": {"x": "$mean"}}, {"x": {"mean": 0.1}}),
    ({"impute": {"i": "$median"}}, {"i": {"median": 2.5}}),
    ({"impute": {"column": "s", "value": "$mode"}}, {"s": {"mode": "$a"}}),
    ({"impute": {"t": "$median"}}, {"t": {"median": 1}}),
]


@given(st.lists(st.sampled_from(FITTED), min_size=1, max_size=4), st.lists(ROWS, min_size=1, max_size=10))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_fitted_steps_give_rows_and_frames_the_same_values(chosen, rows):
    numbers = ("i", "j", "x")
    for place, (step, _) in enumerate(chosen):  # one that made of a column something else comes last
        column = next(iter(step.values())).get("column")
        if "into" not in next(iter(step.values())) and column in numbers:
            chosen = chosen[: place + 1]
            break
    fields = tuple(Field(name, kind) for name, kind in GENERATED.items())
    plan = compile_steps([read(step) for step, _ in chosen], fields, fits=[fits for _, fits in chosen])
    assert not plan.needs
    kept, rejected = run(plan, frame_of(GENERATED, rows))
    function = compile_rows(plan)
    assert not rejected.height
    by_frame = kept.select(*map(physical, kept.iter_columns())).to_dicts()
    for row, found in zip(rows, by_frame, strict=True):
        assert {n: bits(v) for n, v in (function(row) or {}).items()} == {
            n: bits(v) for n, v in found.items()
        }


def test_what_has_nothing_to_fit_or_is_not_there_is_said(tmp_path):
    with project(tmp_path, "drop: [shop]") as store:
        with pytest.raises(RequestError, match=r"'spend' has nothing to fit. Its steps take no statistic"):
            store.fit("spend")
        with pytest.raises(UnknownName, match=r"no feature set or vector 'spemd'. Did you mean 'spend'"):
            store.fit("spemd")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("bin: {column: amount}", "say edges: or quantiles:."),
        ("bin: {column: amount, edges: [1], quantiles: 2}", "say edges: or quantiles:."),
        ("bin: {column: amount, quantiles: 2, labels: [a, b]}", "labels: go with edges:"),
        ("bin: {column: amount, quantiles: 1}", "greater than or equal to 2"),
        ("scale: {column: amount, method: robust}", "'robust' is not allowed."),
        ("scale: {column: shop}", "A number is needed, and 'shop' is string."),
        ("impute: {shop: $mean}", "'shop' is string: there is no mean of it."),
    ],
)
def test_a_fitted_step_that_makes_no_sense_is_refused(tmp_path, step, message):
    with project(tmp_path, step) as store, pytest.raises(SpecErrors) as caught:
        store.plan()
    assert message in str(caught.value)


def test_a_vectors_imputes_leave_nan_and_infinities_out_as_steps_do(tmp_path):
    (tmp_path / "featurestore.yaml").write_text("project: shop\n")
    (tmp_path / "specs.yaml").write_text(
        "kind: Entity\nname: home\n---\n"
        "kind: Source\nname: listings\nevent_time: at\n"
        'schema: {home: string, at: timestamp, area: float64}\nbatch: {kind: csv, path: "*.csv"}\n---\n'
        "kind: FeatureSet\nname: listing\nentities: [home]\nsource: listings\n---\n"
        "kind: FeatureVector\nname: known\nbase: listing\nfeatures: [listing.area]\nimpute: {area: $mean}\n"
    )
    areas = ["1.0", "inf", "nan", "", "4.0"]
    lines = ["home,at,area", *(f"H{i},2026-03-01T00:00:00Z,{area}" for i, area in enumerate(areas))]
    (tmp_path / "listings.csv").write_text("\n".join(lines))
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.ingest("listing")
        assert store.fit("known") == {"area": {"mean": 2.5}}
        with pytest.raises(RequestError, match="'area' of 'known' has no value"):
            store.fit("known", until="2026-02-01T00:00:00Z")
