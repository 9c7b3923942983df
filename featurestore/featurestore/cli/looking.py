"""Verbs that look at what is applied: status, list, show."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from featurestore.cli.application import verb
from featurestore.cli.session import Session
from featurestore.cli.trees import Node, draw
from featurestore.cli.values import cell, short_bytes, short_duration, short_instant
from featurestore.errors import did_you_mean

_PANEL = "Look"
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_SAID = ("kind", "name", "description", "owner")  # above the graph
_WORDS = {
    "Entity": ("entity", "entities"),
    "Source": ("source", "sources"),
    "FeatureSet": ("set", "sets", "feature-set", "feature-sets"),
    "FeatureVector": ("vector", "vectors", "feature-vector", "feature-vectors"),
}


@verb(_PANEL)
def status(session: Session) -> None:
    """Show how fresh, how far behind and how large everything is."""
    records = session.store.status()
    if session.console.json:
        session.console.data({"feature_sets": records})
        return
    if not records:
        session.console.say("Nothing is applied. Run: featurestore apply")
    live = Counter(record["feature_set"] for record in records)
    for record in records:
        which = ",".join(record["tags"]) or record["state_version"][:6]
        record["name"] = record["feature_set"] + (f"@{which}" if live[record["feature_set"]] > 1 else "")
    session.console.table(
        ("feature set", "rows", "newest event", "age", "lag", "entities", "online"),
        [
            (
                record["name"],
                record["rows"],
                short_instant(record["newest_event"]),
                short_duration(record.get("age")),
                _lag(record),
                record["entities"],
                short_bytes(record["bytes_online"]),
            )
            for record in records
        ],
        absent="-",
    )
    for record in records:
        for key in ("online_error", "stream_error"):
            if key in record:
                session.console.warn(f"{record['name']}: {record[key]}")


@verb(_PANEL, "list")
def list_(
    session: Session,
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="entities, sources, sets or vectors; default, all.")
    ] = None,
) -> None:
    """List what is applied."""
    chosen = list(_WORDS) if kind is None else [_kind(kind)]
    names = {found: of for found, of in session.store.list().items() if found in chosen}
    state = session.store.environment.registry.state(session.store.environment.project)
    if session.console.json:
        session.console.data(
            {
                found: [{"name": n, "fingerprint": state.get((found, n))} for n in of]
                for found, of in names.items()
            }
        )
    rows = [(found, name, state.get((found, name), "-")) for found, of in names.items() for name in of]
    session.console.table(("kind", "name", "version"), rows)


@verb(_PANEL)
def show(
    session: Session,
    name: Annotated[str, typer.Argument(help="name, name@tag or name@fingerprint.")],
) -> None:
    """Show an applied object: its schema, graph, versions, tags and statistics."""
    found = session.store.show(name)
    console = session.console
    if console.json:
        console.data(found)
        return
    console.line(f"{found['kind']} {found['name']}@{found['fingerprint']}, applied {found['applied']}")
    declaration = found["declaration"]
    for key in ("description", "owner"):
        if declaration.get(key):
            console.line(f"{key}: {declaration[key]}")
    tags: dict[str, str] = found["tags"]
    for fingerprint in found["versions"]:
        named = ", ".join(tag for tag, at in tags.items() if at == fingerprint)
        console.line(f"version {fingerprint}" + (f"  {named}" if named else ""))
    console.line()
    graph = {"FeatureSet": _set_graph, "FeatureVector": _vector_graph}.get(found["kind"], _object_graph)(
        found
    )
    for line in draw(graph):
        console.line(line)
    if found.get("statistics"):
        console.line()
        _show_statistics(session, found["statistics"])
    if found.get("fits"):
        console.line()
        _show_fits(session, found["fits"])
    if found.get("checks"):
        console.line()
        _show_checks(session, found["checks"])
    if found.get("expectations"):
        console.line()
        _show_expectations(session, found["expectations"])


def _lag(record: dict[str, Any]) -> int | None:
    """Return the events that the online store, else the offline one, has not applied yet."""
    behind = record["lag_online"] or record["lag_offline"]
    return sum(behind.values()) if behind else None


def _kind(word: str) -> str:
    for kind, words in _WORDS.items():
        if word == kind or word.lower() in words:
            return kind
    known = [words[1] for words in _WORDS.values()]
    raise typer.BadParameter(f"'{word}' is no kind. {did_you_mean(word, known)}", param_hint="KIND")


def _show_statistics(session: Session, statistics: dict[str, dict[str, Any]]) -> None:
    wanted = ("count", "null_share", "mean", "std", "min", "max")
    session.console.table(
        ("feature", *(key.replace("_", " ") for key in wanted)),
        [(name, *(_rounded(found.get(key)) for key in wanted)) for name, found in statistics.items()],
        absent="-",
    )


def _show_fits(session: Session, fits: dict[str, dict[str, Any]]) -> None:
    session.console.table(
        ("fit", "of", "statistic", "value"),
        [
            (f"{name} {fit['id']}", label, statistic, value)
            for name, fit in fits.items()
            for label, found in fit["values"].items()
            for statistic, value in found.items()
        ],
    )


def _show_checks(session: Session, checks: dict[str, dict[str, Any]]) -> None:
    session.console.table(
        ("check", "severity", "rows", "wrong"),
        [(name, found["severity"], found["rows"], found["failed"]) for name, found in checks.items()],
    )


def _show_expectations(session: Session, expectations: dict[str, dict[str, Any]]) -> None:
    words = {True: "met", False: "not met", None: "not looked at yet"}
    session.console.table(
        ("expectation", "severity", "last", "found", "input"),
        [
            (name, found["severity"], words[found["is_met"]], found["text"], found["input"])
            for name, found in expectations.items()
        ],
        absent="-",
    )


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _set_graph(found: dict[str, Any]) -> Node:
    """Return source → steps → columns → aggregates."""
    keys = [f"{k['entity']}: {k['column']} ({k['type']})" for k in found["keys"]]
    steps = [_step(step) for step in found["declaration"].get("steps", ())]
    width = max((len(name) for name in found["aggregates"]), default=0)
    aggregates = [
        f"{name.ljust(width)}  {a['function']}({a['column'] or 'rows'}) over {a['window']}"
        for name, a in found["aggregates"].items()
    ]
    last = Node("aggregates", [Node(text) for text in aggregates])
    columns = Node("columns", [Node(text) for text in _typed(found["features"])])
    return Node(
        f"source {found['source']}",
        [
            Node("schema", [Node(text) for text in _typed(found["source_schema"])]),
            Node("keys", [Node(text) for text in keys]),
            Node("steps", [Node(text) for text in steps]),
            columns,
            last,
        ],
    ).without_empty()


def _vector_graph(found: dict[str, Any]) -> Node:
    keys = Node("keys", [Node(text) for text in found["keys"]])
    sets = Node("sets", [Node(name + (" (base)" if name == found["base"] else "")) for name in found["sets"]])
    features = Node("features", [Node(text) for text in _typed(found["features"])])
    label = [Node(f"label {found['label']}")] if found["label"] else []
    return Node(f"vector {found['name']}", [keys, sets, features, *label]).without_empty(keep=label)


def _object_graph(found: dict[str, Any]) -> Node:
    """Return an entity or a source as it was declared."""
    said = {k: v for k, v in found["declaration"].items() if v not in _NOTHING and k not in _SAID}
    return Node(
        f"{found['kind'].lower()} {found['name']}", [_node(key, value) for key, value in said.items()]
    )


def _node(key: str, value: Any) -> Node:
    if isinstance(value, dict):
        return Node(key, [_node(name, item) for name, item in value.items() if item not in _NOTHING])
    return Node(f"{key}: {cell(value)}")


def _step(step: dict[str, Any]) -> str:
    [(name, options)] = step.items()
    return f"{name} {cell(options)}"


def _typed(fields: dict[str, str]) -> list[str]:
    width = max((len(name) for name in fields), default=0)
    return [f"{name.ljust(width)}  {kind}" for name, kind in fields.items()]
