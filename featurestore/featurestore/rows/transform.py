"""Steps, keys and shards: admitted rows to the rows of a feature set's table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import polars as pl

from featurestore.plans import (
    DELETED,
    EVENT_ID,
    EVENT_TIME,
    INGEST_TIME,
    KEY,
    ORDER,
    PARTITION,
    ROW_HASH,
    SEQUENCE,
    SHARD,
    SetPlan,
)
from featurestore.rows.dead_letters import empty, letters, payloads
from featurestore.rows.keys import encode
from featurestore.rows.nulls import absent
from featurestore.steps.frames import REASON, run
from featurestore.steps.plan import lenient


@dataclass(frozen=True)
class Transformed:
    """Rows in the table's layout, dead letters, and counts: rows, rejected, null_key, filtered.

    `checks` has, by the name of each `validate` check, how many rows that found wrong.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    counts: dict[str, int]
    checks: dict[str, int] = field(default_factory=dict)


def transform(plan: SetPlan, rows: pl.DataFrame, *, keep_keyless: bool = False) -> Transformed:
    """Return the set's rows of admitted ones.

    Columns: the plan's, then `__key`, `__shard`, `__event_time`, `__ingest_time`, `__order` where the source
    orders, `__row_hash`, `__event_id` and `__deleted` where the source has them, `__partition`, `__sequence`.
    A row with a null or NaN key belongs to no entity: dropped and counted, unless `keep_keyless`. One whose
    key is none of the entity's type is rejected.
    """
    checks: dict[str, int] = {}
    kept, refused = _stepped(plan, rows, checks)
    filtered = rows.height - _sources(plan, kept) - refused.height
    dead = [_refused(plan, refused)] if refused.height else []
    keys = encode(kept, plan.keys, [key.column for key in plan.keys])
    if keys.uncastable.any():
        bad = kept.filter(keys.uncastable)
        dead.append(_letters(plan, bad, ["bad_key"] * bad.height, _said(plan, bad)))
    belongs = ~absent(keys.key)
    null_key = kept.height - int(belongs.sum()) - int(keys.uncastable.sum())
    out = pl.DataFrame(
        [
            *(kept[column.name] for column in plan.columns),
            keys.key.alias(KEY),
            keys.shard.alias(SHARD),
            *(
                kept[name]
                for name in (EVENT_TIME, INGEST_TIME, ORDER, ROW_HASH, EVENT_ID, DELETED, PARTITION, SEQUENCE)
                if name in kept.columns
            ),
        ]
    )
    kept_rows = ~keys.uncastable if keep_keyless else belongs
    if not kept_rows.all():
        out = out.filter(kept_rows)
    rejected = pl.concat(dead) if dead else empty()
    counts = {"rows": out.height, "rejected": rejected.height, "null_key": null_key, "filtered": filtered}
    return Transformed(out, rejected, counts, checks)


def _sources(plan: SetPlan, kept: pl.DataFrame) -> int:
    """Return how many source rows the kept ones are of."""
    return kept.select(PARTITION, SEQUENCE).n_unique() if plan.steps.explodes else kept.height


def _stepped(plan: SetPlan, rows: pl.DataFrame, checks: dict[str, int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that the steps keep and those that they reject, and count what checks find.

    Of a deletion only the keys are read, so no other step holds it back.
    """
    if DELETED not in rows.columns or not rows[DELETED].any():
        return run(plan.steps, rows, checks)
    ops = lenient(plan.steps.ops, [key.column for key in plan.keys])
    parts = [
        run(plan.steps, rows.filter(~rows[DELETED]), checks),
        run(replace(plan.steps, ops=ops), rows.filter(rows[DELETED])),
    ]
    kept, refused = (pl.concat(frames) for frames in zip(*parts, strict=True))
    return kept.sort(PARTITION, SEQUENCE), refused.sort(PARTITION, SEQUENCE)


def _refused(plan: SetPlan, rows: pl.DataFrame) -> pl.DataFrame:
    """Return dead letters of rows that a step refused, each with its reason as "code: text"."""
    reasons = [reason.partition(": ") for reason in rows[REASON]]
    return _letters(plan, rows, [code for code, _, _ in reasons], [text or code for code, _, text in reasons])


def _letters(plan: SetPlan, rows: pl.DataFrame, codes: list[str], messages: list[str]) -> pl.DataFrame:
    data = payloads(rows, [field.name for field in plan.source.schema])
    return letters(plan.source.name, plan.name, rows, rows[INGEST_TIME], codes, messages, data)


def _said(plan: SetPlan, rows: pl.DataFrame) -> list[str]:
    columns = [key.column for key in plan.keys]
    wanted = ", ".join(f"{key.column}: {key.type}" for key in plan.keys)
    shown = rows.select(pl.col(name).cast(pl.String) for name in columns).iter_rows()
    return [f"key {values} does not fit {wanted}" for values in shown]
