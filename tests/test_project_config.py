"""featurestore.yaml: defaults for a laptop, variables, profiles, absolute paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.errors import SpecError
from featurestore.specs import SpecErrors, load_config, load_project

PRODUCTION = """\
project: fraud
registry: "postgresql://${DB_HOST}/features"
offline: {kind: delta, path: lake/offline}
online:
  kind: redis
  url: "${REDIS_URL:-redis://localhost:6379}"
  cluster: true
stream:
  kind: kafka
  brokers: "${KAFKA_BROKERS}"
profiles:
  laptop:
    registry: sqlite:///local.db
    online: {kind: sqlite}
    stream: {kind: log}
  europe:
    online: {url: "redis://eu"}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATURESTORE_PROFILE", raising=False)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "featurestore.yaml").write_text(text)


def test_the_defaults_need_no_server_and_lie_in_the_project(folder: Path) -> None:
    write(folder, "project: fraud\n")
    config = load_config(folder, environ={})
    assert config.registry == f"sqlite:///{folder}/.featurestore/registry.db"
    assert (config.offline.kind, config.offline.path) == ("delta", f"{folder}/.featurestore/offline")
    assert (config.online.kind, config.online.path) == ("sqlite", f"{folder}/.featurestore/online.db")
    assert (config.stream.kind, config.stream.path) == ("log", f"{folder}/.featurestore/log")


def test_variables_are_replaced_and_defaults_hold_where_they_are_unset_or_empty(folder: Path) -> None:
    write(folder, PRODUCTION)
    environ = {"DB_HOST": "db", "KAFKA_BROKERS": "k1:9092,k2:9092", "REDIS_URL": ""}
    config = load_config(folder, environ=environ)
    assert config.registry == "postgresql://db/features"
    assert config.stream.brokers == "k1:9092,k2:9092"
    assert config.online.url == "redis://localhost:6379"
    assert load_config(folder, environ={**environ, "REDIS_URL": "redis://r"}).online.url == "redis://r"
    assert config.offline.path == f"{folder}/lake/offline"


def test_an_unset_variable_without_default_is_an_error_at_its_line(folder: Path) -> None:
    write(folder, PRODUCTION)
    with pytest.raises(SpecErrors) as caught:
        load_config(folder, environ={"DB_HOST": "db"})
    assert str(caught.value) == (
        "featurestore.yaml:10: stream.brokers: the environment variable KAFKA_BROKERS is not set."
        " Set it, or give a default: ${KAFKA_BROKERS:-…}."
    )


def test_a_profile_with_another_kind_replaces_the_section_and_takes_its_defaults(folder: Path) -> None:
    write(folder, PRODUCTION)
    config = load_config(folder, "laptop", environ={})  # and needs none of the replaced variables
    assert config.registry == f"sqlite:///{folder}/local.db"
    assert config.online.settings() == {"kind": "sqlite", "path": f"{folder}/.featurestore/online.db"}
    assert (config.stream.kind, config.stream.brokers) == ("log", None)
    assert config.offline.path == f"{folder}/lake/offline"


def test_a_profile_with_the_same_kind_merges_into_the_section(folder: Path) -> None:
    write(folder, PRODUCTION)
    config = load_config(folder, "europe", environ={"DB_HOST": "db", "KAFKA_BROKERS": "k"})
    assert config.online.settings() == {"kind": "redis", "url": "redis://eu", "cluster": True}


def test_the_profile_is_the_argument_else_the_variable(folder: Path) -> None:
    write(folder, PRODUCTION)
    environ = {"FEATURESTORE_PROFILE": "laptop", "DB_HOST": "db", "KAFKA_BROKERS": "k"}
    assert load_config(folder, environ=environ).online.kind == "sqlite"
    assert load_config(folder, "europe", environ=environ).online.kind == "redis"


def test_load_project_carries_the_settings_and_the_declarations(folder: Path) -> None:
    write(folder, "project: fraud\n")
    (folder / "a.yaml").write_text("kind: Entity\nname: customer\n")
    project = load_project(folder, environ={})
    assert (project.name, project.root) == ("fraud", folder)
    assert [item.declaration.name for item in project.declarations] == ["customer"]


MISTAKES = {
    "unknown profile": (
        PRODUCTION,
        "labtop",
        "featurestore.yaml:11: there is no profile 'labtop'. Did you mean 'laptop'?",
    ),
    "unknown kind": (
        "project: p\nonline:\n  kind: reddis\n",
        None,
        "featurestore.yaml:3: online.kind: 'reddis' is no online kind. Did you mean 'redis'?",
    ),
    "a field of another kind": (
        "project: p\nonline: {url: 'redis://x'}\n",
        None,
        "featurestore.yaml:2: online.url: the kind sqlite takes no url:. Write kind: redis.",
    ),
    "brokers are needed": (
        "project: p\nstream: {kind: kafka}\n",
        None,
        "featurestore.yaml:2: stream: the kind kafka needs brokers:.",
    ),
    "no project": ("online: {kind: sqlite}\n", None, "featurestore.yaml:1: 'project:' is missing."),
    "a typo in a profile that is not chosen": (
        "project: p\nprofiles:\n  x:\n    onlin: {kind: sqlite}\n",
        None,
        "featurestore.yaml:4: profiles.x: there is no field 'onlin'. Did you mean 'online'?",
    ),
    "no variable": (
        "project: p\nregistry: 'sqlite:///${1}'\n",
        None,
        "featurestore.yaml:2: registry: 'sqlite:///${1}' has a ${ that is no variable."
        " Write ${VAR} or ${VAR:-default}.",
    ),
    "many documents": (
        "project: p\n---\nproject: q\n",
        None,
        "featurestore.yaml: the file holds one mapping, with project:.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_the_fix(folder: Path, mistake: str) -> None:
    text, profile, message = MISTAKES[mistake]
    write(folder, text)
    with pytest.raises(SpecError) as caught:
        load_config(folder, profile, environ={})
    assert str(caught.value) == message


def test_a_folder_without_settings_says_what_to_run(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no featurestore\.yaml\. Run: featurestore init"):
        load_config(folder, environ={})


@pytest.mark.parametrize("setting", ["every: 0s", "every: 1ms", "every: 10000000d", "landing: 0s"])
def test_upkeep_has_durations_that_can_be_waited_and_gone_back(folder: Path, setting: str) -> None:
    write(folder, f"project: fraud\nupkeep:\n  {setting}\n")
    with pytest.raises(SpecErrors, match=r":3: upkeep\.\w+: .* is not between 100ms and 36500d"):
        load_config(folder)
