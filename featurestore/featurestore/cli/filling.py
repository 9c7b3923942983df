"""Verbs that fill the stores from batch data: ingest, materialize, compact, preview."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featurestore.cli.application import verb
from featurestore.cli.rows import read_raw_rows
from featurestore.cli.session import Session
from featurestore.errors import RequestError

_PANEL = "Fill"


@verb(_PANEL)
def ingest(
    session: Session,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Feature sets or sources; default, all.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="This file, not the declared source.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="append", help="Take a file that changed in place as new rows.")
    ] = None,
) -> None:
    """Bring what is new in batch sources into the offline store, and online."""
    if mode not in (None, "append"):
        raise typer.BadParameter(f"'{mode}' is no mode; there is append.", param_hint="--mode")
    if data is not None and (not names or len(names) > 1 or names == ["all"]):
        raise typer.BadParameter("with --from, name one feature set or source", param_hint="NAME")
    given = None if data is None else data.resolve()
    if given is not None and not given.is_file():
        raise RequestError(f"There is no file '{data}'.")
    reports: list[Any] = []
    for name in _named(session, names):
        with session.console.progress(f"ingest {name}") as advance:
            reports += session.store.ingest(name, given, mode=mode, progress=advance)
    if session.console.json:
        session.console.data({"ingested": reports})
    session.console.report(
        ("feature set", "inputs", "known", "rows read", "written", "online"),
        [
            (r.feature_set, r.inputs, r.known_inputs, r.rows_read, r.rows_written, r.rows_online)
            for r in reports
        ],
    )
    for report in reports:
        for reason, number in report.counts.items():
            session.console.warn(f"{report.feature_set}: {number:,} × {reason}")
        for line in _found(report):
            session.console.warn(f"{report.feature_set}: {line}")


@verb(_PANEL)
def materialize(
    session: Session,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Feature sets or sources; all for all.")
    ],
) -> None:
    """Fill a new generation of online values from the offline store; it serves once it is level."""
    filled: list[dict[str, Any]] = []
    sets = session.store.catalog.live_sets()
    for name in [p.name for p in sets if p.online] if names == ["all"] else names:
        with session.console.progress(f"materialize {name}", _offline_rows(session, name)) as advance:
            done = session.store.materialize(name, progress=advance)
        filled += [{"name": name, "rows": item.rows, "duplicates": item.duplicates} for item in done]
    if session.console.json:
        session.console.data({"materialized": filled})
    session.console.report(("name", "rows", "duplicates"), [tuple(item.values()) for item in filled])


@verb(_PANEL)
def compact(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="A feature set; default, every table.")] = None,
) -> None:
    """Rewrite closed days of the offline store into few sorted files."""
    with session.console.progress("compact", unit=""):
        tables = session.store.compact(name)
    if name is not None and not tables:
        raise RequestError(f"'{name}' has no offline table yet.", hint=f"Run: featurestore ingest {name}")
    if session.console.json:
        session.console.data({"compacted": tables})
    counts = list(dict.fromkeys(key for found in tables.values() for key in found))
    session.console.report(
        ("table", *(key.replace("_", " ") for key in counts)),
        [(table, *(found.get(key, 0) for key in counts)) for table, found in tables.items()],
    )


@verb(_PANEL)
def preview(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="SET", help="A declared feature set; it need not be applied.")
    ],
    data: Annotated[Path, typer.Option("--from", metavar="FILE", help="Raw rows of its source.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows of the file.")] = 10,
) -> None:
    """Show what a feature set makes of some rows; nothing is stored."""
    result = session.store.preview(name, read_raw_rows(data, rows))
    features, rejected = result.features, result.rejected
    if session.console.json:
        refused = rejected.select("code", "message").to_dicts()
        told = {"counts": result.counts, "checks": result.checks}
        session.console.data({"rows": features.to_dicts(), "rejected": refused, **told})
    records = features.to_dicts()
    if records and len(features.columns) > 6:  # wide: a feature a line reads better than one a column
        heads = [f"row {number}" for number in range(1, len(records) + 1)]
        session.console.table(("feature", *heads), [(c, *(r[c] for r in records)) for c in features.columns])
    else:
        session.console.table(features.columns, [tuple(record.values()) for record in records])
    for code, message in rejected.select("code", "message").iter_rows():
        session.console.warn(f"refused: {code}: {message}")
    for reason, number in result.counts.items():
        session.console.warn(f"{number:,} × {reason}")
    for name, number in result.checks.items():
        if number:
            session.console.warn(f"{number:,} × check {name}")


def _found(report: Any) -> list[str]:
    """Return a line for each check that found rows wrong, and each expectation that was not met."""
    checks = [
        f"{found['failed']:,} × check {name} ({found['severity']})"
        for name, found in report.checks.items()
        if found["failed"]
    ]
    verdicts = [
        f"expectation {found['name']} ({found['severity']}) of {found['input']}: {found['text']}"
        for found in report.expectations
        if not found["is_met"]
    ]
    return checks + verdicts


def _named(session: Session, names: list[str] | None) -> list[str]:
    """Return the names that were given; for none, or for `all`, every set that has a batch half."""
    if names and names != ["all"]:
        return names
    from featurestore.compiler import StepsNotFitted

    found = [plan.name for plan in session.store.catalog.live_sets() if plan.source.batch is not None]
    if not found:
        for waiting in session.store.compiled().unfitted.values():
            if isinstance(waiting, StepsNotFitted):
                raise waiting
        raise RequestError("No applied feature set has a batch source.", hint="Run: featurestore apply")
    return list(dict.fromkeys(found))


def _offline_rows(session: Session, name: str) -> int | None:
    """Return how many offline rows the sets of that name, or of that source, have."""
    total = 0
    for plan in session.store.catalog.live_sets():
        if plan.online and name in (plan.name, plan.source.name):
            table = session.store.environment.rows_table(plan)
            snapshot = table.snapshot()
            total += 0 if snapshot is None else table.rows(snapshot)
    return total or None
