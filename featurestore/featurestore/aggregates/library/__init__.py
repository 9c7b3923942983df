"""The aggregation functions, by what they look at."""
