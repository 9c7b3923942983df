"""The verb that runs a project's own cases: test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli import failures
from featurestore.cli.application import verb
from featurestore.cli.session import Session
from featurestore.cli.values import cell
from featurestore.errors import SpecError, UnknownName

if TYPE_CHECKING:
    from featurestore.cases import CaseReport, CaseResult


@verb("Declare", "test")
def run_cases(
    session: Session,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Cases, sets or vectors; default, all cases."),
    ] = None,
    match: Annotated[
        str | None, typer.Option("--match", "-k", metavar="TEXT", help="Only cases whose name holds it.")
    ] = None,
    redis: Annotated[
        bool,
        typer.Option(
            "--redis",
            help="Online values in Redis: the profile's, under a prefix of its own, or one started.",
        ),
    ] = False,
) -> None:
    """Run the cases that stand beside the specs (tests:) on every engine; exits with 1 where one fails."""
    console = session.console
    try:
        with console.progress("test", unit="cases") as advance:
            report = session.store.test(names or (), match, redis=redis, progress=advance)
    except (SpecError, UnknownName) as error:  # no case ran
        failures.show_error(error, json=console.json)
        raise typer.Exit(failures.USED_WRONGLY) from None
    if console.json:
        console.data(_record(report))
    for case in report:
        _show(session, case)
    if not report.cases:
        none = "There are no cases; write some below tests: in a spec file."
        console.warn(none if match is None else f"There are no cases whose name holds '{match}'.")
    console.line(str(report))
    if not report.passed:
        raise typer.Exit(failures.NO)


def _show(session: Session, case: CaseResult) -> None:
    """Print a line per case, and what differs."""
    console = session.console
    ways = ", ".join(dict.fromkeys(engine.split()[0] for engine in case.engines))
    if case.passed:
        console.say(f"ok    {case.tested}: {case.name}  [{ways}]")
        return
    console.line(f"FAIL  {case.tested}: {case.name}  [{ways}]")
    console.line(f"      {case.where}")
    cells = [
        ("(all)", "", str(item.got), item.engine)
        if item.feature is None
        else (item.feature, cell(item.expected), cell(item.got), item.engine)
        for item in case.mismatches
    ]
    console.table(("feature", "expected", "got", "engine"), cells)
    for reason in case.refused:
        console.line(f"      refused row: {reason}")


def _record(report: CaseReport) -> dict[str, Any]:
    return {
        "cases": [
            {
                "name": case.name,
                "tested": case.tested,
                "where": case.where,
                "passed": case.passed,
                "engines": list(case.engines),
                "mismatches": list(case.mismatches),
                "refused": list(case.refused),
                "seconds": round(case.seconds, 3),
            }
            for case in report
        ],
        "failed": len(report.failed),
    }
