"""The algebra of aggregations: states made from rows, merged in order, finished into values."""

from featurestore.aggregates.functions import (
    FUNCTIONS,
    Function,
    Parameters,
    carrier,
    function_names,
    plain_array,
    plain_values,
    result_type,
    told,
)

__all__ = [
    "FUNCTIONS",
    "Function",
    "Parameters",
    "carrier",
    "function_names",
    "plain_array",
    "plain_values",
    "result_type",
    "told",
]
