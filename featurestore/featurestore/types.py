"""The data types of columns and features, and what they are called in Arrow, Polars and numpy."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    import polars
    import pyarrow

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float32", "float64")
_PLAIN = (*_INTEGERS, *_FLOATS, "bool", "string", "binary", "date", "timestamp", "json")
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)$")
_LIST = re.compile(r"list<(.+)>$")
_VECTOR = re.compile(r"vector<\s*(float32|float64)\s*,\s*(\d+)\s*>$")
_WIDEST = 65_536
_MAP = re.compile(r"map<([^<>]+),\s*(.+)>$")


@dataclass(frozen=True)
class DataType:
    """A column's type: `int64`, `float64`, `string`, `timestamp`, `decimal(p,s)`, `list<item>` …

    `timestamp` is UTC microseconds; `date` is days. Text is unicode, counted in code points. `vector<item,n>`
    is n floats, none of them null: `size` is n. `json` is one document as canonical text
    (`featurestore.json_documents`). `map<key,item>`, a dictionary in ascending order of its keys, is the type
    of features only: no column has it.
    """

    name: str
    item: DataType | None = None
    precision: int = 0
    scale: int = 0
    size: int = 0
    key: DataType | None = None

    @staticmethod
    @functools.cache
    def parse(text: str) -> DataType:
        """Return the type that `text` names. Raises SpecError with the nearest name."""
        text = text.strip()
        if text in _PLAIN:
            return DataType(text)
        if match := _DECIMAL.match(text):
            precision, scale = int(match[1]), int(match[2])
            if not 1 <= precision <= 38 or scale > precision:
                raise SpecError(f"{text} is no decimal type: precision is 1 to 38, scale at most that.")
            return DataType("decimal", precision=precision, scale=scale)
        if match := _LIST.match(text):
            return DataType("list", item=DataType.parse(match[1]))
        if match := _VECTOR.match(text):
            if not 1 <= (size := int(match[2])) <= _WIDEST:
                raise SpecError(f"{text} is no vector type: it has 1 to {_WIDEST} items.")
            return DataType("vector", item=DataType(match[1]), size=size)
        if text.startswith("vector"):
            raise SpecError(f"'{text}' is no type.", hint="Write vector<float32,n> or vector<float64,n>.")
        if text.startswith("map<"):
            raise SpecError(f"{text} is the type of features only, no column's.")
        raise SpecError(
            f"'{text}' is no type.",
            hint=did_you_mean(text, [*_PLAIN, "decimal(p,s)", "list<…>", "vector<float32,n>"]),
        )

    @staticmethod
    def parse_feature(text: str) -> DataType:
        """Return the type of a feature: what `parse` takes, or a map."""
        if match := _MAP.match(text):
            return DataType("map", key=DataType.parse(match[1]), item=DataType.parse(match[2]))
        return DataType.parse(text)

    def __str__(self) -> str:
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.name == "list":
            return f"list<{self.item}>"
        if self.name == "vector":
            return f"vector<{self.item},{self.size}>"
        if self.name == "map":
            return f"map<{self.key},{self.item}>"
        return self.name

    @property
    def is_integer(self) -> bool:
        """Whether values are whole numbers of fixed width."""
        return self.name in _INTEGERS

    @property
    def is_float(self) -> bool:
        """Whether values are binary floating point."""
        return self.name in _FLOATS

    @property
    def is_number(self) -> bool:
        """Whether arithmetic applies: integers, floats, decimals."""
        return self.is_integer or self.is_float or self.name == "decimal"

    @property
    def holds_decimals(self) -> bool:
        """Whether values are decimals, or lists of them."""
        return self.name == "decimal" or (self.item is not None and self.item.holds_decimals)

    @property
    def is_nested(self) -> bool:
        """Whether a value is made of others: lists and maps."""
        return self.item is not None

    @property
    def is_key(self) -> bool:
        """Whether an entity's key may have this type."""
        return self.is_integer or self.name in ("string", "binary", "bool", "date", "timestamp")

    def arrow(self) -> pyarrow.DataType:
        """Return the Arrow type."""
        import pyarrow as pa

        if self.name == "decimal":
            return pa.decimal128(self.precision, self.scale)
        if self.name == "list":
            assert self.item is not None
            return pa.list_(self.item.arrow())
        if self.name == "vector":
            assert self.item is not None
            return pa.list_(self.item.arrow(), self.size)
        if self.name == "map":
            assert self.key is not None
            assert self.item is not None
            return pa.map_(self.key.arrow(), self.item.arrow())
        if self.name == "timestamp":
            return pa.timestamp("us", "UTC")
        named = {"bool": "bool_", "date": "date32", "json": "string"}
        made: pyarrow.DataType = getattr(pa, named.get(self.name, self.name))()
        return made

    def polars(self) -> polars.DataType:
        """Return the Polars type; a map is a list of its entries."""
        import polars as pl

        if self.name == "decimal":
            return pl.Decimal(self.precision, self.scale)
        if self.name == "list":
            assert self.item is not None
            return pl.List(self.item.polars())
        if self.name == "vector":
            assert self.item is not None
            return pl.Array(self.item.polars(), self.size)
        if self.name == "map":
            assert self.key is not None
            assert self.item is not None
            return pl.List(pl.Struct({"key": self.key.polars(), "value": self.item.polars()}))
        if self.name == "timestamp":
            return pl.Datetime("us", "UTC")
        name = {"bool": "Boolean", "json": "String"}.get(
            self.name, self.name.capitalize().replace("Uint", "UInt")
        )
        made: polars.DataType = getattr(pl, name)()
        return made


BOOL = DataType("bool")
INT8 = DataType("int8")
INT64 = DataType("int64")
FLOAT64 = DataType("float64")
STRING = DataType("string")
DATE = DataType("date")
TIMESTAMP = DataType("timestamp")
JSON = DataType("json")


@dataclass(frozen=True)
class Field:
    """A named column of a known type."""

    name: str
    type: DataType


def integer_bounds(kind: DataType) -> tuple[int, int]:
    """Return the least and the greatest value of an integer type."""
    bits = int(kind.name.lstrip("uint"))
    return (0, 2**bits - 1) if kind.name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
