"""`featurestore.yaml`: where a project keeps its registry, stores and streams, and its profiles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, StrictBool, ValidationError
from pydantic_core import ErrorDetails

from featurestore.errors import SpecError, did_you_mean
from featurestore.instants import DAY, SECOND, parse_duration
from featurestore.specs.documents import read_documents
from featurestore.specs.fields import Duration, Model, Name, duration_or
from featurestore.specs.origins import KeyPath, Origin, shown
from featurestore.specs.problems import Problems
from featurestore.specs.validation import explain, validate
from featurestore.specs.variables import expand_all

FILE = "featurestore.yaml"
PROFILE_VARIABLE = "FEATURESTORE_PROFILE"


class Section(Model):
    """What is common to the settings of stores and streams."""

    kind: str

    def settings(self) -> dict[str, Any]:
        """Return what was set, `kind` included, as the connector of that kind takes it."""
        return {name: value for name, value in self.model_dump().items() if value not in (None, {})}


class OfflineConfig(Section):
    """Where training data lies."""

    kind: str = "delta"
    """The kind of store: `delta`."""
    path: str | None = None
    """The folder or the object store's URL of the tables; default `.featurestore/offline`."""
    storage_options: dict[str, str] = Field(default_factory=dict)
    """What an object store needs, such as a region."""
    memory: str | None = None
    """How much memory compaction may take, such as `4GB`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of a store of another kind."""


class OnlineConfig(Section):
    """Where the values that are served lie."""

    kind: str = "sqlite"
    """The kind of store: `redis` (also Valkey) or `sqlite`."""
    url: str | None = None
    """The server, for `redis`; default `redis://localhost:6379`."""
    cluster: StrictBool | None = None
    """Whether the server is a Redis Cluster."""
    connections: int | None = None
    """How many connections to `redis` a process may hold."""
    prefix: str | None = None
    """What the keys in `redis` begin with."""
    path: str | None = None
    """The file, for `sqlite`; default `.featurestore/online.db`."""
    timeout: Duration | None = None
    """How long an answer may take before the store counts as down."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of a store of another kind."""


class StreamConfig(Section):
    """Where the topics of streams lie."""

    kind: str = "log"
    """The kind of broker: `kafka`, or `log`, which is a folder."""
    brokers: str | None = None
    """The bootstrap servers, for `kafka`."""
    unavailable_after: Duration | None = None
    """How long `kafka` may be silent before it counts as down."""
    path: str | None = None
    """The folder, for `log`; default `.featurestore/log`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Properties of Kafka's client, such as `security.protocol`, or options of another kind."""


class CommitConfig(Model):
    """When a stream commits what it has read to the offline tables: whichever of the two comes first.

    A stream that dies reads again what it had not committed, and nothing counts twice.
    """

    every: Duration | None = None
    """How long rows may wait; default, 60s."""
    rows: Annotated[int, Field(gt=0, strict=True)] | None = None
    """How many rows may wait; default, 250000."""


_SHORTEST, _LONGEST = SECOND // 10, 36_500 * DAY


def _kept(text: str) -> str:
    return _bounded(text, "forever")


def _interval(text: str) -> str:
    return _bounded(text, "never")


def _bounded(text: str, word: str) -> str:
    """Return `text`, a duration that a thread can wait and a calendar can go back, or else `word`."""
    if duration_or(text, word) != word and not _SHORTEST <= parse_duration(text) <= _LONGEST:
        raise ValueError(
            f"'{text}' is not between 100ms and {_LONGEST // DAY}d. Write another one, or {word}."
        )
    return text


class UpkeepConfig(Model):
    """What running streams, and `featurestore upkeep`, do about old data and small files."""

    every: Annotated[str, AfterValidator(_interval)] = "1h"
    """How often a running stream does it, beside its work: a duration, or `never`."""
    compact: StrictBool = True
    """Whether the offline tables' closed days are rewritten into few sorted files."""
    landing: Annotated[str, AfterValidator(_kept)] = "forever"
    """How long streams' rows stay in landing after they became known: a duration, or `forever`."""
    dead_letters: Annotated[str, AfterValidator(_kept)] = "90d"
    """How long dead letters stay: a duration, or `forever`."""


class Profile(Model):
    """What differs under a profile. A section with another `kind` replaces the section, else they merge."""

    registry: str | None = None
    """The registry's SQLAlchemy URL."""
    offline: OfflineConfig | None = None
    online: OnlineConfig | None = None
    stream: StreamConfig | None = None
    upkeep: UpkeepConfig | None = None


class ProjectConfig(Model):
    """A project's settings. Texts may hold `${VAR}` and `${VAR:-default}`; paths begin at its folder."""

    project: Name
    """The project's name."""
    registry: str = "sqlite:///.featurestore/registry.db"
    """The registry's SQLAlchemy URL."""
    offline: OfflineConfig = OfflineConfig()
    online: OnlineConfig = OnlineConfig()
    stream: StreamConfig = StreamConfig()
    commit: CommitConfig = CommitConfig()
    upkeep: UpkeepConfig = UpkeepConfig()
    profiles: dict[str, Profile] = Field(default_factory=dict)
    """Variants by name, chosen with `--profile` or FEATURESTORE_PROFILE."""


SectionT = TypeVar("SectionT", OfflineConfig, OnlineConfig, StreamConfig)

