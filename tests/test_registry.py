"""The registry keeps every applied version, and names move over them."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_urls import new_database, postgres_server

from featurestore.errors import OperatorError, RequestError, SpecError, StoreUnavailable, UnknownName
from featurestore.registry import NewVersion, Pins, Registry

SET, VECTOR = "FeatureSet", "FeatureVector"
A1, A2, B1 = "3f2a91aaaa", "3f2a92bbbb", "cc00000001"


def new(kind: str, name: str, fingerprint: str, **more: Any) -> NewVersion:
    return NewVersion(kind, name, fingerprint, {"name": name, "of": fingerprint}, **more)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    server: str = request.getfixturevalue("postgres")
    return new_database(server)


@pytest.fixture
def registry(registry_url: str) -> Iterator[Registry]:
    ticks = itertools.count(1_000_000)
    registry = Registry(registry_url, clock=lambda: next(ticks))
    yield registry
    registry.close()


def test_an_applied_version_is_found_by_name_tag_fingerprint_and_prefix(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "payments", A1)], saw={}, author="ada")
    registry.apply("fraud", [new(SET, "payments", A2)], saw={(SET, "payments"): A1})
    registry.tag("fraud", SET, "payments@3f2a91", "prod")
    found = {
        reference: registry.resolve("fraud", SET, reference).fingerprint
        for reference in (
            "payments",
            "payments@latest",
            "payments@prod",
            f"payments@{A1}",
            "payments@3f2a92",
        )
    }
    assert found == {
        "payments": A2,
        "payments@latest": A2,
        "payments@prod": A1,
        f"payments@{A1}": A1,
        "payments@3f2a92": A2,
    }
    first = registry.resolve("fraud", SET, "payments@prod")
    assert (first.bundle, first.author, first.created_at) == (
        {"name": "payments", "of": A1},
        "ada",
        1_000_000,
    )
    assert registry.tags("fraud", SET, "payments") == {"latest": A2, "prod": A1}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("paymnts", "There is no FeatureSet 'paymnts'.*Did you mean 'payments'"),
        ("payments@prd", "no tag or version 'prd'.*Did you mean 'prod'"),
        ("payments@3f2a", "'payments@3f2a' is not unique.*3f2a91aaaa, 3f2a92bbbb"),
        ("payments@3f2a99", "no tag or version '3f2a99'.*Did you mean '3f2a9"),
        ("payments@cc0", "no tag or version 'cc0'"),
    ],
)
def test_an_unknown_reference_names_the_nearest(registry: Registry, reference: str, message: str) -> None:
    registry.apply("fraud", [new(SET, "payments", A1), new(SET, "events", B1)], saw={})
    registry.apply("fraud", [new(SET, "payments", A2)], saw={(SET, "payments"): A1, (SET, "events"): B1})
    registry.tag("fraud", SET, "payments", "prod")
    with pytest.raises(RequestError, match=message):
        registry.resolve("fraud", SET, reference)


def test_none_applied_of_a_kind_says_where_what_waits_is_told(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "payments", A1)], saw={})
    with pytest.raises(RequestError, match=r"no FeatureVector 'risk'.*featurestore plan says what waits"):
        registry.resolve("fraud", "FeatureVector", "risk")


def test_nothing_applied_says_how_to_apply(registry: Registry) -> None:
    with pytest.raises(RequestError, match=r"Nothing is applied in project 'fraud'.*featurestore apply"):
        registry.resolve("fraud", SET, "payments")


def test_a_prefix_shorter_than_four_digits_is_refused_even_where_it_is_unique(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "events", B1)], saw={})
    assert registry.resolve("fraud", SET, "events@cc00").fingerprint == B1
    with pytest.raises(RequestError, match=r"not unique.*at least 4 digits"):
        registry.resolve("fraud", SET, "events@cc0")


def test_a_version_never_changes_and_an_old_one_can_be_latest_again(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "payments", A1)], saw={}, author="ada")
    registry.apply("fraud", [new(SET, "payments", A2)], saw={(SET, "payments"): A1})
    changed = NewVersion(SET, "payments", A1, {"other": "bundle"})
    (again,) = registry.apply("fraud", [changed], saw={(SET, "payments"): A2}, author="bob")
    assert again.bundle == {"name": "payments", "of": A1}
    assert again.author == "ada"
    assert registry.resolve("fraud", SET, "payments").fingerprint == A1
    assert [version.fingerprint for version in registry.versions("fraud", SET, "payments")] == [A1, A2]


def test_a_bundle_keeps_the_order_of_its_keys(registry: Registry) -> None:
    bundle = {"z": 1, "a": {"y": [1, {"x": None}], "b": 2**60}}
    registry.apply("fraud", [NewVersion(SET, "payments", A1, bundle)], saw={})
    found = registry.resolve("fraud", SET, "payments").bundle
    assert found == bundle
    assert list(found) == ["z", "a"]


def test_a_stale_plan_is_refused_and_changes_nothing(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "payments", A1)], saw={})
    with pytest.raises(OperatorError, match=r"stale: FeatureSet payments changed.*featurestore plan"):
        registry.apply("fraud", [new(SET, "events", B1)], saw={})
    assert registry.state("fraud") == {(SET, "payments"): A1}
    assert registry.versions("fraud", SET, "events") == []


def test_an_apply_is_all_or_nothing(registry: Registry) -> None:
    with pytest.raises(ValueError, match="is no fingerprint"):
        registry.apply("fraud", [new(SET, "payments", A1), new(SET, "events", "NOT HEX")], saw={})
    assert registry.state("fraud") == {}
    assert registry.versions("fraud") == []


def test_what_is_removed_leaves_the_state_and_its_versions_stay(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "payments", A1), new(SET, "events", B1)], saw={})
    registry.tag("fraud", SET, "payments", "prod")
    registry.apply(
        "fraud",
        [],
        removed=[(SET, "payments")],
        saw={(SET, "payments"): A1, (SET, "events"): B1},
    )
    assert registry.state("fraud") == {(SET, "events"): B1}
    with pytest.raises(RequestError, match=r"'payments' was removed.*payments@3f2a91aaaa was the latest"):
        registry.resolve("fraud", SET, "payments")
    assert registry.resolve("fraud", SET, "payments@prod").fingerprint == A1
    assert registry.tags("fraud", SET, "payments") == {"prod": A1}
    registry.apply("fraud", [new(SET, "payments", A2)], saw={(SET, "events"): B1})
    assert registry.resolve("fraud", SET, "payments").fingerprint == A2


@pytest.mark.parametrize("tag", ["latest", "beef", "123", "Prod", "", "a b"])
def test_a_tag_that_could_be_read_as_something_else_is_refused(registry: Registry, tag: str) -> None:
    registry.apply("fraud", [new(SET, "payments", A1)], saw={})
    with pytest.raises(RequestError, match="cannot be a tag"):
        registry.tag("fraud", SET, "payments", tag)


def test_a_tag_can_be_moved_and_deleted(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "payments", A1)], saw={})
    registry.apply("fraud", [new(SET, "payments", A2)], saw={(SET, "payments"): A1})
    registry.tag("fraud", SET, "payments", "prod")
    assert registry.tag("fraud", SET, f"payments@{A1}", "prod").fingerprint == A1
    assert registry.resolve("fraud", SET, "payments@prod").fingerprint == A1
    assert registry.untag("fraud", SET, "payments", "prod") is True
    assert registry.untag("fraud", SET, "payments", "prod") is False


def test_applying_a_vector_pins_its_sets_and_its_fit_and_a_new_fit_pins_anew(registry: Registry) -> None:
    pinned = new(VECTOR, "scores", B1, sets={"payments": A1}, fits={"scores": "f1"})
    registry.apply("fraud", [pinned], saw={})
    assert registry.pins("fraud", "scores", B1) == Pins({"payments": A1}, {"scores": "f1"}, 1_000_000)
    registry.apply("fraud", [pinned], saw={(VECTOR, "scores"): B1})
    assert registry.pins("fraud", "scores", B1) == Pins({"payments": A1}, {"scores": "f1"}, 1_000_000)
    again = new(VECTOR, "scores", B1, sets={"payments": A1}, fits={"scores": "f2"})
    registry.apply("fraud", [again], saw={(VECTOR, "scores"): B1})
    assert registry.pins("fraud", "scores", B1) == Pins({"payments": A1}, {"scores": "f2"}, 1_000_002)
    assert registry.pins("fraud", "scores", A1) is None


def test_projects_and_kinds_do_not_see_each_other(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "x", A1), new(VECTOR, "x", B1)], saw={})
    registry.apply("churn", [new(SET, "x", A2)], saw={})
    assert registry.resolve("fraud", SET, "x").fingerprint == A1
    assert registry.resolve("fraud", VECTOR, "x").fingerprint == B1
    assert registry.resolve("churn", SET, "x").fingerprint == A2
    assert [version.project for version in registry.versions("churn")] == ["churn"]


def test_promoting_a_generation_moves_the_pointer_and_keeps_the_one_that_served(registry: Registry) -> None:
    first, second, third = [
        registry.create_generation("fraud", "payments", A1, "redis-1", {"p0": cut}) for cut in (10, 20, 30)
    ]
    assert (first.status, first.cut) == ("building", {"p0": 10})
    assert registry.serving_generation("fraud", "payments", A1) is None
    assert registry.promote(first.id).status == "serving"
    assert registry.promote(second.id).promoted_at is not None
    serving = registry.serving_generation("fraud", "payments", A1)
    assert serving is not None
    assert serving.id == second.id
    assert [g.id for g in registry.generations("fraud", "payments", "standby")] == [first.id]
    assert registry.promote(second.id) == serving
    registry.promote(first.id)
    assert registry.generation(second.id).status == "standby"
    registry.promote(third.id)
    statuses = [registry.generation(g.id).status for g in (first, second, third)]
    assert statuses == ["standby", "retired", "serving"]
    with pytest.raises(OperatorError, match=r"retired and cannot serve.*featurestore materialize payments"):
        registry.promote(second.id)


def test_a_generation_that_is_being_filled_is_gone_on_with(registry: Registry) -> None:
    first = registry.begin_generation("fraud", "payments", A1, "redis-1", {"p0": 10})
    assert registry.begin_generation("fraud", "payments", A1, "redis-1", {"p0": 12}) == first
    registry.follow([first.id])
    assert registry.begin_generation("fraud", "payments", A1, "redis-1", {"p0": 15}).status == "following"
    registry.promote(first.id, keep=False)
    second = registry.begin_generation("fraud", "payments", A1, "redis-1", {"p0": 20})
    assert (second.id != first.id, second.status, second.cut) == (True, "building", {"p0": 20})
    registry.promote(second.id, keep=False)
    assert registry.generation(first.id).status == "retired"
    with pytest.raises(OperatorError, match="retired"):
        registry.follow([first.id])


def test_what_is_prepared_becomes_latest_at_once_and_what_it_replaces_previous(registry: Registry) -> None:
    saw = {(SET, "x"): A1, (VECTOR, "v"): B1}
    registry.apply("fraud", [new(SET, "x", A1), new(VECTOR, "v", B1)], saw={})
    filled = registry.begin_generation("fraud", "x", A2, "redis-1", {})
    registry.prepare("fraud", [new(SET, "x", A2)], saw=saw)
    assert registry.resolve("fraud", SET, "x").fingerprint == A1
    assert registry.resolve("fraud", SET, "x@next").fingerprint == A2
    registry.switch("fraud", [new(SET, "x", A2)], [filled.id], saw=saw, removed=[(VECTOR, "v")])
    assert registry.pointers("fraud") == {
        (SET, "x"): {"latest": A2, "previous": A1},
        (VECTOR, "v"): {"previous": B1},
    }
    assert registry.generation(filled.id).status == "serving"
    assert registry.roll_back("fraud") == {(SET, "x"): (A2, A1), (VECTOR, "v"): (None, B1)}
    assert registry.pointers("fraud") == {
        (SET, "x"): {"latest": A1, "previous": A2},
        (VECTOR, "v"): {"latest": B1},
    }
    with pytest.raises(UnknownName, match="'v' has no previous version"):
        registry.roll_back("fraud", ["v"])


def test_what_an_apply_put_back_is_nothing_to_roll_back(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "x", A1), new(SET, "y", A1)], saw={})
    both = [new(SET, "x", A2), new(SET, "y", A2)]
    saw = {(SET, "x"): A1, (SET, "y"): A1}
    registry.prepare("fraud", both, saw=saw)
    registry.switch("fraud", both, [], saw=saw)
    registry.apply("fraud", [new(SET, "x", A1)], saw={(SET, "x"): A2, (SET, "y"): A2})
    with pytest.raises(UnknownName, match="'x' has no previous version"):
        registry.roll_back("fraud", ["x"])
    assert registry.roll_back("fraud") == {(SET, "y"): (A2, A1)}


def test_what_another_has_prepared_or_applied_meanwhile_is_not_switched_to(registry: Registry) -> None:
    registry.apply("fraud", [new(SET, "x", A1)], saw={})
    saw = {(SET, "x"): A1}
    first, second = [new(SET, "x", A2)], [new(SET, "x", B1)]
    registry.prepare("fraud", first, saw=saw)
    registry.check_prepared("fraud", first, saw=saw)
    registry.prepare("fraud", second, saw=saw)
    for ask in (registry.check_prepared, lambda p, v, saw: registry.switch(p, v, [], saw=saw)):
        with pytest.raises(OperatorError, match="Another apply --promote of project 'fraud' has taken over"):
            ask("fraud", first, saw=saw)
    registry.switch("fraud", second, [], saw=saw)
    with pytest.raises(OperatorError, match="stale: FeatureSet x"):
        registry.switch("fraud", second, [], saw=saw)
    assert registry.resolve("fraud", SET, "x@previous").fingerprint == A1


def test_states_and_stores_have_pointers_of_their_own(registry: Registry) -> None:
    made = {
        (state, store): registry.promote(
            registry.create_generation("fraud", "payments", state, store, {}).id
        ).id
        for state in (A1, A2)
        for store in ("redis-1", "laptop")
    }
    assert len(set(made.values())) == 4
    for (state, store), generation in made.items():
        found = registry.serving_generation("fraud", "payments", state, store)
        assert found is not None
        assert found.id == generation
    retired = registry.retire(made[A1, "laptop"])
    assert (retired.status, retired.retired_at is not None) == ("retired", True)
    assert registry.serving_generation("fraud", "payments", A1, "laptop") is None
    assert registry.serving_generation("fraud", "payments", A1, "redis-1") is not None
    with pytest.raises(RequestError, match="no generation 'nope'"):
        registry.retire("nope")


def test_a_fit_is_found_by_its_id_and_the_latest_by_its_version(registry: Registry) -> None:
    assert registry.latest_fit("fraud", VECTOR, "scores", B1) is None
    first = registry.record_fit("fraud", VECTOR, "scores", B1, 5, {"mean": {"amount": 1.5}, "bins": [1, 2]})
    same = registry.record_fit("fraud", VECTOR, "scores", B1, 5, {"bins": [1, 2], "mean": {"amount": 1.5}})
    second = registry.record_fit("fraud", VECTOR, "scores", B1, None, {"mean": {"amount": 2.5}})
    assert same == first
    assert second.id != first.id
    assert registry.fit("fraud", first.id).values == {"mean": {"amount": 1.5}, "bins": [1, 2]}
    assert registry.fit("fraud", first.id).until == 5
    assert registry.latest_fit("fraud", VECTOR, "scores", B1) == second
    assert registry.latest_fit("fraud", VECTOR, "scores", A1) is None
    with pytest.raises(RequestError, match="There is no fit 'nope'"):
        registry.fit("fraud", "nope")


def test_ingests_are_listed_newest_first(registry: Registry) -> None:
    for number in range(5):
        registry.record_ingest("fraud", "payments" if number % 2 else "events", {"rows": number})
    assert [ingest.report["rows"] for ingest in registry.ingests("fraud")] == [4, 3, 2, 1, 0]
    assert [ingest.report["rows"] for ingest in registry.ingests("fraud", "payments", limit=1)] == [3]


def test_a_training_set_is_remembered_with_its_positions(registry: Registry) -> None:
    made = registry.record_training_set("fraud", "scores", B1, {"as_known": True}, {"payments": {"p0": 7}})
    assert registry.training_set("fraud", made.id) == made
    assert made.positions == {"payments": {"p0": 7}}
    assert registry.training_sets("fraud", "scores") == [made]
    assert registry.training_sets("fraud", "other") == []
    with pytest.raises(RequestError, match="There is no training set 'nope'"):
        registry.training_set("fraud", "nope")


def test_a_registry_is_found_again_with_all_that_it_held(registry_url: str) -> None:
    for expected in ({}, {(SET, "payments"): A1}):
        registry = Registry(registry_url)
        assert registry.state("fraud") == expected
        registry.apply("fraud", [new(SET, "payments", A1)], saw=expected)
        registry.close()


def test_a_relative_path_is_below_the_root_and_its_folder_is_made(tmp_path: Path) -> None:
    registry = Registry("sqlite:///.featurestore/registry.db", root=tmp_path)
    registry.close()
    assert (tmp_path / ".featurestore/registry.db").exists()


def test_a_registry_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    Registry(url).close()
    connection = sqlite3.connect(tmp_path / "registry.db")
    connection.execute("UPDATE registry_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(OperatorError, match=r"has format 99, this release knows 3.*pip install --upgrade"):
        Registry(url)


def test_a_registry_of_the_first_format_is_brought_up_to_date_with_all_it_holds(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    before = Registry(url)
    before.record_ingest("fraud", "payments", {"rows": 1})
    before.close()
    connection = sqlite3.connect(tmp_path / "registry.db")
    connection.execute("DROP TABLE checks")
    connection.execute("DROP TABLE heartbeats")
    connection.execute("UPDATE registry_version SET version = 1")
    connection.commit()
    connection.close()
    after = Registry(url)
    after.record_checks("fraud", "payments", A1, 10, {"amount.min": 2, "amount.max": 0})
    after.record_checks("fraud", "payments", A1, 5, {"amount.min": 1})
    found = after.checks("fraud", "payments", A1)
    assert {name: (count.rows, count.failed) for name, count in found.items()} == {
        "amount.max": (10, 0),
        "amount.min": (15, 3),
    }
    assert after.checks("fraud", "payments", B1) == {}
    assert len(after.ingests("fraud", "payments")) == 1
    after.beat("fraud", "stream payments", "one")
    assert list(after.heartbeats("fraud")) == ["stream payments"]
    after.close()


@pytest.mark.parametrize("url", ["nonsense", "oddbase://x"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(SpecError):
        Registry(url)


def test_a_file_that_is_no_database_is_the_operators_error(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(OperatorError, match="file is not a database"):
        Registry(f"sqlite:///{tmp_path}/registry.db")
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="folder cannot be made"):
        Registry(f"sqlite:///{tmp_path}/file/below/registry.db")


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreUnavailable, match=r"does not answer.*Check `registry:`") as caught:
        Registry("postgresql://user:secret@127.0.0.1:1/nothing")
    assert "secret" not in str(caught.value)


def test_importing_the_core_does_not_import_sqlalchemy() -> None:
    program = "import sys, featurestore, featurestore.plans; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
