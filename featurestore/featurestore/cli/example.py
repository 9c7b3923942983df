"""The files of a new project: settings, example specs, and rows that end at the present."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from featurestore.instants import DAY, HOUR, MINUTE, format_instant

_CUSTOMERS = tuple(f"C{number}" for number in range(1, 13))
_PRODUCTS = {"bread": 3.2, "coffee": 8.9, "olives": 5.5, "cheese": 12.4, "wine": 18.0}
_ORDERS, _NEW_ORDERS, _QUESTIONS = 300, 5, 20
_DAYS = 14

_SETTINGS = """\
# yaml-language-server: $schema=schema/project.json
project: {project}
registry: sqlite:///.featurestore/registry.db
offline: {{kind: delta, path: .featurestore/offline}}
# No servers are needed: SQLite serves, and a folder is the broker.
online: {{kind: sqlite, path: .featurestore/online.db}}
stream: {{kind: log, path: .featurestore/log}}
# featurestore --profile production …, or FEATURESTORE_PROFILE=production
profiles:
  production:
    online: {{kind: redis, url: "${{REDIS_URL:-redis://localhost:6379}}"}}
    stream: {{kind: kafka, brokers: "${{KAFKA_BROKERS:-localhost:9092}}"}}
"""

_ENTITIES = """\
# yaml-language-server: $schema=schema/spec.json
kind: Entity
name: customer
type: string
description: Who orders.
"""

_SOURCES = """\
# yaml-language-server: $schema=schema/spec.json
kind: Source
name: orders
description: What was ordered. History lies in a file; new orders arrive in a stream.
event_time: ordered_at
# An order that is sent twice, or that is in the file and in the stream, counts once.
event_id: order_id
schema:
  order_id: string
  customer: string
  product: string
  amount: float64
  ordered_at: timestamp
batch: {kind: csv, path: data/orders.csv}
stream: {topic: orders}
"""

_SETS = """\
# yaml-language-server: $schema=schema/spec.json
kind: FeatureSet
name: spending
description: What a customer bought last, and before.
entities: [customer]
source: orders
history: all
steps:
  - date_parts: {column: ordered_at, parts: [hour]}
  - derive: {log_amount: "ln(amount + 1)"}
  - select: [product, amount, log_amount, ordered_at_hour]
aggregations:
  - {column: amount, functions: [sum, avg, max], windows: [1d, 7d]}
  - {functions: [count], windows: [1d, 7d]}
  - {column: amount, where: "product = 'wine'", name: wine, functions: [sum], windows: [7d]}
"""

_VECTORS = """\
# yaml-language-server: $schema=schema/spec.json
kind: FeatureVector
name: customer-spending
description: A customer at any instant, the same for training and for serving.
features:
  - spending.product as last_product
  - spending.amount as last_amount
  - spending.amount_sum_1d
  - spending.amount_sum_7d
  - spending.amount_avg_7d
  - spending.count_7d
  - spending.wine_sum_7d
derive:
  day_share: "spending.amount_sum_1d / spending.amount_sum_7d"
impute: {day_share: 0}
"""

_CASES = """\
# yaml-language-server: $schema=schema/spec.json
# Run: featurestore test
tests:
  - name: what is a day old no longer counts
    vector: customer-spending
    rows:
      orders:
        - {order_id: A, customer: C1, product: wine, amount: 18.0, ordered_at: "2026-03-01T10:00:00Z"}
        - {order_id: B, customer: C1, product: bread, amount: 2.0, ordered_at: "2026-03-02T09:00:00Z"}
    at: 2026-03-02T10:00:00Z
    expect: {last_product: bread, amount_sum_1d: 2.0, amount_sum_7d: 20.0, wine_sum_7d: 18.0, day_share: 0.1}
  - name: an order that is sent twice counts once
    set: spending
    rows:
      orders:
        - {order_id: A, customer: C1, product: wine, amount: 18.0, ordered_at: "2026-03-01T10:00:00Z"}
        - {order_id: A, customer: C1, product: wine, amount: 18.0, ordered_at: "2026-03-01T10:00:00Z"}
    at: 2026-03-01T10:00:00Z
    expect: {product: wine, ordered_at_hour: 10, count_1d: 1, amount_sum_1d: 18.0}
  - name: a customer who never ordered
    vector: customer-spending
    at: 2026-03-01T10:00:00Z
    request: {customer: C9}
    expect: {last_product: null, amount_sum_7d: 0.0, amount_avg_7d: null, count_7d: 0, day_share: 0}
"""


def spec_files(project: str, example: bool) -> dict[str, str]:
    """Return the text files of a project by their paths: the settings, and the example's declarations."""
    files = {"featurestore.yaml": _SETTINGS.format(project=project), ".gitignore": ".featurestore/\n"}
    if example:
        files |= {
            "entities.yaml": _ENTITIES,
            "sources.yaml": _SOURCES,
            "feature_sets.yaml": _SETS,
            "vectors.yaml": _VECTORS,
            "tests.yaml": _CASES,
        }
    return files


def data_files(now: int) -> dict[str, str]:
    """Return the example's rows by their paths: orders of the two weeks before `now`, and what to ask."""
    chance = random.Random(7)
    times = sorted(now - HOUR - chance.randrange(_DAYS * DAY) for _ in range(_ORDERS - 1))
    times.append(now - HOUR)  # whoever looks at once finds a customer who ordered just before
    customers = [chance.choice(_CUSTOMERS) for _ in times[:-1]] + [_CUSTOMERS[0]]
    orders = [
        _order(chance, f"O{n:05}", who, t) for n, (who, t) in enumerate(zip(customers, times, strict=True))
    ]
    new = [
        _order(chance, f"O{_ORDERS + n:05}", _CUSTOMERS[n % 3], now - (_NEW_ORDERS - n) * MINUTE)
        for n in range(_NEW_ORDERS)
    ]
    asked = [(chance.choice(_CUSTOMERS), now - chance.randrange(7 * DAY)) for _ in range(_QUESTIONS)]
    return {
        "data/orders.csv": _csv(list(orders[0]), [tuple(o.values()) for o in orders]),
        "data/customers.csv": _csv(
            ["customer", "event_timestamp"], [(who, format_instant(t)) for who, t in asked]
        ),
        "data/new_orders.ndjson": "".join(json.dumps(order) + "\n" for order in new),
    }


def _order(chance: random.Random, order: str, customer: str, t: int) -> dict[str, str | float]:
    product, price = chance.choice(list(_PRODUCTS.items()))
    amount = round(price * chance.choice((1, 1, 2, 3)), 2)
    return {
        "order_id": order,
        "customer": customer,
        "product": product,
        "amount": amount,
        "ordered_at": format_instant(t),
    }


def _csv(header: list[str], rows: Sequence[tuple[str | float, ...]]) -> str:
    return "".join(",".join(str(value) for value in row) + "\n" for row in [tuple(header), *rows])
