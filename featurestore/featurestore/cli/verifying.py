"""The verb that checks the promise on a user's own data: verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.application import verb
from featurestore.cli.session import Session
from featurestore.cli.values import cell

if TYPE_CHECKING:
    from featurestore.verify import Difference


@verb("Read")
def verify(
    session: Session,
    name: Annotated[
        str | None, typer.Argument(metavar="[SET|VECTOR]", help="A set or a vector; default, all of them.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many rows to compare, of each.")] = 1000,
    seed: Annotated[int, typer.Option(help="Which rows: the same seed picks the same.")] = 0,
) -> None:
    """Compare online values with offline ones; exits with 1 where any differ, or none could be compared."""
    console = session.console
    with console.progress(f"verify {name or 'everything'}", unit=""):
        result = session.store.verify(name, sample, seed)
    if console.json:
        console.data(
            {
                "compared": result.compared,
                "differ": result.differ,
                "largest_deviation": result.largest_deviation,
                "entities": result.entities,
                "instants": result.instants,
                "differences": result.differences,
                "skipped": result.skipped,
            }
        )
    for difference in result.differences:
        _show(session, difference)
    if result.differ > len(result.differences):
        console.line(f"… and {result.differ - len(result.differences):,} values more that differ")
    for reason in result.skipped:
        console.warn(f"skipped: {reason}")
    console.say(f"{result.entities:,} entities, {result.instants:,} instants")
    console.say(f"largest deviation of a float: {result.largest_deviation!r}")
    console.line(str(result))
    if not result.is_equal or not result.compared:
        raise typer.Exit(1)


def _show(session: Session, found: Difference) -> None:
    """Print a cell that differs, and the rows that its value comes from."""
    keys = ", ".join(f"{name}={cell(value)}" for name, value in found.row.items())
    session.console.line(f"{found.vector}: {found.feature} of {keys} at {found.instant}")
    session.console.line(f"  offline {cell(found.offline)}")
    session.console.line(f"  online  {cell(found.online)}")
    if found.rows:
        columns = list(found.rows[0])
        session.console.table(columns, [tuple(row.values()) for row in found.rows])