_FIELDS: dict[tuple[str, str], dict[str, str | None]] = {
    ("offline", "delta"): {"path": ".featurestore/offline", "storage_options": None, "memory": None},
    ("online", "sqlite"): {"path": ".featurestore/online.db", "timeout": None},
    ("online", "redis"): {
        "url": "redis://localhost:6379",
        "cluster": None,
        "connections": None,
        "prefix": None,
        "timeout": None,
    },
    ("stream", "log"): {"path": ".featurestore/log"},
    ("stream", "kafka"): {"brokers": None, "unavailable_after": None, "options": None},
}
"""What each kind that we bring takes, and its default."""

_NEEDED = {("stream", "kafka"): "brokers"}


def load_config(
    folder: str | Path, profile: str | None = None, environ: Mapping[str, str] | None = None
) -> ProjectConfig:
    """Return the settings of a project's folder under a profile, with absolute paths.

    `profile` defaults to the variable FEATURESTORE_PROFILE; `environ` to the process's environment.
    Raises SpecErrors with file:line.
    """
    root = Path(folder).resolve()
    environ = os.environ if environ is None else environ
    path = root / FILE
    if not path.is_file():
        raise SpecError(f"there is no {FILE}.", where=shown(root), hint="Run: featurestore init")
    documents = read_documents(path)
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise SpecError("the file holds one mapping, with project:.", where=shown(path))
    data, origin = documents[0].value, documents[0].origin
    _check_form(data, origin)
    profile = profile or environ.get(PROFILE_VARIABLE) or None
    if profile is not None:
        profiles = data.get("profiles") or {}
        if profile not in profiles:
            raise SpecError(
                f"there is no profile '{profile}'.",
                where=origin.where("profiles"),
                hint=did_you_mean(profile, profiles),
            )
        data, origin = _with_profile(data, profile, origin)
    base = {key: value for key, value in data.items() if key != "profiles"}
    config = validate(ProjectConfig, expand_all(base, origin, environ), origin)
    problems = Problems()
    resolved: dict[str, Any] = {"registry": _absolute_url(config.registry, root)}
    for name in ("offline", "online", "stream"):
        with problems.collect():
            resolved[name] = _completed(name, getattr(config, name), root, origin)
    problems.check()
    return config.model_copy(update=resolved)


def _check_form(data: Mapping[str, Any], origin: Origin) -> None:
    """Raise SpecErrors where the settings or any profile are malformed; what holds variables may pass."""
    try:
        ProjectConfig.model_validate(data)
    except ValidationError as error:
        problems = Problems()
        for found in explain(error, ProjectConfig, origin, skip=_has_variable):
            problems.add(found)
        problems.check()


def _has_variable(detail: ErrorDetails) -> bool:
    return isinstance(detail["input"], str) and "${" in detail["input"]


def _with_profile(data: dict[str, Any], profile: str, origin: Origin) -> tuple[dict[str, Any], Origin]:
    """Return the settings with a profile laid over them, and where each came from."""
    lines = dict(origin.lines)
    prefix: KeyPath = ("profiles", profile)

    def merge(base: Any, over: Any, path: KeyPath) -> Any:
        lines[path] = origin.lines.get((*prefix, *path), origin.line)
        replaces = (
            isinstance(over, dict)
            and "kind" in over
            and (not isinstance(base, dict) or over["kind"] != base.get("kind", _default_kind(path)))
        )
        if isinstance(over, dict) and (replaces or not isinstance(base, dict)):
            base = {}
        if not isinstance(over, dict):
            return over
        return {**base, **{key: merge(base.get(key), value, (*path, key)) for key, value in over.items()}}

    merged = dict(data)
    for key, value in (data["profiles"][profile] or {}).items():
        merged[key] = merge(data.get(key), value, (key,))
    return merged, Origin(origin.file, origin.line, lines)


def _default_kind(path: KeyPath) -> str | None:
    defaults = {"offline": "delta", "online": "sqlite", "stream": "log"}
    return defaults.get(str(path[0])) if len(path) == 1 else None


def _completed(name: str, section: SectionT, root: Path, origin: Origin) -> SectionT:
    """Return a section with its kind's defaults and absolute paths. Raises SpecError."""
    known = _FIELDS.get((name, section.kind))
    updates: dict[str, Any] = {}
    if known is None:
        kinds = {kind for group, kind in _FIELDS if group == name}
        kinds |= {point.name for point in entry_points(group=f"featurestore.{name}")}
        if section.kind not in kinds:
            raise SpecError(
                f"{name}.kind: '{section.kind}' is no {name} kind.",
                where=origin.where(name, "kind"),
                hint=did_you_mean(section.kind, kinds),
            )
    else:
        for key in section.settings():
            if key != "kind" and key not in known:
                fitting = [
                    kind for (group, kind), fields in _FIELDS.items() if group == name and key in fields
                ]
                raise SpecError(
                    f"{name}.{key}: the kind {section.kind} takes no {key}:.",
                    where=origin.where(name, key),
                    hint=f"Write kind: {fitting[0]}." if fitting else None,
                )
        needed = _NEEDED.get((name, section.kind))
        if needed and getattr(section, needed) is None:
            raise SpecError(f"{name}: the kind {section.kind} needs {needed}:.", where=origin.where(name))
        updates = {key: value for key, value in known.items() if value and getattr(section, key) is None}
    path = updates.get("path") or section.path
    if path is not None and "://" not in path:
        updates["path"] = str(root / Path(path).expanduser())
    return section.model_copy(update=updates)


def _absolute_url(url: str, root: Path) -> str:
    """Return a SQLite URL with an absolute path; others as they are."""
    prefix = "sqlite:///"
    if not url.startswith(prefix) or url.startswith(prefix + "/") or url == prefix + ":memory:":
        return url
    return f"{prefix}{root / url.removeprefix(prefix)}"
