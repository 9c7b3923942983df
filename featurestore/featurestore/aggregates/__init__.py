"""The algebra of aggregations: states made from rows, merged in order, finished into values."""

from featurestore.aggregates.functions import (
    FUNCTIONS,
    Function,
    carrier,
    function_names,
    plain_values,
    result_type,
)

__all__ = ["FUNCTIONS", "Function", "carrier", "function_names", "plain_values", "result_type"]
