"""Compares generated cases by the thousand: `python tests/conformance/generate.py --cases 200000 --seed 1`.

A case is one log of one or two entities, a feature set, and instants: the online vectors, the training rows
(as known and not), with a base row and without, and the state after another order of arrival, all against
the oracle. Cases have numbers: the same seed and number are the same case on every machine (`--case N` runs
one). The first counterexample is made smaller, printed, and ends the run with exit status 1; Ctrl-C ends it
early with what was done so far. `--report PAGE` writes the result into a page's table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from conformance.comparison import CASES, Block, Difference
from conformance.drawing import Case

from featurestore.errors import FeatureStoreError

BEGIN, END = "<!-- generated cases: begin -->", "<!-- generated cases: end -->"


@dataclass
class Run:
    """What a run has done so far."""

    seed: int
    cases: int = 0
    values: int = 0
    seconds: float = 0.0
    sets: int = 0
    functions: Counter[str] = field(default_factory=Counter)

    def add(self, block: Block, values: int) -> None:
        """Count a block."""
        self.cases += len(block.cases)
        self.values += values
        self.sets += 1
        for document in block.documents:
            for aggregation in document.get("aggregations", ()):
                self.functions.update(aggregation["functions"])

    def __str__(self) -> str:
        """Return the counts in words."""
        return (
            f"{self.cases:,} cases of {self.sets:,} feature sets, {self.values:,} values compared,"
            f" in {self.seconds:,.0f} s ({self.cases / max(self.seconds, 1e-9):,.0f} cases/s)"
        )


def run(
    seed: int, first: int, cases: int, tell: Callable[[Run], None]
) -> tuple[Run, Block | None, list[Difference]]:
    """Compare cases; return the counts and, where some differ, their block and what differs."""
    done, start = Run(seed), time.monotonic()
    try:
        for number in range(first // CASES, -(-(first + cases) // CASES)):
            block = Block.draw(seed, number)
            differences, values = checked(block)
            done.add(block, values)
            done.seconds = time.monotonic() - start
            if differences:
                return done, block, differences
            tell(done)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return done, None, []


def checked(block: Block) -> tuple[list[Difference], int]:
    """Return what differs; an error that a block raises is a difference of its first case with rows."""
    try:
        return block.check()
    except (FeatureStoreError, ArithmeticError, LookupError, ValueError, TypeError, AssertionError) as error:
        return [
            Difference(_culprit(block, type(error)), "raised", type(error).__name__, "error", None, error)
        ], 0


def _culprit(block: Block, kind: type[Exception]) -> int:
    for number in range(len(block.cases)):
        try:
            block.only(number).check()
        except kind:
            return number
    return 0


def smaller(block: Block, differences: list[Difference]) -> tuple[Block, list[Difference], int]:
    """Return a block that still differs, as small as it gets, what differs in it, and the case."""
    best, found, case = block, differences, differences[0].case
    for candidate in dict.fromkeys(difference.case for difference in differences):
        alone = checked(block.only(candidate))[0]
        if alone:  # and not only in the company of others
            best, found, case = block.only(candidate), alone, candidate
            break
    shrunk = True
    while shrunk:
        shrunk = False
        for candidate in _less(best, case):
            differences = checked(candidate)[0]
            if differences and (differences[0].reading == "raised") == (found[0].reading == "raised"):
                best, found, shrunk = candidate, differences, True
                break
    return best, found, found[0].case


def _less(block: Block, case: int) -> Iterator[Block]:
    def with_case(changed: Case) -> Block:
        return replace(block, cases=tuple(changed if n == case else c for n, c in enumerate(block.cases)))

    def with_set(**changed: Any) -> Block:
        documents = [
            {name: value for name, value in {**d, **changed}.items() if value is not None}
            if d["kind"] == "FeatureSet"
            else d
            for d in block.documents
        ]
        return replace(block, documents=documents)

    others = [n for n, c in enumerate(block.cases) if n != case and c != Case((), (), ())]
    for left_out in (others[: len(others) // 2], others[len(others) // 2 :], *([n] for n in others)):
        if left_out:
            kept = (Case((), (), ()) if n in left_out else c for n, c in enumerate(block.cases))
            yield replace(block, cases=tuple(kept))
    given = block.cases[case]
    made = next(d for d in block.documents if d["kind"] == "FeatureSet")
    for name in ("asked", "bases", "rows"):
        items = getattr(given, name)
        for half in (items[: len(items) // 2], items[len(items) // 2 :]):
            if len(half) < len(items):
                yield with_case(replace(given, **{name: half}))
        for number in range(len(items)):
            yield with_case(replace(given, **{name: items[:number] + items[number + 1 :]}))
    several = made["aggregations"]
    for number, aggregation in enumerate(several):
        if len(several) > 1:
            yield with_set(aggregations=several[:number] + several[number + 1 :])
        for part in ("functions", "windows"):
            if len(aggregation[part]) > 1:
                for item in aggregation[part]:
                    less = {**aggregation, part: [item]}
                    yield with_set(aggregations=[*several[:number], less, *several[number + 1 :]])
        for part in ("where", "closed", "granularity", "offset"):
            if part in aggregation:
                less = {key: value for key, value in aggregation.items() if key != part}
                yield with_set(aggregations=[*several[:number], less, *several[number + 1 :]])
    source = next(d for d in block.documents if d["kind"] == "Source")
    if "deleted" in source:
        less = {key: value for key, value in source.items() if key != "deleted"}
        yield replace(block, documents=[less if d is source else d for d in block.documents])
    for part in ("ttl", "closed"):
        if part in made:
            yield with_set(**{part: None})
    if len(made["steps"]) > 1:
        yield with_set(steps=made["steps"][-1:])
    if block.leaf_rows != 512:
        yield replace(block, leaf_rows=512)


def describe(block: Block, differences: list[Difference], seed: int, case: int) -> str:
    """Return a counterexample as text: the declarations, the rows, and what differs."""
    lines = [f"case {case} of seed {seed} (leaves of {block.leaf_rows} rows):"]
    lines += [f"  {document}" for document in block.documents if document["kind"] in ("Source", "FeatureSet")]
    lines += [f"  row {row}" for row in block.cases[case % CASES].rows]
    others = [row for n, given in enumerate(block.cases) if n != case % CASES for row in given.rows]
    lines += [f"  beside it {row}" for row in others[:10]]
    lines += [f"  {difference}" for difference in differences[:5]]
    again = f"python tests/conformance/generate.py --seed {seed} --case {case}"
    return "\n".join([*lines, f"again: {again}"])


def report(page: Path, command: str, done: Run, counterexamples: int) -> None:
    """Write the result between the page's two marks."""
    text = page.read_text()
    functions = ", ".join(f"`{name}` {count:,}" for name, count in sorted(done.functions.items()))
    table = "\n".join(
        [
            BEGIN,
            "",
            "| | |",
            "|---|---|",
            f"| command | `{command}` |",
            f"| seed | {done.seed} |",
            f"| cases | {done.cases:,} |",
            f"| feature sets | {done.sets:,} |",
            f"| values compared | {done.values:,} |",
            f"| seconds, on one core | {done.seconds:,.0f} |",
            f"| **counterexamples** | **{counterexamples}** |",
            f"| declarations of each function | {functions} |",
            "",
            END,
        ]
    )
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(head + table + tail)


def main(arguments: list[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    parser.add_argument("--case", type=int, help="run this case alone")
    parser.add_argument("--report", type=Path, help="the page to write the result into")
    given = parser.parse_args(arguments)
    if given.case is not None:
        block = Block.draw(given.seed, given.case // CASES).only(given.case % CASES)
        differences, values = checked(block)
        print(describe(block, differences, given.seed, given.case))
        print(f"{values} values compared, {len(differences)} differ")
        return 1 if differences else 0
    told = [time.monotonic()]

    def tell(done: Run) -> None:
        if time.monotonic() - told[0] > 10:
            told[0] = time.monotonic()
            print(done, file=sys.stderr, flush=True)

    done, block_, differences = run(given.seed, given.first, given.cases, tell)
    print(done)
    if block_ is not None:
        least, differences, number = smaller(block_, differences)
        case = given.first // CASES * CASES + done.cases - len(block_.cases) + number
        print(describe(least, differences, given.seed, case))
    if given.report is not None:
        command = f"python tests/conformance/generate.py --cases {given.cases} --seed {given.seed}"
        report(given.report, command, done, int(block_ is not None))
    return 0 if block_ is None else 1


if __name__ == "__main__":
    sys.exit(main())
